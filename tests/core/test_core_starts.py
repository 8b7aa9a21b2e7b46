"""Where attacks start: the laws that the published programs draw from, measured on many draws."""

import torch
from scipy import stats

from rwp.core.geometry import NormBall, random_point
from rwp.core.threat import ThreatModel

COUNT = 400


def drawn(kind: str, norm: str, epsilon: float) -> torch.Tensor:
    """Start minus image, of images in the middle of [0, 1], where nothing is cut off."""
    images = torch.full((COUNT, 3, 4, 4), 0.5, dtype=torch.float64)
    ball = NormBall(images, ThreatModel(norm, epsilon))
    start = random_point(ball, kind, torch.Generator().manual_seed(5))
    return (start - images).flatten(1)


def assert_uniform(values: torch.Tensor, low: float, high: float) -> None:
    law = stats.uniform(low, high - low)
    assert stats.kstest(values.flatten().numpy(), law.cdf).pvalue > 1e-3


def test_linf_starts_fill_the_box_evenly() -> None:
    assert_uniform(drawn("uniform", "linf", 0.03), -0.03, 0.03)


def test_l2_starts_have_even_lengths_and_any_direction() -> None:
    delta = drawn("uniform", "l2", 0.4)
    lengths = torch.linalg.vector_norm(delta, dim=1)
    assert_uniform(lengths, 0, 0.4)
    directions = delta / lengths.unsqueeze(1)
    assert float(directions.mean(dim=0).abs().max()) < 4 / (delta.shape[1] * COUNT) ** 0.5


def test_trades_starts_a_thousandth_of_normal_noise_away() -> None:
    values = drawn("gaussian", "linf", 0.03).flatten().numpy()
    assert stats.kstest(values, stats.norm(0, 0.001).cdf).pvalue > 1e-3


def test_off_ball_starts_are_half_of_the_range_away() -> None:
    assert_uniform(drawn("off_ball", "l2", 0.4), -0.5, 0.5)


def test_off_ball_starts_are_images() -> None:
    draws = [torch.Generator().manual_seed(seed) for seed in (0, 5, 5)]
    images = torch.rand(4, 3, 4, 4, dtype=torch.float64, generator=draws[0])
    noise = torch.empty_like(images).uniform_(-1, 1, generator=draws[1])
    ball = NormBall(images, ThreatModel("l2", 0.4))
    start = random_point(ball, "off_ball", draws[2])
    assert torch.equal(start, (images + 0.5 * noise).clamp(0, 1))
