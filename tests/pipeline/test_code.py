"""The code hash: what cannot change a number does not count; what can does, wherever it stands."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rwp.data.transfer import images_of
from rwp.errors import UserError
from rwp.pipeline import code, why
from rwp.pipeline.code import (
    CODE,
    HERE,
    PLANNED,
    Code,
    ScanNotes,
    dumped,
    is_infrastructure,
    plan_with,
    refuse_other_code,
)
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import Params
from rwp.pipeline.steps import Steps
from rwp.spec import radius_value
from tests.conftest import ROOT

FILES = {
    "attacks.py": '''"""Attacks."""
from rwp.shapes import Tensor


def step(x: Tensor, *, size: float = 0.5) -> Tensor:
    """One step."""
    scale: float = 1.0
    if x is None:
        raise ValueError(f"step: expected images, got {type(x)}; " "name some")
    log.warning("%s: a step of %s", x, size)
    return x + scale
''',
    "loop.py": """from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    rate: float
    steps: int = 3


def train():
    from rwp.attacks import step  # lazy
    return step(0)
""",
    "table.py": "WIDTH = 3\n",
    "shapes.py": "Tensor = int\n",
    "tracking.py": "URI = 1\n",
    "uses_tracking.py": "from rwp.tracking import URI\nprint(URI)\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def hashes(package: Path) -> dict[str, str]:
    code = Code.at(package)
    return {name: code.hash(f"rwp.{name}") for name in ("loop", "table", "uses_tracking")}


def changed(package: Path, name: str, old: str, new: str) -> set[str]:
    before = hashes(package)
    path = package / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    after = hashes(package)
    return {key for key in after if after[key] != before[key]}


NO_NUMBER = {
    "a docstring": ('"""One step."""', '"""Another sentence."""'),
    "no docstring": ('    """One step."""\n', ""),
    "formatting and a comment": ("x + scale", "(x  +  scale)  # why"),
    "an error's text": ("step: expected images, got", "step: no images but"),
    "an error's text without a value": (
        'f"step: expected images, got {type(x)}; " "name some"',
        '"none"',
    ),
    "an error's text put together": ('f"step: expected images, got {type(x)}; "', '"a" + str(x) +'),
    "a log line": ('"%s: a step of %s"', '"%s (%s)"'),
    "types": ("x: Tensor, *, size: float = 0.5) -> Tensor", 'x, *, size: "int" = 0.5)'),
    "a type of a variable": ("scale: float = 1.0", "scale = 1.0"),
    "an import for types": ("from rwp.shapes import Tensor\n", ""),
    "an import for type checkers": (
        "from rwp.shapes import Tensor\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rwp.table import WIDTH\n",
    ),
}


@pytest.mark.parametrize("name", NO_NUMBER)
def test_what_computes_nothing_does_not_count(name: str, package: Path) -> None:
    assert changed(package, "attacks.py", *NO_NUMBER[name]) == set()


A_NUMBER = {
    "arithmetic": ("attacks.py", "x + scale", "x - scale"),
    "a local number": ("attacks.py", "= 1.0", "= 1.5"),
    "a default": ("attacks.py", "= 0.5", "= 0.25"),
    "a condition of an error": ("attacks.py", "if x is None", "if x is not None"),
    "another error": ("attacks.py", "ValueError", "KeyError"),
    "a call within an error's text": ("attacks.py", "{type(x)}", "{x.pop()}"),
    "a call within a log line": ("attacks.py", "x, size)", "x.pop(), size)"),
    "no check": ("attacks.py", "raise ValueError", "return ValueError"),
    "a dataclass's default": ("loop.py", "steps: int = 3", "steps: int = 4"),
    "a dataclass's field": ("loop.py", "    rate: float\n", "    rate: float\n    more: int\n"),
    "the fields' order": (
        "loop.py",
        "rate: float\n    steps: int = 3",
        "steps: int\n    rate: float = 3",
    ),
    "a decorator": ("loop.py", "@dataclass(frozen=True)", "@dataclass"),
    "where a name is from": (
        "loop.py",
        "from rwp.attacks import step",
        "from rwp.table import step",
    ),
}


@pytest.mark.parametrize("name", A_NUMBER)
def test_what_computes_counts_in_all_that_imports_it_even_lazily(name: str, package: Path) -> None:
    assert changed(package, *A_NUMBER[name]) == {"loop"}


def test_only_what_imports_it(package: Path) -> None:
    assert changed(package, "table.py", "3", "4") == {"table"}


def test_infrastructure_does_not_count(package: Path) -> None:
    assert changed(package, "tracking.py", "URI = 1", "URI = 2") == set()


def test_conversions_that_do_not_count_have_their_one_right_value() -> None:
    """A mistake in them would leave every result done."""
    assert all(map(is_infrastructure, ("rwp.data.transfer", "rwp.spec", "rwp.training.spec")))
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    images = images_of(levels, torch.device("cpu")).flatten().numpy()
    assert images.dtype == np.float32
    assert np.array_equal(images, np.arange(256, dtype=np.float32) / np.float32(255))
    for text, value in (("8/255", 8 / 255), ("0.031", 0.031), ("1/510", 1 / 510), ("1", 1.0)):
        assert radius_value(text) == value


def test_which_epochs_are_measured_by_which_attack(params: Params) -> None:
    names = {"recipe": "at", "dataset": "digits", "threat": "linf", "seed": 0}
    spec = train_spec(params, run_key(params, "demo", **names))
    last = spec.optimization.epochs - 1
    every_third = spec.replace(selection_every=3)
    measured = [epoch for epoch in range(last + 1) if every_third.measures("held_out", epoch)]
    assert measured == sorted({*range(0, last + 1, 3), last})
    assert all(every_third.measures("test", epoch) for epoch in range(last + 1))
    assert spec.monitor is not None
    other = spec.monitor.replace(num_steps=7, name="pgd-7")
    chosen = spec.replace(selection_monitor=other)
    assert (chosen.monitor_of("held_out"), chosen.monitor_of("test")) == (other, spec.monitor)
    assert spec.monitor_of("held_out") == spec.monitor


def test_unknown_module() -> None:
    with pytest.raises(ValueError, match=r"expected a module of rwp, got 'rwp\.nothing'"):
        HERE.hash("rwp.nothing")


def test_training_stands_on_the_algorithm_and_not_on_the_report() -> None:
    seen = HERE.parts("rwp.training.jobs")
    for needed in ("core.weight_perturbation", "core.attacks", "data.augmentation", "rng"):
        assert f"rwp.{needed}" in seen
    assert not {name for name in seen if "reporting" in name or "evaluation" in name}


def test_what_an_earlier_process_found_is_read_and_no_edit_is_missed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    notes = tmp_path / ".state/code.json"
    plain = hashes(package)

    def noted() -> str:
        return Code.at(package, notes=ScanNotes(notes)).hash("rwp.loop")

    assert noted() == noted() == plain["loop"]
    written = notes.read_text(encoding="utf-8")
    path, found = package / "attacks.py", FILES["attacks.py"]
    path.write_text(found.replace("x + scale", "x - scale"), encoding="utf-8")
    assert noted() == hashes(package)["loop"] != plain["loop"]
    path.write_text(found, encoding="utf-8")
    # A note is believed for its very text; notes that are damaged, or of another scanner, are not.
    notes.write_text(written.replace(Code.at(package).parts("rwp.loop")["rwp.loop"], "0" * 16))
    assert noted() != plain["loop"]
    for damaged in (written[:100], "[]", written.replace('"scanner": "', '"scanner": "x')):
        notes.write_text(damaged)
        assert noted() == plain["loop"]
    # Where none can be written, the texts are parsed again.
    notes.unlink()
    notes.parent.rmdir()
    notes.parent.touch()
    assert noted() == plain["loop"]


def test_what_a_star_brings_counts(tmp_path: Path) -> None:
    hashes = []
    for package in ("math", "cmath"):
        text = f"from {package} import *\ndef f(x):\n    return sqrt(x)\n"
        (tmp_path / "part.py").write_text(text)
        hashes.append(Code.at(tmp_path).own_hash("rwp.part"))
    assert hashes[0] != hashes[1]


def test_telling_how_far_a_loop_is_computes_nothing(tmp_path: Path) -> None:
    plain = "def f(n):\n    for i in enumerate(range(n)):\n        yield g(lambda x: x + i)\n"
    telling = (
        "from rwp.progress import counted, tracked\n"
        "def f(n):\n    for i in enumerate(tracked('a', range(n))):\n"
        "        yield g(counted('a', n, lambda x: x + i))\n"
    )
    hashes = []
    for text in (plain, telling, telling.replace("range(n)", "range(n + 1)")):
        (tmp_path / "part.py").write_text(text)
        hashes.append(Code.at(tmp_path).own_hash("rwp.part"))
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


SAMPLE = """
import math
from collections.abc import Callable

@cached
class Step[T: int](Base, metaclass=Meta):
    size: float = 0.5
    def __call__(self, x, /, y=None, *rest, scale: float = 1e-3, **more) -> None:
        global WIDTH
        with open(x) as f, lock:
            return [*rest, {**more, 1: None}, (x if y else -x) ** 2,
                    x[1:None, ...], f"{x!r:>{y}}{y}"]
async def steps(xs):
    async for x in xs:
        yield lambda z: z and not x
    match xs:
        case None | [1, *_] if xs: pass
        case {"a": b, **c}: del b
        case Step(size=0.5): raise ValueError from None
    try: assert x is not None, b"text"
    except* (OSError, KeyError) as e: x += 1j
    finally: nonlocal_ = (w := x)
"""


def test_a_tree_is_the_same_text_by_every_python() -> None:
    """Or all results would be stale after an upgrade; as 3.11 wrote it, so that none is now."""
    sample = SAMPLE.replace("[T: int]", "")  # 3.11 does not know it
    text = dumped(ast.parse(sample))
    found = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert found == "0a25698ab3d40dfa"
    if sys.version_info[:2] == (3, 11):
        for path in (ROOT / "src/rwp").rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert dumped(tree) == ast.dump(tree), path
    else:
        assert "type_params=[TypeVar" in dumped(ast.parse(SAMPLE))


def test_a_job_runs_the_code_that_it_was_planned_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Edited while jobs wait: results of other code would have the fingerprint of the planned."""
    monkeypatch.delenv(PLANNED, raising=False)
    refuse_other_code("train")  # planned by nobody
    monkeypatch.setenv(PLANNED, "{}")  # which the test's end puts back
    copy = shutil.copytree(ROOT / "src/rwp", tmp_path / "rwp")
    monkeypatch.setattr(code, "HERE", Code.at(copy))
    plan_with({"train": "rwp.training.jobs", "fetch": "rwp.data.fetch"})
    loop = copy / "training/loop.py"
    for edited in ("# a comment\n", "STEPS = 2\n"):
        loop.write_text(loop.read_text(encoding="utf-8") + edited, encoding="utf-8")
        monkeypatch.setattr(code, "HERE", Code.at(copy))
        refuse_other_code("fetch")
        if edited.startswith("#"):
            refuse_other_code("train")
    with pytest.raises(
        UserError, match=r"training\.jobs: expected the code that this job was plan"
    ):
        refuse_other_code("train")
    with pytest.raises(UserError, match="the code of the step judge, got that of train, fetch;"):
        refuse_other_code("judge")


def test_a_fingerprint_stands_on_the_code(params: Params, tmp_path: Path) -> None:
    key = run_key(params, "demo", recipe="at", dataset="digits", threat="linf", seed=0)
    notes = ScanNotes(tmp_path / "code.json")

    def mark(more: str) -> str:
        def read(name: str) -> str | None:
            path = ROOT / "src/rwp" / name
            text = path.read_text(encoding="utf-8") if path.is_file() else None
            return f"{text}{more}" if name == "training/loop.py" else text

        return Steps(params, Code(read, notes=notes)).train(key).fingerprint

    assert mark("# a comment\n") == mark("") != mark("STEPS = 2\n")


# Of each step: the command, and what it calls of `rwp` to do the work.
WORK = {
    "fetch": ("data", "fetch_dataset"),
    "unlabeled": ("data", "fetch_unlabeled"),
    "train": ("train", "train_run"),
    "label": ("pseudo_label", "write_pseudo_labels"),
    "evaluate": ("evaluate", "evaluate_checkpoint"),
    "judge": ("diagnose", "diagnose_checkpoint"),
    "landscape": ("landscape", "measure_landscape"),
    "table1": ("table", "tables"),
    "table2": ("table", "write_pairs"),
    "beyond": ("table", "tables"),
    "figure": ("figure", "write_suite_figure"),
    "metrics": ("table", "write_metrics"),
    "claims": ("claims", "write_claims"),
    "report": ("report", "write_report"),
}


@pytest.mark.parametrize("step", CODE)
def test_the_code_of_a_step_is_what_its_command_calls(step: str) -> None:
    command, called = WORK[step]
    text = (ROOT / f"src/rwp/commands/{command}.py").read_text(encoding="utf-8")
    (module,) = re.findall(rf"from (rwp\.\S+) import .*\b{called}\b", text)
    inside = f"{module}.{called}"
    if (ROOT / "src" / f"{inside.replace('.', '/')}.py").exists():
        module = inside
    assert module in HERE.parts(CODE[step])


def test_a_project_in_a_folder_of_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git takes `COMMIT:src/rwp` from the top of the repository, wherever it is called."""
    root = tmp_path / "projects" / "weights"
    package = root / "src" / "rwp"
    package.mkdir(parents=True)
    (package / "one.py").write_text("x = 1\n")
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "first")):
        subprocess.run(("git", "-C", str(tmp_path), *words), check=True)
    monkeypatch.setattr(why, "_ROOT", root)
    commit = why.git("rev-parse", "HEAD").decode().strip()
    record = tmp_path / "run.json"
    record.write_text(json.dumps({"commit": commit}))
    assert why._candidates(record)[0] == commit
    assert why.code_at(commit).parts("rwp.one")
    asked = []

    def code_at(commit: str) -> Code:
        asked.append(commit)
        raise ValueError

    monkeypatch.setattr(why, "code_at", code_at)
    assert why.maker(None, SimpleNamespace(path="run.json"), "", root=tmp_path) is None
    assert asked == [commit]
