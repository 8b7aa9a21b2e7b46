"""`rwp check`: what a factory gives is tried; what does not fit is one line that names it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.main import get_command

from rwp.commands.app import app
from rwp.core import shifted_weights
from rwp.core.process_group import ALONE
from rwp.errors import UserError
from rwp.evaluation.trial import try_factory
from rwp.pipeline import own_trials
from rwp.training.own import Memory, OwnMask, OwnObjective, OwnPerturbation
from rwp.training.own_network import own_network
from rwp.training.several_processes import refuse_shared_memory

FITTING = [
    ("networks:Tiny", {"width": 5}, "network"),
    ("networks:needs", {"width": 5}, "network"),
    ("networks:lazy", {}, "network"),
    ("networks:Fixed", {}, "network"),
    ("networks:Noisy", {}, "network"),
    ("networks:lazy_norm", {}, "network"),
    ("networks:lazy_plain_norm", {}, "network"),
    ("networks:AdvProp", {}, "network"),
    ("methods:Remembering", {}, "objective"),
    ("methods:EvalAttack", {}, "objective"),
    ("methods:eval_target", {}, "objective"),
    ("methods:Tempered", {}, "objective"),
    ("methods:GoingBack", {}, "objective"),
    ("methods:Shifting", {}, "objective"),
    ("methods:GenMask", {}, "mask"),
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
    "methods:plain_teacher": (None, "expected the same when asked the same again"),
    "methods:Amnesiac": (None, "expected all that it remembers in its state_dict"),
    "methods:Hoarder": (None, "expected to give what it remembers to a second one, as plain"),
    "methods:Fading": (None, "expected the same when asked the same again"),
    "methods:Growing": ("perturbation", "expected the same when asked the same again"),
    "methods:both_batches": (None, "expected logits (4, 3), got (8, 3)"),
    "methods:two_classes": (None, "expected logits (4, 3), got (4, 2)"),
    "methods:in_eval_mode": (None, "expected the model in the mode it came in, got it in another"),
    "networks:raises": (None, "RuntimeError: no luck today"),
    "networks:Remembered": (None, "expected dense tensors alone in its state_dict, got dict in"),
    "networks:Thinned": (None, "in its state_dict, got torch.sparse_coo in places; keep it out"),
    "methods:elsewhere": ("mask", "expected a mask on cpu, as what it was given, got meta; move"),
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
    "methods:shapeless": (None, "expected adversarial images (4, 3, 16, 16), got"),
    "methods:OfTrueCriterion": (None, "losses of a floating type, got the criterion in torch.bool"),
    "methods:OfTrueCriterion nan=1": (None, "got NaN or infinity in the criterion"),
    "methods:quits": ("mask", "expected to take losses (batch,), got SystemExit: 0"),
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


def test_a_lazy_norm_begins_with_the_statistics_of_a_fresh_one(own_code: Path) -> None:
    facts = {"num_classes": 3, "in_channels": 3, "image_size": (16, 16), "mean": None, "std": None}
    for name in ("lazy_norm", "lazy_plain_norm"):
        state = own_network(f"own.networks:{name}", {}, **facts).state_dict()
        found = {key.rpartition(".")[2]: value for key, value in state.items()}
        assert torch.equal(found["running_mean"], torch.zeros_like(found["running_mean"]))
        assert torch.equal(found["running_var"], torch.ones_like(found["running_var"]))
        assert found["num_batches_tracked"] == 0


def test_what_remembers_stays_on_its_device_and_in_one_process(own_code: Path) -> None:
    objective = OwnObjective(
        "own.methods:Remembering", {}, criterion="objective", random_start=None
    )
    memory, other = Memory.of(objective), Memory.of(OwnMask("own.methods:GenMask", {}))
    assert memory is not None
    assert other is not None
    before = other.inner.generator.get_state()
    stored = other.stored()
    other.inner(torch.zeros(9))
    assert not torch.equal(before, other.inner.generator.get_state())
    other.load(stored, torch.device("meta"))  # what was on the CPU stays there
    assert torch.equal(before, other.inner.generator.get_state())
    several: Any = SimpleNamespace(size=2)
    with pytest.raises(UserError, match="expected an objective without state_dict in 2 processes"):
        refuse_shared_memory(objective, several)
    refuse_shared_memory(objective, ALONE)


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("networks:Seeded", "its first weights are the same under another of torch's seeds"),
        ("networks:Softmaxed", "it seems to answer with probabilities, as after a softmax"),
        ("methods:GoingBack", "a backward pass inside leaves a gradient at "),
        ("methods:repeated_mean", "all losses are the same, as if one mean were repeated"),
        ("methods:Tempered", "it has 1 weights of its own that no optimizer trains"),
        ("methods:Logging", "calls changes from call to call, and begins anew when a stopped"),
    ],
)
def test_what_may_be_meant_otherwise_is_warned_of(own_code: Path, name: str, warning: str) -> None:
    lines = try_factory(f"own.{name}", {})
    assert any(line.startswith(f"warning: {warning}") for line in lines)


def test_a_plan_that_tries_factories_shows_the_warnings(
    own_code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = {"text": "own.networks:Softmaxed", "options": {}, "role": "network", "shape": {}}
    get_command(app)(["check", "--resolved", json.dumps([trial])], standalone_mode=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("own.networks:Softmaxed: warning: it seems to answer with prob")


def test_a_plan_hands_the_warnings_on(
    own_code: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were caught with the rest, and the trial is not made again."""
    trial = {"text": "own.networks:Softmaxed", "options": {}, "role": "network", "shape": {}}
    monkeypatch.setattr(own_trials, "_trials", lambda _: [trial])
    for _ in range(2):
        own_trials.try_factories([])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("own.networks:Softmaxed: warning: it seems to answer with prob")


ENDINGS = {
    "breakpoint()": r"mine:f: expected to be called .*got BdbQuit",
    "input()": r"mine:f: expected to be called .*got EOFError",
    "import atexit, sys; atexit.register(lambda: print('bye', file=sys.stderr)); x": "NameError",
    "import os; os.abort()": r"mine:f: expected a trial .* to end in order, got signal 6",
    "import os; os._exit(7)": r"got exit code 7 \(without a word\)",
}


@pytest.mark.parametrize("line", ENDINGS)
def test_a_trial_that_ends_oddly_is_one_line_on_its_factory(
    own_code: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A breakpoint left in would wait for ever, its prompt caught with the rest."""
    (own_code / "mine.py").write_text(f"def f(num_classes):\n    {line}\n")
    trial = {"text": "mine:f", "options": {}, "role": "network", "shape": {}}
    monkeypatch.setattr(own_trials, "_trials", lambda _: [trial])
    with pytest.raises(UserError, match=ENDINGS[line]):
        own_trials.try_factories([])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--epsilon", "-1"], r"--epsilon: expected a radius in \(0, 1\] .*got -1"),
        (["--epsilon", "8"], r"--epsilon: .*did you mean 8/255"),
        (["--epsilon", "much"], r"--epsilon: expected a radius such as 8/255, got 'much'"),
        (["--norm", "l1"], "--norm: expected linf or l2, got 'l1'"),
    ],
)
def test_a_ball_that_is_none_is_not_the_factorys_fault(
    own_code: Path, words: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        get_command(app)(["check", "own.methods:noise", *words], standalone_mode=False)


HALF_FROZEN = """
from torch import nn


class Half(nn.Module):
    def __init__(self, *, num_classes, in_channels):
        super().__init__()
        self.backbone = nn.Conv2d(in_channels, 4, 3).requires_grad_(False)
        self.norm = nn.LayerNorm([14, 14])
        self.head = nn.Linear(4 * 14 * 14, num_classes)

    def forward(self, images):
        return self.head(self.norm(self.backbone(images)).flatten(1))
"""


def test_only_weights_that_are_trained_are_said_to_be_perturbed(own_code: Path) -> None:
    (own_code / "own" / "half.py").write_text(HALF_FROZEN)
    notes = try_factory("own.half:Half", {}, "network")
    assert any("perturb 1 kernels" in note for note in notes)


def test_an_option_that_only_another_role_is_given_is_no_clash(own_code: Path) -> None:
    (own_code / "own" / "named.py").write_text(NAMED)
    (first, *_) = try_factory("own.named:Losses", {"num_classes": 10})
    assert first == "own.named:Losses: objective"


NAMED = """
from torch.nn.functional import cross_entropy


def Losses(num_classes):
    def losses(model, images, adversarial, labels):
        logits = model(adversarial)
        return cross_entropy(logits, labels, reduction="none"), logits

    return losses
"""


def test_an_objective_is_tried_with_its_own_criterion(own_code: Path) -> None:
    (own_code / "own" / "named.py").write_text(NAMED.replace("num_classes", "criterion"))
    options = {"criterion": "adversarial_ce"}
    with pytest.raises(UserError, match="expected no option criterion, which a factory is given"):
        try_factory("own.named:Losses", options, "objective")
    try_factory("own.named:Losses", options, "objective", criterion="adversarial_ce")


def test_what_fits_is_not_warned_of(own_code: Path) -> None:
    names = (
        "networks:Tiny networks:Unlearned networks:lazy_norm methods:Smoothed methods:EvalAttack"
    )
    for name in names.split():
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


def test_a_network_begins_with_the_buffers_it_was_made_with(own_code: Path) -> None:
    """Its trials are no passes of the training, however it writes what it has seen."""
    facts = {"num_classes": 3, "in_channels": 3, "image_size": (16, 16), "mean": None, "std": None}
    state = own_network("own.networks:Rebinding", {}, **facts).state_dict()
    assert [float(value) for name, value in state.items() if name.endswith("seen")] == [0.0]


def test_an_offset_is_a_copy(own_code: Path) -> None:
    """Added to the weights and taken away again as one tensor, it would leave zeros."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    found = OwnPerturbation("own.methods:of_the_weights_themselves", {})(model, lambda: None)
    with shifted_weights(model, found.offset):
        pass
    assert bool(model[0].weight.abs().sum() > 0)
