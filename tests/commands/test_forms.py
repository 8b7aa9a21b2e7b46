"""Models and weights as others build and save them, through the commands that take them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwp.evaluation.records import read_record
from rwp.training.checkpoint import save_network
from tests.conftest import Project
from tests.evaluation.samples import NETWORK, small_network

# A module of models as others build them, in a project of digits; `linear` is what they stand for.
THEIRS = """
import torch
from torch import nn
from torch.nn.utils import parametrizations

def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Around(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner, self.function = linear(), function
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
    def forward(self, images):
        return self.function(self.inner, images)

double = lambda: linear().double()
half = lambda: linear().half()
brain = lambda: linear().bfloat16()
tuple_ = lambda: Around(lambda net, x: (net(x), x.flatten(1)))
table = lambda: Around(lambda net, x: {"logits": net(x)})
writing = lambda: Around(lambda net, x: net(x.mul_(1.0)))
traced = lambda: torch.jit.trace(linear().eval(), torch.rand(1, 1, 8, 8))
compiled = lambda: torch.compile(linear(), backend="eager")
class Counting(Around):
    def forward(self, images):
        self.calls += 1
        return self.inner(images)
counting = lambda: Counting(None)
module = linear()

lazy = lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
weights = lambda: linear().state_dict()
detached = lambda: Around(lambda net, x: net(x.detach()))
failing = lambda: Around(lambda net, x: net(x)["logits"])
one = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
color = lambda: nn.Conv2d(3, 10, 8)
three = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
frame = lambda: nn.Module()
def asks(width): return linear()
"""
SAME = (
    *("double", "half", "brain", "tuple_", "table", "writing", "traced", "compiled", "counting"),
    "module",
)
REFUSED = {
    "lazy": "expected weights, got none yet in 1.weight",
    "weights": "these are weights: build their network, call load_state_dict",
    "detached": "expected a model with a gradient from logits to pixels",
    "failing": "expected to answer images of shape (1, 1, 8, 8) in [0, 1], got IndexError",
    "one": "expected logits of two classes or more, got 1",
    "color": "got RuntimeError",
    "three": "expected logits of 10 classes, got 3",
    "frame": "got NotImplementedError",
    "asks": "to return a model when called without arguments, got TypeError",
    "absent": "expected 'absent' in ",
}


class Typed:
    """Commands in a project of digits, in this process: each as a user types it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        from rwp.commands.app import main

        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["rwp", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = self.capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err


@pytest.fixture
def typed(
    project_with_data: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Typed]:
    (project_with_data.folder / "theirs.py").write_text(THEIRS)
    monkeypatch.chdir(project_with_data.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Typed(monkeypatch, capsys)
    sys.modules.pop("theirs", None)


WORDS = ("--dataset", "digits", "--attack", "natural", "--attack", "pgd-20")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, on TorchScript
def test_models_as_others_build_them_have_the_same_numbers(typed: Typed) -> None:
    """With verdict and interval; `rwp diagnose` takes the records that this leaves."""
    robust = {}
    for name in ("linear", *SAME):
        done, out, err = typed("evaluate", "--model", f"theirs:{name}", *WORDS, "--output", name)
        assert (done, err) == (0, ""), (name, err)
        assert "clean accuracy" in out
        assert re.search(r"pgd-20 +\d+\.\d+% +\[\d+\.\d+, \d+\.\d+\]", out), out
        assert "verdict: " in out
        robust[name] = read_record(Path(name) / "pgd-20.json").num_robust
    few = {"half": 2, "brain": 4}
    for name in SAME:
        assert abs(robust[name] - robust["linear"]) <= few.get(name, 0), (name, robust)
    for name in ("brain", "table", "traced"):
        done, out, err = typed("diagnose", "--model", f"theirs:{name}", *WORDS, "--output", name)
        assert done == 0, (name, err)
        assert (Path(name) / "diagnosis.json").exists()
    assert not list(Path(".state").rglob("*.tmp"))


@pytest.mark.parametrize("command", ["evaluate", "diagnose"])
def test_what_is_no_model_of_these_images_is_one_line(typed: Typed, command: str) -> None:
    for name, message in REFUSED.items():
        words = ("--model", f"theirs:{name}", *WORDS, "--output", "out")
        done, _, err = typed(command, *words)
        if (command, name) == ("diagnose", "detached"):
            message = "run `rwp evaluate` with the same options first"
        assert done == 2, (name, err)
        assert message in err, (name, err)
        assert err.startswith("error: ")
        assert len(err.strip().splitlines()) == 1, err
        assert not Path("out").exists() or not list(Path("out").glob("pgd*"))


def test_bare_weights_get_advice_and_are_evaluated_with_it(typed: Typed) -> None:
    import torch

    from rwp.core.models import build_network

    torch.manual_seed(0)
    shape = {"blocks": (1, 1), "width": 4, "mean": None, "std": None}
    state = build_network("preact_resnet", num_classes=10, in_channels=1, **shape).state_dict()
    forms = {
        "plain": state,
        "compiled": {f"_orig_mod.{name}": value for name, value in state.items()},
        "parallel": {"state_dict": {f"module.module.{n}": v for n, v in state.items()}},
        "old": {name: value for name, value in state.items() if "num_batches" not in name},
    }
    found = set()
    for name, form in forms.items():
        torch.save(form, f"{name}.pt")
        words = ("evaluate", "--checkpoint", f"{name}.pt", *WORDS, "--output", name)
        done, _, err = typed(*words)
        assert done == 2
        assert "its tensors fit --arch small; take --layout awp if its program normalized" in err
        done, _, err = typed(*words, "--arch", "small", "--layout", "trades")
        assert (done, err) == (0, ""), err
        found.add(read_record(Path(name) / "pgd-20.json").robust_bits)
    assert len(found) == 1


@pytest.mark.parametrize("name", ["best.pt", "net.pt"])
def test_a_lone_file_of_ours_is_attacked_and_judged_as_it_is(typed: Typed, name: str) -> None:
    save_network(Path(name), small_network(), network=NETWORK, epoch=7)
    done, _, err = typed("diagnose", name, *WORDS, "--output", "out")
    assert (done, "run `rwp evaluate` with the same options first" in err) == (2, True), err
    done, _, err = typed("evaluate", "--checkpoint", name, *WORDS, "--output", "out")
    assert (done, err) == (0, "")
    done, out, err = typed("diagnose", name, *WORDS, "--output", "out")
    assert (done, err) == (0, "")
    assert "out/diagnosis.json" in out
