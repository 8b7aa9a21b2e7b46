"""The code behind a factory is part of the fingerprint: its module and what that imports."""

from __future__ import annotations

import importlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rwp.commands.app import _advice
from rwp.errors import UserError
from rwp.evaluation.own import own_attack
from rwp.factories import call, own_folders, told_of_own_code
from rwp.pipeline import own_code as own_code_module
from rwp.pipeline.code import PACKAGE_FOLDER, Code
from rwp.pipeline.own_code import refuse_other_own_code, source_of
from rwp.rng import generator_for
from rwp.training.spec import AttackSpec, ThreatSpec
from tests.conftest import ROOT, Project

NAME = "own.methods:Smoothed"
RUN = "results/demo/runs/digits/linf/small/at/seed0/run.json"


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_change_of_what_is_computed_counts_and_one_of_words_does_not(own_code: Path) -> None:
    before = source_of(NAME, named="loss", where="here")
    methods = own_code / "own" / "methods.py"
    _edit(methods, "@dataclass(frozen=True)", "# a comment\n@dataclass(frozen=True)")
    assert source_of(NAME, named="loss", where="here") == before
    _edit(methods, "FACTOR * losses", "2 * FACTOR * losses")
    assert source_of(NAME, named="loss", where="here") != before


def test_a_job_runs_the_own_code_that_it_was_planned_with(own_code: Path) -> None:
    threat = ThreatSpec(norm="linf", epsilon="0.1")
    kind = "own.methods:noise"
    attack = AttackSpec(
        name="mine", kind=kind, threat=threat, source=source_of(kind, named="kind", where="here")
    )
    refuse_other_own_code(attack)
    refuse_other_own_code(attack.replace(kind="pgd", source=""))
    (own_code / "own" / "helpers.py").write_text("FACTOR = 2.0\n")
    with pytest.raises(UserError, match=f"{kind}: expected the code that this job was planned"):
        refuse_other_own_code(attack)


@pytest.mark.parametrize("module", ["helpers.py", "__init__.py"])
def test_what_it_imports_from_its_package_counts(own_code: Path, module: str) -> None:
    before = source_of(NAME, named="loss", where="here")
    (own_code / "own" / module).write_text("FACTOR = 2.0\n")
    assert source_of(NAME, named="loss", where="here") != before


def test_another_module_of_the_package_does_not_count(own_code: Path) -> None:
    before = source_of(NAME, named="loss", where="here")
    (own_code / "own" / "networks.py").write_text("x = 1\n")
    assert source_of(NAME, named="loss", where="here") == before


def test_a_module_beside_a_plain_file_counts(own_code: Path) -> None:
    (own_code / "mine.py").write_text("import beside\n\ndef f():\n    return beside.x\n")
    (own_code / "beside.py").write_text("x = 1\n")
    before = source_of("mine:f", named="loss", where="here")
    (own_code / "beside.py").write_text("x = 2\n")
    assert source_of("mine:f", named="loss", where="here") != before


def mark_of(text: str) -> str:
    """The hash of a factory's code as it is now: two edits may fall into one tick of file times."""
    own_code_module._scan.cache_clear()
    return source_of(text, named="loss", where="here")


@pytest.mark.parametrize(
    "statement",
    ["from beside import *", "import beside", "from own import beside", "import own.beside"],
)
def test_whatever_is_imported_counts_even_if_nothing_names_it(
    own_code: Path, statement: str
) -> None:
    """A star brings any names; a module may be imported because it registers itself."""
    places = [own_code / "beside.py", own_code / "own" / "beside.py"]
    (own_code / "mine.py").write_text(f"{statement}\n\ndef f():\n    return 1\n")
    marks = []
    for text in ("x = 1\n", "x = 2\n"):
        for path in places:
            path.write_text(text)
        marks.append(mark_of("mine:f"))
    assert marks[0] != marks[1]


def test_a_star_from_another_package_counts(own_code: Path) -> None:
    marks = []
    for package in ("math", "cmath"):
        (own_code / "mine.py").write_text(
            f"from {package} import *\n\ndef f(x):\n    return sqrt(x)\n"
        )
        marks.append(mark_of("mine:f"))
    assert marks[0] != marks[1]


COMPUTED = {
    "counted(0.9, x)": "counted(0.1, x)",
    "RelativeError('sum', 0.1 if x else 0.5)": "RelativeError('sum', 0.1 if x else 0.7)",
    "MeanWarning('sum')": "MeanWarning('mean')",
}


@pytest.mark.parametrize("call_", COMPUTED)
def test_no_name_of_a_function_makes_its_arguments_words(own_code: Path, call_: str) -> None:
    marks = []
    for text in (call_, COMPUTED[call_]):
        (own_code / "mine.py").write_text(f"def f(x):\n    return {text}\n")
        marks.append(mark_of("mine:f"))
    assert marks[0] != marks[1]


COUNTED = {
    "an import that is handed on": ("from math import sin as g\n", "from math import cos as g\n"),
    "a call in a printed line": ("print(load('a.pt'))\n", "print(load('b.pt'))\n"),
    "a call in an error": ("raise E(step(mode='a'))\n", "raise E(step(mode='b'))\n"),
    "an annotation, which may be acted on": ("def h(x: int): pass\n", "def h(x: str): pass\n"),
    "what only type checkers should see": (
        "TYPE_CHECKING = 1\nif TYPE_CHECKING:\n    g = 1\n",
        "TYPE_CHECKING = 1\nif TYPE_CHECKING:\n    g = 2\n",
    ),
}


@pytest.mark.parametrize("case", COUNTED)
def test_all_but_docstrings_counts(own_code: Path, case: str) -> None:
    marks = []
    for text in COUNTED[case]:
        (own_code / "mine.py").write_text(f"{text}\ndef f(x):\n    return x\n")
        marks.append(mark_of("mine:f"))
    assert marks[0] != marks[1]


def test_docstrings_and_formatting_do_not_count(own_code: Path) -> None:
    marks = []
    for text in ("def f(x):\n    return x\n", 'def f( x ):\n    """Say."""\n    return (x)\n'):
        (own_code / "mine.py").write_text(text)
        marks.append(mark_of("mine:f"))
    assert marks[0] == marks[1]


def _mark_with(text: str, copy: Path, named: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The hash of a factory's code beside another copy of the package."""
    with monkeypatch.context() as patch:
        patch.setattr(own_code_module, "HERE", Code.at(copy))
        own_code_module._beyond.cache_clear()
        found = source_of(text, named=named, where="here")
    own_code_module._beyond.cache_clear()
    return found


@pytest.mark.parametrize(
    ("named", "counts"), [("kind", True), ("family", True), ("loss", False), ("mask", False)]
)
def test_what_it_imports_of_this_project_counts_where_its_step_does_not_stand_on_that(
    own_code: Path, named: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training stands on the objectives anyway, an evaluation does not."""
    (own_code / "mine.py").write_text(
        "from rwp.core.objectives import make_objective\n\ndef f():\n    return make_objective\n"
    )
    copy = tmp_path / "rwp"
    shutil.copytree(PACKAGE_FOLDER, copy)
    before = _mark_with("mine:f", copy, named, monkeypatch)
    trades = copy / "core" / "objectives" / "trades.py"
    trades.write_text(trades.read_text() + "\nMORE = 1\n")
    assert (_mark_with("mine:f", copy, named, monkeypatch) != before) == counts


@pytest.mark.parametrize("package", ["", "pack."])
def test_a_module_beside_one_on_the_pythonpath_counts(
    own_code: Path, package: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("library")
    sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    (place / "pack").mkdir()
    (place / "pack" / "__init__.py").touch()
    module = place / f"{package.replace('.', '/')}far_net.py"
    module.write_text("import far_helper\n\ndef f():\n    return far_helper.x\n")
    marks = []
    for text in ("x = 1\n", "x = 2\n"):
        (place / "far_helper.py").write_text(text)
        marks.append(mark_of(f"{package}far_net:f"))
    assert marks[0] != marks[1]


def test_a_linked_module_counts(own_code: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("library") / "shared.py"
    (own_code / "beside.py").symlink_to(elsewhere)
    (own_code / "mine.py").write_text("import beside\n\ndef f():\n    return beside.x\n")
    marks = []
    for text in ("x = 1\n", "x = 2\n"):
        elsewhere.write_text(text)
        marks.append(mark_of("mine:f"))
    assert marks[0] != marks[1]


def test_what_was_installed_beside_does_not_count(
    own_code: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As `pip install --target` does it: each version of torch there would be another code."""
    place = tmp_path_factory.mktemp("library")
    (place / "other-1.0.dist-info").mkdir()
    sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    (place / "far_mine.py").write_text("import far_other, json\n\ndef f():\n    return 1\n")
    marks = []
    for text in ("x = 1\n", "x = 2\n"):
        (place / "far_other.py").write_text(text)
        marks.append(mark_of("far_mine:f"))
    assert marks[0] == marks[1]


def test_a_package_in_another_place_than_its_name_counts_alone(
    own_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editable install may map a package to any folder, whose parents are anything."""
    (own_code / "src").mkdir()
    (own_code / "src" / "net.py").write_text("def f():\n    return 1\n")
    monkeypatch.setattr(own_code_module, "file_of", lambda _: own_code / "src" / "net.py")
    assert own_code_module._folders_of("deep.er.than.there.is.any.folder.net") == own_folders()


@pytest.mark.parametrize("content", [b"# coding: latin-1\nx = '\xe9'\n", b"print 'old'\n"])
def test_what_is_imported_may_be_in_any_encoding_and_of_any_python(
    own_code: Path, content: bytes
) -> None:
    (own_code / "mine.py").write_text("import beside\n\ndef f():\n    return 1\n")
    marks = []
    for more in (b"y = 1\n", b"y = 2\n"):
        (own_code / "beside.py").write_bytes(content + more)
        marks.append(mark_of("mine:f"))
    assert marks[0] != marks[1]


def test_what_is_missing_or_no_python_is_one_line(own_code: Path) -> None:
    with pytest.raises(UserError, match=r"here: expected the module own\.none"):
        source_of("own.none:f", named="loss", where="here")
    (own_code / "own" / "helpers.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"helpers\.py: expected Python for own\.methods:Smoothed"):
        source_of(NAME, named="loss", where="here")


@pytest.mark.slow
def test_an_installed_module_is_found_without_importing_it() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from rwp.pipeline.own_code import refuse_other_own_code, source_of;"
        "found = source_of('torchvision.ops.misc:MLP', named='family', where='x');"
        "print(len(found), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["12", "False"]


def test_an_attack_that_draws_without_its_generator_gives_the_same_numbers_again(
    own_code: Path,
) -> None:
    attack = AttackSpec(
        name="mine", kind="own.methods:careless", threat=ThreatSpec(norm="linf", epsilon="0.1")
    )
    images, labels = torch.full((4, 3, 8, 8), 0.5), torch.arange(4) % 3
    found = []
    for seed in (0, 0, 1):
        generator = generator_for(seed, "evaluation")
        before = torch.get_rng_state()
        found.append(own_attack(torch.nn.Identity(), images, labels, attack, generator=generator))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


class Fickle(torch.nn.Module):
    """Answers in one of two ways, by a draw that no seed of torch decides."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw, self.inner = draw, torch.nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images) * (1.0 if self.draw() < 0.5 else 2.0)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, random.SystemRandom().random])
def test_an_attack_is_not_blamed_for_a_model_that_varies(
    own_code: Path, draw: Callable[[], float]
) -> None:
    model = Fickle(draw).eval()
    threat = ThreatSpec(norm="linf", epsilon="0.1")
    attack = AttackSpec(name="mine", kind="own.methods:noise", threat=threat)
    images, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)
    for seed in range(12):
        found = own_attack(
            model, images, labels, attack, generator=generator_for(seed, "evaluation")
        )
        assert (found - images).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("where", ["factory", "attack"])
def test_what_an_attack_sets_for_all_of_torch_is_put_back(own_code: Path, where: str) -> None:
    """The attacks after it would be computed otherwise."""

    def found() -> tuple[object, ...]:
        deterministic = torch.are_deterministic_algorithms_enabled()
        asked = torch.get_default_device(), torch.is_grad_enabled()
        return torch.get_default_dtype(), deterministic, torch.get_num_threads(), asked

    kind, threat = "own.methods:settings", ThreatSpec(norm="linf", epsilon="0.1")
    attack = AttackSpec(name="mine", kind=kind, threat=threat, options={"where": where})
    images, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)
    model, before = torch.nn.Conv2d(3, 4, 3).eval(), found()
    own_attack(model, images, labels, attack, generator=generator_for(0, "evaluation"))
    assert found() == before


def test_an_attack_on_a_model_with_tensors_of_other_kinds(own_code: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval()
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    model.register_buffer("narrow", torch.ones(3).to(torch.float8_e5m2))
    threat = ThreatSpec(norm="linf", epsilon="0.1")
    attack = AttackSpec(name="mine", kind="own.methods:noise", threat=threat)
    images, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)
    generator = generator_for(0, "evaluation")
    found = own_attack(model, images, labels, attack, generator=generator)
    assert found.shape == images.shape


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ("mode", "num_batches_tracked"),
        ("weight", "0.weight"),
        ("hook", "hooks"),
        ("global hook", "hooks"),
        ("layer", "layers"),
        ("forward", "another forward of Sequential"),
        ("attribute", "other logits or gradients for the same images"),
    ],
)
def test_an_attack_that_spoils_the_model_is_refused(own_code: Path, what: str, left: str) -> None:
    """Its own number and all later ones would be of another network."""
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
    model = torch.nn.Sequential(*layers).eval()
    threat = ThreatSpec(norm="linf", epsilon="0.1")
    kind = "own.methods:spoiling"
    attack = AttackSpec(name="mine", kind=kind, threat=threat, options={"what": what})
    images, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)
    logits = model(images)
    with pytest.raises(UserError, match=f"mine: {kind}: expected the model as it was.*{left}"):
        own_attack(model, images, labels, attack, generator=generator_for(0, "evaluation"))
    assert not model.training
    if what not in ("mode", "weight"):  # which `rwp.evaluate` puts back
        assert tuple(model) == layers
        assert torch.equal(model(images), logits)


FAR = """
def network(**_):
    raise RuntimeError("found and called")
"""


def test_own_code_on_the_pythonpath_is_found_by_jobs_too(
    project_with_data: Project, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("far")
    (place / "far.py").write_text(FAR)
    settings["networks"]["small"] = {"family": "far:network"}
    project_with_data.write(settings)
    paths = os.pathsep.join([str(ROOT / "src"), str(place)])
    found = subprocess.run(
        [Path(sys.executable).parent / "snakemake", "--cores", "1", RUN],
        cwd=project_with_data.folder,
        env=project_with_data.environment() | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert "found and called" in found.stderr


PAIRS = """
from torch import nn

from pairs_body import body


class Pairs(nn.Module):
    def forward(self, images):
        return body(images)


def network(**_):
    return Pairs()
"""
PAIRS_BODY = """
def body(images):
    return images.flatten(1).view(-1, 2, 192).sum(dim=2)
"""


def test_what_a_network_raises_amid_a_training_is_one_line_wherever_it_is_called(
    own_code: Path,
) -> None:
    """A trial's four images can be paired; five cannot."""
    (own_code / "pairs.py").write_text(PAIRS)
    (own_code / "pairs_body.py").write_text(PAIRS_BODY)
    model = call("pairs:network", {})
    model(torch.rand(4, 3, 8, 4))
    with pytest.raises(RuntimeError) as raised:
        nn.Sequential(model)(torch.rand(5, 3, 8, 4))
    line = _advice(raised.value)
    told = r"pairs:network: expected its code to run, got RuntimeError: .* in pairs_body.py:3; "
    assert line is not None
    assert re.fullmatch(told + "correct it there", line)
    assert told_of_own_code(ValueError("of ours")) == ""


def test_a_fault_of_an_installed_package_is_not_that_of_own_code_beside_it(
    own_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_code / "beside.py").write_text("def network(**_):\n    return None\n")
    call("beside:network", {})
    installed = own_code / ".venv/lib/site-packages"
    installed.mkdir(parents=True)
    (installed / "of_others.py").write_text("def fail():\n    raise ValueError('no pairs')\n")
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    with pytest.raises(ValueError, match="no pairs") as raised:
        importlib.import_module("of_others").fail()
    assert told_of_own_code(raised.value) == ""
