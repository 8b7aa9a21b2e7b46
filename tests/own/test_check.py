"""`rwp check`: what a factory gives is tried; what does not fit is one line that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rwp.errors import UserError
from rwp.evaluation.trial import try_factory

FITTING = [
    ("networks:Tiny", {"width": 5}, "network"),
    ("networks:needs", {"width": 5}, "network"),
    ("networks:lazy", {}, "network"),
    ("networks:Fixed", {}, "network"),
    ("networks:Noisy", {}, "network"),
    ("networks:lazy_norm", {}, "network"),
    ("methods:Remembering", {}, "objective"),
    ("methods:Smoothed", {"smoothing": 0.2}, "objective"),
    ("methods:lowest", {}, "mask"),
    ("methods:drawn", {}, "mask"),
    ("methods:sam", {"rho": 0.05}, "perturbation"),
    ("methods:noise", {}, "attack"),
]
WRONG = {
    "networks:needs": (None, "expected the option width, got"),
    "networks:Tiny breadth=3": (None, "expected its own options (width), got breadth"),
    "networks:ten": (None, "expected logits (2, 3), got (2, 10)"),
    "networks:Flat": (None, "expected logits (2, 3), got (6,)"),
    "networks:Squeezed": (None, "expected logits (1, 3), got (3,)"),
    "networks:Forgetful": (None, "expected all that decides its logits in its state_dict"),
    "networks:Counting": (None, "expected all that decides its logits in its state_dict"),
    "networks:double": (None, "expected weights of torch.float32, got torch.float64"),
    "networks:Detached": (None, "expected a gradient of the logits with respect to the images"),
    "networks:Frozen": (None, "expected weights to train, got none"),
    "networks:NotANumber": (None, "expected finite logits, got NaN"),
    "networks:exits": (None, "got SystemExit: no licence"),
    "methods:Curriculum": (None, "expected the same when asked the same again, got something else"),
    "methods:Amnesiac": (None, "expected all that it remembers in its state_dict"),
    "methods:Hoarder": (None, "expected a state_dict of tensors, numbers, texts"),
    "methods:Fading": (None, "expected the same when asked the same again"),
    "methods:Growing": ("perturbation", "expected the same when asked the same again"),
    "methods:both_batches": (None, "expected logits (4, 3), got (8, 3)"),
    "methods:two_classes": (None, "expected logits (4, 3), got (4, 2)"),
    "methods:in_eval_mode": (None, "expected the model in the mode it came in, got it in another"),
    "networks:raises": (None, "RuntimeError: no luck today"),
    "networks:text": ("network", "expected a torch.nn.Module, got str"),
    "networks:nothing": (None, "expected 'nothing' in"),
    "nowhere:nothing": (None, "expected the module own.nowhere"),
    "methods:mean_loss": (None, "expected losses (4,), got ()"),
    "methods:unmade_loss": (None, "expected a factory, which takes options and returns the"),
    "methods:unmade_mask": (None, "got the function itself, which takes losses; return it"),
    "methods:detached_loss": (None, "expected losses with a gradient, got none"),
    "methods:alone": (None, "expected losses (batch,) and logits (batch, classes)"),
    "methods:numbers": (None, "expected a mask of torch.bool, got torch.float32"),
    "methods:sam": (None, "expected the option rho, got no options"),
    "methods:mover": (None, "expected the weights as they were, got moved ones"),
    "methods:noise strength=3": (None, "expected perturbations up to 8/255, got 0.09"),
    "methods:shapeless": (None, "expected images of torch.float32 (4, 3, 16, 16), got"),
    "methods:lowest share=2": (None, "expected to take losses (batch,), got RuntimeError"),
}


@pytest.mark.parametrize(("name", "options", "role"), FITTING, ids=lambda value: str(value))
def test_what_fits_is_told_by_its_kind(
    own_code: Path, name: str, options: dict[str, Any], role: str
) -> None:
    before = torch.random.get_rng_state()
    lines = try_factory(f"own.{name}", options)
    assert lines[0] == f"own.{name}: {role}"
    assert len(lines) > 1
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("networks:Seeded", "its first weights are the same under another of torch's seeds"),
        ("methods:repeated_mean", "all losses are the same, as if one mean were repeated"),
        ("methods:Tempered", "it has 1 weights of its own that no optimizer trains"),
        ("methods:Logging", "calls changes from call to call, and begins anew when a stopped"),
    ],
)
def test_what_may_be_meant_otherwise_is_warned_of(own_code: Path, name: str, warning: str) -> None:
    lines = try_factory(f"own.{name}", {})
    assert any(line.startswith(f"warning: {warning}") for line in lines)


def test_what_fits_is_not_warned_of(own_code: Path) -> None:
    for name in ("networks:Tiny", "networks:lazy_norm", "methods:Smoothed", "methods:Remembering"):
        assert not any(line.startswith("warning") for line in try_factory(f"own.{name}", {}))


@pytest.mark.parametrize("call", WRONG)
def test_what_does_not_fit_is_one_line_that_names_the_factory(own_code: Path, call: str) -> None:
    name, *words = call.split()
    options = {key: float(value) for key, value in (word.split("=") for word in words)}
    role, message = WRONG[call]
    with pytest.raises(UserError) as caught:
        try_factory(f"own.{name}", options, role)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.startswith(f"own.{name}: ")
    assert message in text
    assert "\n" not in text


def test_an_installed_function_with_any_keywords_gets_the_number_of_classes() -> None:
    lines = try_factory("torchvision.models:resnet18", {}, "network")
    assert "logits (batch, 3)" in lines[1]


def test_parts_of_a_weight_are_told(own_code: Path) -> None:
    lines = try_factory("own.networks:reparametrized", {}, "network")
    assert any("warning: 2 of them are parts of a weight" in line for line in lines)
    lines = try_factory("own.networks:Tiny", {}, "network")
    assert not any("parts of a weight" in line for line in lines)
