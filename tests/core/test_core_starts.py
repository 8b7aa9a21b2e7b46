"""Where attacks start, and which of their iterates is kept."""

import pytest
import torch
from tests.core.helpers import LinearClassifier, generator
from torch import nn

from rwp.core import ThreatModel, pgd
from rwp.core.geometry import NormBall, random_point

LINF, L2 = ThreatModel("linf", 0.25), ThreatModel("l2", 0.75)
GRAY = torch.full((400, 1, 4, 4), 0.5, dtype=torch.float64)


def quantiles(values):
    """Of the values, at 1, 25, 50, 75 and 99 percent."""
    steps = torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99], dtype=values.dtype)
    return torch.quantile(values.flatten(), steps).tolist()


def drawn(threat, kind):
    return random_point(NormBall(GRAY, threat), kind, generator()) - GRAY


def test_the_uniform_start_fills_the_cube_on_both_sides():
    delta = drawn(LINF, "uniform")
    assert quantiles(delta) == pytest.approx([-0.245, -0.125, 0, 0.125, 0.245], abs=0.01)


def test_the_uniform_l2_start_has_a_uniform_length_and_no_preferred_direction():
    delta = drawn(L2, "uniform")
    lengths = delta.flatten(1).norm(dim=1)
    expected = [0.0075, 0.1875, 0.375, 0.5625, 0.7425]
    assert quantiles(lengths) == pytest.approx(expected, abs=0.05)
    directions = delta.flatten(1) / lengths[:, None]
    assert directions.mean(dim=0).abs().max() < 0.05  # 4 standard errors
    assert directions.var(dim=0).tolist() == pytest.approx([1 / 16] * 16, rel=0.3)


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
def test_the_gaussian_start_is_normal_noise_of_one_thousandth(threat):
    delta = drawn(threat, "gaussian")
    expected = [-0.002326, -0.000674, 0, 0.000674, 0.002326]
    assert quantiles(delta) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
def test_the_off_ball_start_is_half_a_pixel_wide_whatever_the_ball(threat):
    delta = drawn(threat, "off_ball")
    assert quantiles(delta) == pytest.approx([-0.49, -0.25, 0, 0.25, 0.49], abs=0.02)


def test_starts_are_drawn_anew_for_each_restart():
    model = LinearClassifier(torch.zeros(2, 16).double(), torch.tensor([1.0, 0.0]).double())
    labels = torch.zeros(400, dtype=torch.int64)
    visited = []

    def loss(logits, labels):
        return logits[:, 0] * 0

    model.register_forward_pre_hook(lambda _, inputs: visited.append(inputs[0].detach().clone()))
    options = {"threat": LINF, "step_size": 0.1, "num_steps": 1, "generator": generator()}
    pgd(model, GRAY, labels, loss=loss, num_restarts=2, **options)
    assert len(visited) == 4  # a step and a last look, twice
    assert not torch.equal(visited[0], visited[2])


class Band(nn.Module):
    """Logits of one pixel that is misclassified within a band, and of class 0 outside it."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, images):
        pixel = images.flatten(1)[:, :1]
        inside = ((pixel > self.low) & (pixel < self.high)).to(pixel.dtype)
        # The second logit decides, the third carries the gradient.
        return torch.cat([torch.zeros_like(pixel), 2 * inside - 1, pixel - 10], dim=1)


def brightness(logits, labels):
    """A loss that grows with the pixel, whether the image is misclassified or not."""
    return logits[:, 2]


@pytest.mark.parametrize(
    ("band", "keep", "num_restarts", "expected"),
    [
        ((0.55, 0.60), "worst", 1, 0.59),  # the brightest of the misclassified ones
        ((0.55, 0.60), "last", 1, 0.62),
        ((0.51, 0.54), "worst", 1, 0.53),
        ((0.49, 0.51), "worst", 1, 0.50),  # the start itself
        ((0.61, 0.63), "worst", 1, 0.62),  # the last iterate, which no step looks at
        ((0.90, 0.91), "worst", 1, 0.62),  # none is misclassified: the largest loss
        ((0.55, 0.60), "worst", 2, 0.59),
        ((0.55, 0.60), "last", 2, 0.62),  # of the last iterates of the runs
    ],
)
def test_a_misclassified_iterate_is_worth_more_than_a_larger_loss(
    band, keep, num_restarts, expected
):
    image, label = torch.full((1, 1, 1, 1), 0.5).double(), torch.zeros(1, dtype=torch.int64)
    found = pgd(
        Band(*band),
        image,
        label,
        threat=LINF,
        step_size=0.03,
        num_steps=4,
        loss=brightness,
        random_start="none",
        keep=keep,
        num_restarts=num_restarts,
    )
    assert float(found) == pytest.approx(expected)


def test_the_worst_of_two_runs_is_chosen_image_by_image():
    """One image is fooled in the first run alone, the other in the second alone."""
    starts = iter([torch.tensor([0.1, -0.1]), torch.tensor([-0.1, 0.1])])
    images, labels = torch.full((2, 1, 1, 1), 0.5).double(), torch.zeros(2, dtype=torch.int64)

    def starting_point(ball, *_, **__):
        return ball.center + next(starts).view(2, 1, 1, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rwp.core.attacks.starting_point", starting_point)
        found = pgd(
            Band(0.62, 0.65),
            images,
            labels,
            threat=LINF,
            step_size=0.03,
            num_steps=1,
            loss=brightness,
            generator=generator(),
            num_restarts=2,
        )
    assert found.flatten().tolist() == pytest.approx([0.63, 0.63])
