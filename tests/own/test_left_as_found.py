"""Attacks and perturbations of the user's own leave gradients, modes and statistics alone."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import DistError

from rwp.core import build_network
from rwp.core.objectives import ExampleLosses, make_objective
from rwp.core.process_group import GroupError
from rwp.core.threat import ThreatModel
from rwp.errors import UserError
from rwp.training.flops import PassCounter
from rwp.training.history import Tally
from rwp.training.own import OwnObjective, OwnPerturbation

TEXTBOOK = """
import torch
from torch.nn import functional as F

from rwp.core import ExampleLosses


class Fgsm:
    def losses(self, model, images, adversarial, labels):
        logits = model(adversarial)
        return F.cross_entropy(logits, labels, reduction="none"), logits

    def attack(self, model, images, labels, *, threat, **options):
        model.eval()
        found = images.clone().requires_grad_()
        F.cross_entropy(model(found), labels).backward()
        return (images + threat.epsilon * found.grad.sign()).clamp(0, 1)


class InPlace(Fgsm):
    def attack(self, model, images, labels, **options):
        labels.zero_()
        return images.add_(0.1).clamp_(0, 1)


class Tracking(Fgsm):
    def attack(self, model, images, labels, **options):
        model.train()
        model(images)
        return images


class Bundled(Fgsm):
    def losses(self, model, images, adversarial, labels):
        losses, logits = super().losses(model, images, adversarial, labels)
        return ExampleLosses(losses, losses.detach(), logits)


class Choosing(Bundled):
    def __init__(self, criterion):
        self.criterion = criterion


def ascent(times=1):
    def perturb(model, losses, *, generator=None):
        for _ in range(times):
            losses().objective.mean().backward()
        model.eval()
        return {n: 0.01 * p.grad for n, p in model.named_parameters() if p.grad is not None}
    return perturb


def moving():
    def perturb(model, losses, *, generator=None):
        seen.append(losses().objective.mean().item())
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(4)
            seen.append(losses().objective.mean().item())
            for p in model.parameters():
                p.div_(4)
        return {}
    return perturb


seen = []
"""


@pytest.fixture
def textbook(own_code: Path) -> Path:
    (own_code / "own" / "textbook.py").write_text(TEXTBOOK)
    return own_code


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3)
    return nn.Sequential(*layers).train()


def left(model: nn.Module, work: Callable[[nn.Module, Tensor, Tensor], None]) -> None:
    """Nothing of the work is to be seen at the model."""
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model[1].eval()
    given = images.clone(), torch.arange(5) % 3
    work(model, *given)
    assert torch.equal(given[0], images)
    assert torch.equal(given[1], torch.arange(5) % 3)
    assert not given[0].requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["Fgsm", "Tracking", "InPlace"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_an_attack(textbook: Path, name: str, mode: str) -> None:
    objective = OwnObjective(f"own.textbook:{name}", {}, criterion="objective", random_start=None)
    threat = ThreatModel("linf", 0.1)
    left(
        network(),
        lambda model, images, labels: objective.attack(
            model, images, labels, threat=threat, bn_mode=mode
        ),
    )


@pytest.mark.parametrize("name", ["GoingBack", "Shifting"])
def test_losses_leave_gradients_and_images_alone(own_code: Path, name: str) -> None:
    """A step would add the one, and each further weight step begin at the other."""
    objective = OwnObjective(f"own.methods:{name}", {}, criterion="objective", random_start=None)
    model = network()
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    given = images, images + 0.1, torch.arange(5) % 3
    before = [tensor.clone() for tensor in given]
    kept = model[0].weight.grad = torch.ones_like(model[0].weight)
    found = [objective.losses(model, *given).objective for _ in range(2)]
    assert torch.equal(*found)
    assert all(map(torch.equal, given, before))
    assert not any(tensor.requires_grad for tensor in given)
    assert model[0].weight.grad is kept
    assert bool((kept == 1).all())
    assert model[3].weight.grad is None


def test_what_an_objective_raises_amid_a_training_is_one_line(own_code: Path) -> None:
    """The trial's four images can be paired; five cannot."""
    objective = OwnObjective("own.methods:Pairing", {}, criterion="objective", random_start=None)
    images, labels, model = torch.rand(5, 3, 8, 8), torch.arange(5) % 3, network()
    objective.losses(model, images[:4], images[:4], labels[:4])
    told = r"^own.methods:Pairing: expected to give losses of images \(5, 3, 8, 8\), got Runtime"
    told += r"Error: .* in own/methods.py:\d+; correct it there$"
    with pytest.raises(UserError, match=told):
        objective.losses(model, images, images, labels)
    for error in (GroupError("gone"), RuntimeError("CUDA out of memory"), DistError("gone")):
        objective._losses = fails(error)
        with pytest.raises(type(error)):
            objective.losses(model, images, images, labels)


def fails(error: Exception) -> Callable[..., None]:
    def losses(*_: object) -> None:
        raise error

    return losses


def test_a_server_of_ones_own_that_does_not_answer_is_no_process_of_the_group(
    own_code: Path,
) -> None:
    objective = OwnObjective("own.methods:Pairing", {}, criterion="objective", random_start=None)
    objective._losses = fails(ConnectionRefusedError("my teacher"))
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4) % 3
    with pytest.raises(UserError, match=r"got ConnectionRefusedError: my teacher"):
        objective.losses(network(), images, images, labels)


def test_a_model_that_is_called_by_name_is_counted(own_code: Path) -> None:
    objective = OwnObjective("own.methods:ByName", {}, criterion="objective", random_start=None)
    model = build_network(
        "preact_resnet", num_classes=3, in_channels=3, mean=None, std=None, blocks=(1,), width=4
    )
    passed = PassCounter(model, 7.0)
    images = torch.rand(5, 3, 8, 8)
    objective.losses(model, images, images, torch.arange(5) % 3)
    assert (passed.forward, passed.learned) == (1, 5)


def test_a_perturbation(textbook: Path) -> None:
    perturb, natural = OwnPerturbation("own.textbook:ascent", {}), make_objective("natural")
    found = []

    def work(model: nn.Module, images: Tensor, labels: Tensor) -> None:
        found.append(perturb(model, lambda: natural.losses(model, images, images, labels)))

    left(network(), work)
    assert found[0].diagnostics.norm_ratio > 0


def test_the_passes_of_a_perturbation_are_counted_and_its_steps_are_not_known(
    textbook: Path,
) -> None:
    natural, model = make_objective("natural"), network()
    images, labels = torch.rand(5, 3, 8, 8), torch.arange(5) % 3
    perturb = OwnPerturbation("own.textbook:ascent", {"times": 3})
    found = perturb(model, lambda: natural.losses(model, images, images, labels))
    diagnostics = found.diagnostics
    assert (diagnostics.forward_passes, diagnostics.backward_passes) == (3, 3)
    tally = Tally(torch.device("cpu"))
    outer = natural.losses(model, images, images, labels)
    tally.add(outer, labels, c_min=None, perturbed=found)
    assert tally.row()["weight_steps"] is None


def test_own_losses_see_logits_in_full_precision(textbook: Path) -> None:
    """Losses in 8 bits of precision would be compared with c_min."""
    objective = OwnObjective("own.textbook:Fgsm", {}, criterion="objective", random_start=None)
    images, labels, model = torch.rand(5, 3, 8, 8), torch.arange(5) % 3, network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(images).dtype == torch.bfloat16
        found = objective.losses(model, images, images, labels)
    assert found.logits.dtype == found.objective.dtype == torch.float32
    assert not model._forward_hooks


def test_a_criterion_that_own_losses_do_not_take_is_refused(textbook: Path) -> None:
    images, labels, model = torch.rand(5, 3, 8, 8), torch.arange(5) % 3, network()
    for name, refused in (("Bundled", True), ("Choosing", False), ("Fgsm", False)):
        objective = OwnObjective(
            f"own.textbook:{name}", {}, criterion="adversarial_ce", random_start=None
        )
        if refused:
            with pytest.raises(UserError, match="expected a factory with the parameter criterion"):
                objective.losses(model, images, images, labels)
        else:
            objective.losses(model, images, images, labels)


def test_a_perturbation_sees_the_weights_it_has_moved(textbook: Path) -> None:
    """Autocast keeps copies of the weights in 16 bits, which have to follow."""
    perturb, goal = OwnPerturbation("own.textbook:moving", {}), make_objective("at")
    model = network()
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    given = images, images, torch.arange(5) % 3

    def losses(of: nn.Module) -> Callable[[], ExampleLosses]:
        return lambda: goal.losses(of, *given)

    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(4)
    expected = []
    for one in (model, moved):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected.append(losses(one)().objective.mean().item())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        perturb(model, losses(model))
        after = losses(model)().objective.mean().item()
    assert importlib.import_module("own.textbook").seen == expected
    assert after == expected[0]
    assert expected[0] != expected[1]
