"""The gradient of the perturbation, by finite differences, for every objective."""

import pytest
import torch
from tests.core.helpers import BATCH_SIZE, NUM_CLASSES, closure, small_batch

from rwp.core import robust_weight_perturbation
from rwp.core.weights import perturbed_tensors

OBJECTIVES = {
    "at": ("at", {}),
    "trades": ("trades", {"beta": 6.0}),
    "trades_on_adversarial_ce": ("trades", {"beta": 6.0, "criterion": "adversarial_ce"}),
    "mart": ("mart", {"beta": 5.0}),
}
EVERY_OBJECTIVE = pytest.mark.parametrize("objective", OBJECTIVES)


def losses_of(model, batch, objective):
    name, options = OBJECTIVES[objective]
    return closure(model, batch, name, **options)


def median_criterion(model, losses) -> float:
    state = {k: v.clone() for k, v in model.state_dict().items()}
    criterion = losses().criterion.sort().values
    model.load_state_dict(state)
    return float(criterion[BATCH_SIZE // 2 - 1 : BATCH_SIZE // 2 + 1].mean())


def numeric_gradient(model, value):
    """Central differences over every perturbed weight."""
    step = 1e-6
    gradient = {}
    with torch.no_grad():
        for name, weight in perturbed_tensors(model).items():
            flat, slopes = weight.view(-1), torch.zeros(weight.numel(), dtype=weight.dtype)
            for i in range(len(flat)):
                kept = flat[i].item()
                flat[i] = kept + step
                high = value()
                flat[i] = kept - step
                slopes[i] = (high - value()) / (2 * step)
                flat[i] = kept
            gradient[name] = slopes.view_as(weight)
    return gradient


class TinyNetwork(torch.nn.Sequential):
    """Few enough weights for finite differences."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__(
            torch.nn.Conv2d(1, 2, 3),
            torch.nn.BatchNorm2d(2),
            torch.nn.Softplus(),
            torch.nn.AdaptiveAvgPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(8, NUM_CLASSES),
        )
        self.double()


@EVERY_OBJECTIVE
def test_first_step_by_finite_differences(objective):
    """v is the gradient of sum(mask * loss) / n, scaled to gamma * ||w||; both TRADES readings."""
    model, batch = TinyNetwork(), small_batch(channels=1)
    losses = losses_of(model, batch, objective)
    c_min = median_criterion(model, losses)
    with torch.no_grad():
        mask = losses().criterion < c_min
    assert 0 < mask.sum() < BATCH_SIZE
    gradient = numeric_gradient(model, lambda: (mask * losses().objective).sum() / BATCH_SIZE)
    norm = torch.cat([g.flatten() for g in gradient.values()]).norm()
    weights = perturbed_tensors(model)
    weight_norm = torch.cat([w.detach().flatten() for w in weights.values()]).norm()
    found = robust_weight_perturbation(model, losses, gamma=0.01, c_min=c_min, num_steps=1)
    assert found.offset.keys() == gradient.keys()
    for name, slopes in gradient.items():
        expected = 0.01 * weight_norm / norm * slopes
        torch.testing.assert_close(found.offset[name], expected, rtol=1e-5, atol=1e-9)


def test_the_two_trades_readings_select_different_examples(network, batch):
    shape = (BATCH_SIZE,)
    both = [losses_of(network, batch, name)() for name in OBJECTIVES if "trades" in name]
    for losses in both:
        assert losses.objective.shape == losses.criterion.shape == shape
        assert losses.logits.shape == (BATCH_SIZE, NUM_CLASSES)
        assert losses.objective.requires_grad
        assert not losses.criterion.requires_grad
    torch.testing.assert_close(both[0].objective, both[1].objective)
    torch.testing.assert_close(both[0].objective.detach(), both[0].criterion)
    assert not torch.allclose(both[0].criterion, both[1].criterion)
