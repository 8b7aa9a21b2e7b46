"""Images that have fallen leave APGD's passes, and no flag changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from rwp.data.images import ImageSet
from rwp.evaluation import autoattack as module
from rwp.evaluation.apgd import StandingModel
from rwp.evaluation.autoattack import autoattack
from rwp.training.spec import ThreatSpec
from tests.evaluation.samples import autoattack_spec


class Alone(AutoAttack):
    """APGD alone, long enough for images to leave."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.apgd.n_iter = self.apgd_targeted.n_iter = 20
        self.attacks_to_run = ["apgd-ce", "apgd-t"]


def attacked(model: nn.Module, images: ImageSet, monkeypatch, threat: ThreatSpec, *, leave: bool):
    """Flags, images and the model that counted."""
    found = []

    class Watched(StandingModel):
        def __init__(self, model: nn.Module, **_: bool) -> None:
            super().__init__(model, leave=leave)
            found.append(self)

    monkeypatch.setattr(module, "AutoAttack", Alone)
    monkeypatch.setattr(module, "StandingModel", Watched)
    spec = autoattack_spec("lite", threat=threat)
    result = autoattack(
        model, images, spec, batch_size=len(images), seed=0, device="cpu", keep_adversarial=True
    )
    return result, found[0]


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", "0.1"), ("l2", "0.5")])
def test_fallen_images_leave_and_no_flag_changes(robust_model, images, monkeypatch, norm, epsilon):
    threat = ThreatSpec(norm=norm, epsilon=epsilon)
    stayed, counted = attacked(robust_model, images, monkeypatch, threat, leave=False)
    left, spared = attacked(robust_model, images, monkeypatch, threat, leave=True)
    assert np.array_equal(left.robust, stayed.robust)
    assert left.parts == stayed.parts
    assert left.gradients == stayed.gradients
    assert 0 < left.robust.sum() < left.clean_correct.sum()
    assert left.warnings == stayed.warnings
    assert counted.spared == 0 < spared.spared <= counted.fallen < counted.passes == spared.passes


class BySize(nn.Module):
    """A model that rounds otherwise in a batch of another size."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * (1 + 1e-6 * len(images))


def test_no_image_leaves_where_the_others_would_round_otherwise(robust_model, images, monkeypatch):
    threat = ThreatSpec(norm="linf", epsilon="0.1")
    _, spared = attacked(BySize(robust_model), images, monkeypatch, threat, leave=True)
    # All of a batch may leave, as nobody is there whose bits could change.
    _, counted = attacked(BySize(robust_model), images, monkeypatch, threat, leave=False)
    assert spared.spared < 0.02 * counted.fallen


def run(model: nn.Module, labels: Tensor, points: list[Tensor], has_gradient: Tensor):
    """What a model is asked for at points that an attack goes through."""
    standing, asked = StandingModel(model, leave=True), []
    hook = model.register_forward_hook(lambda _, given, __: asked.append(len(given[0])))

    def attack(images: Tensor, labels: Tensor) -> list[Tensor]:
        found = []
        for point in points:
            inputs = point.clone().requires_grad_()
            with torch.enable_grad():
                logits = standing(inputs)
            (gradient,) = torch.autograd.grad(logits[:, 1].sum(), inputs)
            found += [logits.detach(), gradient]
        return found

    found = standing.following(attack, has_gradient=lambda: has_gradient)(points[0], labels)
    hook.remove()
    return found, asked


@pytest.fixture
def linear() -> nn.Module:
    """Brightness of a one-pixel image against a half: class 1 where it is brighter."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    return model


def pixels(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_who_leaves(linear):
    labels = torch.tensor([1, 1, 1, 0])
    points = [pixels(0.9, 0.2, 0.9, 0.1), pixels(0.8, 0.9, 0.2, 0.1), pixels(0.8, 0.9, 0.9, 0.1)]
    (*_, logits, gradient), asked = run(linear, labels, points, torch.ones(4, dtype=torch.bool))
    assert asked == [4, 4, 3, 3, 3, 2, 2]  # each time one leaves, both batches are compared
    assert logits.argmax(dim=1).tolist() == labels.tolist()  # those that have left are right
    assert (gradient.flatten() != 0).tolist() == [True, False, False, True]


def test_who_stays(linear):
    """On the boundary within rounding; or without a gradient so far, which is counted."""
    labels = torch.tensor([1, 1])
    points = [pixels(0.9, 0.5 - 1e-6), pixels(0.9, 0.5 - 1e-6)]
    _, asked = run(linear, labels, points, torch.ones(2, dtype=torch.bool))
    assert asked == [2, 2]
    points = [pixels(0.9, 0.2)] * 2
    _, asked = run(linear, labels, points, torch.tensor([True, False]))
    assert asked == [2, 2]


def test_all_may_leave(linear):
    labels = torch.tensor([1, 1])
    points = [pixels(0.2, 0.1)] * 2
    found, asked = run(linear, labels, points, torch.ones(2, dtype=torch.bool))
    assert asked == [2]
    assert found[2].argmax(dim=1).tolist() == [1, 1]
    assert not found[3].any()


class GradientBySize(BySize):
    """Equal logits in any batch, gradients that round otherwise."""

    def forward(self, images: Tensor) -> Tensor:
        inputs = images.clone()
        if inputs.requires_grad:
            inputs.register_hook(lambda gradient: gradient * (1 + 1e-3 * len(gradient)))
        return self.model(inputs)


def test_no_image_leaves_where_the_others_gradients_would_round_otherwise(linear):
    points = [pixels(0.9, 0.2)] * 3
    both = torch.ones(2, dtype=torch.bool)
    _, asked = run(GradientBySize(linear), torch.tensor([1, 1]), points, both)
    assert asked == [2, 2, 1, 2, 2]  # compared once, and nobody left


def test_an_image_that_was_surely_fooled_and_now_is_barely_stays(linear):
    first = pixels(0.9, 0.9, 0.9, 0.9, 0.2)
    then = pixels(0.9, 0.9, 0.9, 0.2, 0.5 - 1e-6)
    everyone = torch.ones(5, dtype=torch.bool)
    _, asked = run(linear, torch.ones(5, dtype=torch.long), [first, then, then], everyone)
    assert asked == [5, 5, 5]  # one of five is sure: too few for a smaller batch
