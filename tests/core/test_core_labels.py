import pytest
import torch
from torch import nn

from rwp.core.attacks import (
    class_indices,
    cw,
    cw_zero_masked,
    fgsm,
    fgsm_random_start,
    kl_attack,
    pgd,
)
from rwp.core.objectives import make_objective
from rwp.core.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)
STEPS = {"step_size": 0.03, "num_steps": 2}
ATTACKS = {
    "fgsm": (fgsm, {}),
    "fgsm_random_start": (fgsm_random_start, {"step_size": 0.2}),
    "pgd": (pgd, STEPS),
    "cw": (cw, STEPS | {"kappa": 0.0}),
    "cw_zero_masked": (cw_zero_masked, STEPS | {"kappa": 0.0}),
    "kl_attack": (kl_attack, STEPS),
}


def attacked(name: str, labels: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.rand(3, 3, 2, 2)
    function, options = ATTACKS[name]
    generator = {} if name == "fgsm" else {"generator": torch.Generator().manual_seed(0)}
    return function(model, images, labels, threat=THREAT, **options, **generator)


@pytest.mark.parametrize("name", ATTACKS)
def test_labels_of_any_integer_type_are_one(name: str):
    labels = torch.tensor([0, 1, 3])
    expected = attacked(name, labels)
    for kind in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(attacked(name, labels.to(kind)), expected)


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        (torch.tensor([0.0, 1.0, 3.0]), "cast them"),
        (torch.tensor([False, True, True]), "cast them"),
        (torch.eye(4)[:3], "argmax"),
        (torch.eye(4)[:3].long(), "argmax"),
        (torch.tensor([[0], [1], [3]]), "flatten them"),
    ],
)
def test_other_labels_are_refused(labels: torch.Tensor, advice: str):
    with pytest.raises(ValueError, match="labels: expected class indices") as caught:
        class_indices(torch.rand(3, 3, 2, 2), labels)
    assert advice in str(caught.value)


@pytest.mark.parametrize("name", ATTACKS)
def test_inference_mode_is_refused_alike(name: str):
    with torch.inference_mode(), pytest.raises(ValueError, match="call the attack outside of it"):
        attacked(name, torch.tensor([0, 1, 3]))


@pytest.mark.wrong_type
@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("name", ["at", "trades", "mart", "natural"])
def test_losses_take_the_labels_that_their_attack_takes(name: str, kind: torch.dtype):
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.rand(3, 3, 2, 2)
    objective = make_objective(name, **({"beta": 6.0} if name in ("trades", "mart") else {}))
    labels = torch.tensor([0, 1, 3])
    expected = objective.losses(model, images, images, labels)
    found = objective.losses(model, images, images, labels.to(kind))
    assert torch.equal(found.objective, expected.objective)
    assert torch.equal(found.criterion, expected.criterion)
