"""The L1 norm: sizes of perturbations, and AutoAttack to its end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack
from torch import nn

import rwp
from rwp.data.images import ImageSet
from rwp.evaluation import autoattack as module
from rwp.evaluation.attacks import perturbation_sizes
from rwp.evaluation.records import robust_flags
from rwp.training.spec import AttackSpec, ThreatSpec
from tests.evaluation.samples import autoattack_spec, digits_part

RADIUS = 1.0
SPEC = autoattack_spec(threat=ThreatSpec(norm="l1", epsilon=str(RADIUS)))


def test_l1_sizes_are_sums() -> None:
    images = torch.zeros(2, 1, 2, 2)
    moved = images.clone()
    moved[0, 0] = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert perturbation_sizes(moved, images, norm="l1").tolist() == pytest.approx([1.0, 0.0])


class Shorter(AutoAttack):
    """The package's four attacks with a quarter of their steps and few queries."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for attack in (self.apgd, self.apgd_targeted, self.fab):
            attack.n_iter //= 4
        self.square.n_queries = 200


def evaluated(model: nn.Module, images: ImageSet, spec: AttackSpec, *, batch_size: int):
    """By one attack, with its images."""
    return rwp.evaluate(
        model,
        images.images.float() / 255,
        images.labels,
        threat=("linf", "0.1"),
        attacks=["natural", spec],
        batch_size=batch_size,
        keep_adversarial=True,
    )


def test_apgd_in_l1_gives_the_packages_images(
    robust_model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins at three times the radius, and hands on where that led also fooled images."""
    monkeypatch.setattr(module, "AutoAttack", Shorter)
    some = digits_part(slice(0, 300))
    pixels = some.images.float() / 255
    spec = autoattack_spec(threat=SPEC.threat, version="lite")
    found = evaluated(robust_model, some, spec, batch_size=100)
    with torch.random.fork_rng():
        package = Shorter(robust_model, norm="L1", eps=RADIUS, version="standard", seed=0)
        package.attacks_to_run = ["apgd-ce", "apgd-t"]
        theirs, labels = package.run_standard_evaluation(pixels, some.labels, batch_size=100)
    assert np.array_equal(
        robust_flags(found.records["autoattack"]), (labels == some.labels).numpy()
    )
    assert torch.equal(found.adversarial["autoattack"], theirs)


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [3, 6, 9])
def test_few_classes_have_as_many_targets(
    num_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of APGD and of FAB: under L1 the package gives them five and nine."""
    monkeypatch.setattr(module, "AutoAttack", Shorter)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    pixels = torch.rand(6, 1, 8, 8)
    spec = SPEC if num_classes > 3 else autoattack_spec(threat=SPEC.threat, version="few-classes")
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    found = rwp.evaluate(model, pixels, labels, threat=("linf", "0.1"), attacks=["natural", spec])
    told = [w for w in found.records["autoattack"].warnings if "target classes" in w]
    assert told == {
        6: ["5 target classes instead of 9: there are 6 classes"],
        9: ["8 target classes instead of 9: there are 9 classes"],
    }.get(num_classes, [])


@pytest.mark.slow
def test_autoattack_in_l1_runs_to_its_end_with_the_packages_flags(
    robust_model: nn.Module, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AutoAttack", Shorter)
    some = images.select(torch.arange(16))
    pixels = some.images.float() / 255
    found = evaluated(robust_model, some, SPEC, batch_size=8)
    record = found.records["autoattack"]
    assert list(record.parts) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    with torch.random.fork_rng():
        package = Shorter(robust_model, norm="L1", eps=RADIUS, version="standard", seed=0)
        _, labels = package.run_standard_evaluation(pixels, some.labels, batch_size=8)
    assert np.array_equal(robust_flags(record), (labels == some.labels).numpy())
    assert 0 < record.num_robust < record.num_clean_correct
    sizes = (found.adversarial["autoattack"] - pixels).abs().flatten(1).sum(dim=1)
    assert RADIUS / 2 < float(sizes.max()) <= RADIUS + 1e-3
    assert record.max_perturbation == pytest.approx(float(sizes.max()), abs=1e-4)
    assert (record.attack.threat.norm, record.attack.threat.radius) == ("l1", RADIUS)
