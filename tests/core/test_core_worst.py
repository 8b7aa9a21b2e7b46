"""What is kept of several points: a misclassified one first, then the one of largest loss."""

import pytest
import torch
from torch import Tensor, nn

from rwp.core import ThreatModel, make_objective, pgd
from rwp.core.geometry import NormBall
from rwp.core.losses import cross_entropy
from rwp.core.threat import Norm

THREAT = ThreatModel("linf", 0.05)


class Case:
    """A linear model, images near its borders, and a loss that does not know what is right."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(2)
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).double()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)
        self.images = torch.rand(60, 3, 4, 4, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            self.labels = self.model(self.images).argmax(dim=1)
        self.options = {"threat": THREAT, "step_size": 0.02, "loss": lambda logits, _: logits[:, 0]}

    def kept(self, points: list[Tensor], *, by_loss_alone: bool = False) -> Tensor:
        """The points to keep, one example after another."""
        found = []
        for place, label in enumerate(self.labels):
            with torch.no_grad():
                logits = [self.model(point[place : place + 1])[0] for point in points]
            keys = [
                (not by_loss_alone and bool(row.argmax() != label), float(row[0])) for row in logits
            ]
            found.append(points[keys.index(max(keys))][place])
        return torch.stack(found)

    def assert_kept(self, found: Tensor, points: list[Tensor]) -> None:
        """Also where it is neither the last point nor that of the largest loss."""
        expected = self.kept(points)
        assert torch.equal(found, expected)
        assert not torch.equal(expected, points[-1])
        assert not torch.equal(expected, points[0])
        assert not torch.equal(expected, self.kept(points, by_loss_alone=True))


def test_of_several_restarts() -> None:
    case, shared = Case(), torch.Generator().manual_seed(3)
    runs = [
        pgd(case.model, case.images, case.labels, num_steps=1, generator=shared, **case.options)
        for _ in range(4)
    ]
    found = pgd(
        case.model,
        case.images,
        case.labels,
        num_steps=1,
        num_restarts=4,
        generator=torch.Generator().manual_seed(3),
        **case.options,
    )
    case.assert_kept(found, runs)


def test_of_all_points_on_the_way() -> None:
    case = Case()
    noise = torch.rand(case.images.shape, generator=torch.Generator().manual_seed(4)) - 0.5
    start = (case.images + 0.1 * noise).clamp(0, 1)
    points = [start] + [
        pgd(case.model, case.images, case.labels, num_steps=steps, start=start, **case.options)
        for steps in (1, 2, 3, 4)
    ]
    options = {"num_steps": 4, "start": start, "keep": "worst"}
    case.assert_kept(pgd(case.model, case.images, case.labels, **options, **case.options), points)


def test_the_mask_looks_at_the_loss_that_was_chosen() -> None:
    case = Case()
    adversarial = (case.images + 0.04).clamp(0, 1)
    for name in ("trades", "mart"):
        for criterion in ("objective", "adversarial_ce"):
            objective = make_objective(name, beta=2.0, criterion=criterion)
            assert objective.random_start == "gaussian"
            losses = objective.losses(case.model, case.images, adversarial, case.labels)
            plain = cross_entropy(case.model(adversarial), case.labels)
            expected = losses.objective if criterion == "objective" else plain
            torch.testing.assert_close(losses.criterion, expected.detach())
            assert not losses.criterion.requires_grad
            assert not torch.allclose(losses.objective, plain)
    assert make_objective("at").random_start == "uniform"


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [1e-4, 0.1 / 255, 0.5 / 255, 1 / 255, 0.1])
def test_at_small_radii_rounding_throws_no_point_out(norm: Norm, epsilon: float) -> None:
    """In 32 bits a pixel near 1 and a radius below 0.003 add up to a little more or less."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(50, 3, 16, 16, generator=draw)
    gradient = torch.randn(images.shape, generator=draw)
    ball = NormBall(images, ThreatModel(norm, epsilon))
    far = ball.step(images, gradient, 2 * epsilon)
    assert bool(ball.contains(far).all())
    assert bool(ball.contains(images).all())
    beyond = (images + 1.5 * (far - images)).clamp(0, 1)
    assert not bool(ball.contains(beyond).any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{"num_restarts": 5}, {"keep": "worst"}])
def test_the_worst_of_half_precision_is_no_weaker_than_the_last(dtype, options):
    """A pixel at the ball's edge is rounded by more than one of 32 bits, and was thrown away."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval().to(dtype)
    images = torch.rand(12, 3, 8, 8).to(dtype)
    with torch.no_grad():
        labels = model(images).argmax(dim=1)

    def right(**more) -> int:
        found = pgd(
            model,
            images,
            labels,
            threat=ThreatModel("linf", 8 / 255),
            step_size=2 / 255,
            num_steps=10,
            generator=torch.Generator().manual_seed(0),
            **more,
        )
        with torch.no_grad():
            return int((model(found).argmax(dim=1) == labels).sum())

    assert right(**options) <= right() < len(labels)
