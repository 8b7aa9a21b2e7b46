"""The tests of the tests: each is run by a target of the Makefile, and by CI wherever CI can."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import COLLECTED, ROOT, pytest_runtest_logreport

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# What CI's machine has not: these tests have targets of their own.
ELSEWHERE = {"gpu", "slurm", "kubernetes", "mlflow_server", "robustbench"}
Found = tuple[str, frozenset[str]]  # a test's name, and its markers


class _Marks(dict[str, bool]):
    """Names that are not among a test's markers are false."""

    def __missing__(self, name: str) -> bool:
        return False


class Selection:
    """What one call of pytest in the Makefile runs."""

    def __init__(self, command: str) -> None:
        words = shlex.split(command)
        self.expression = words[words.index("-m") + 1] if "-m" in words else "True"
        self.paths = tuple(word for word in words if word.split("/")[0] == "tests")

    def takes(self, found: Found) -> bool:
        name, marks = found
        inside = not self.paths or name.startswith(self.paths)
        # pytest's own syntax: names of markers, and, or, not, parentheses.
        return inside and bool(eval(self.expression, {}, _Marks(dict.fromkeys(marks, True))))


def selections(makefile: str) -> dict[str, Selection]:
    """By target: its call of pytest."""
    text, found, target = makefile.replace("\\\n", " "), {}, ""
    for line in text.splitlines():
        if heading := re.match(r"([\w-]+):", line):
            target = heading[1]
        if line.startswith("\t") and (call := re.search(r"python -m pytest (.*)$", line)):
            found[target] = Selection(call[1])
    return found


def orphans(targets: Iterable[Selection], tests: Iterable[Found]) -> list[str]:
    """The tests that none of the targets runs."""
    chosen = list(targets)
    return [found[0] for found in tests if not any(target.takes(found) for target in chosen)]


def test_every_test_is_run_by_a_target(request: pytest.FixtureRequest) -> None:
    """Of those collected in this session: of all, where pytest is given no path."""
    assert orphans(selections(MAKEFILE).values(), request.config.stash[COLLECTED]) == []


def called_by(script: str) -> set[str]:
    """Words of the lines that call make; a comment calls nothing."""
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("#")]
    return {word for line in lines if "make " in line for word in line.partition(" #")[0].split()}


def test_ci_runs_every_test_that_needs_no_other_machine(request: pytest.FixtureRequest) -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    called = called_by(script)
    here = [found for found in request.config.stash[COLLECTED] if not found[1] & ELSEWHERE]
    targets = [found for name, found in selections(MAKEFILE).items() if name in called]
    assert orphans(targets, here) == []


def test_a_line_that_is_commented_out_runs_nothing() -> None:
    script = (
        "make test\n# make lint\n  # within 40m make test-slow\nmake audit # make test-faults\n"
    )
    assert called_by(script) == {"make", "test", "audit"}


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("true", 0, ""),
        ("exit 3", 3, ""),
        ("exit 124", 0, "ran out of time"),
        ("echo tests/test_a.py >> $RWP_FAILURES; exit 124", 1, "failed:\ntests/test_a.py"),
        ("echo tests/test_a.py >> $RWP_FAILURES; exit 137", 1, "failed:\ntests/test_a.py"),
    ],
)
def test_ci_fails_where_a_test_failed_before_time_ran_out(
    command: str, code: int, said: str
) -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    within = re.search(r"^within\(\) \{\n.*?^\}\n", script, re.M | re.S)
    assert within is not None
    bounded = 'timeout() { shift 3; "$@"; }\n' + within[0] + f"within 40m bash -c '{command}'\n"
    words = ["bash", "-c", f"set -euo pipefail\n{bounded}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert bool(said) == bool(done.stderr)


def test_a_failure_is_noted_as_it_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "failures"
    monkeypatch.setenv("RWP_FAILURES", str(place))
    failed, passed = (SimpleNamespace(nodeid=n, failed=n == "a", when="call") for n in "ab")
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    pytest_runtest_logreport(failed)  # the process that started the worker notes it
    assert not place.exists()
    monkeypatch.delenv("PYTEST_XDIST_WORKER")
    for report in (failed, passed):
        pytest_runtest_logreport(report)
    assert place.read_text() == "a (call)\n"


def test_a_test_that_nothing_runs_is_noticed() -> None:
    """As once: tests marked `faults` outside the folder that `make test-faults` named."""
    makefile = (
        "test: setup\n\t@python -m pytest -n 2 -m 'not slow and not faults' --cov\n"
        "test-faults: setup\n\t@FILE=x python -m pytest \\\n\t\t-m faults tests/faults\n"
    )
    targets = selections(makefile)
    assert list(targets) == ["test", "test-faults"]
    tests = [
        ("tests/data/test_a.py::test_a", frozenset({"faults"})),
        ("tests/data/test_a.py::test_b", frozenset({"parametrize"})),
        ("tests/faults/test_c.py::test_c", frozenset({"faults", "slow"})),
        ("tests/core/test_d.py::test_d", frozenset({"slow"})),
    ]
    assert orphans(targets.values(), tests) == [tests[0][0], tests[3][0]]


def _functions(path: Path) -> list[str]:
    """The functions of a module and of its classes, each with its class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [("", tree.body)]
    bodies += [(f"{node.name}.", node.body) for node in tree.body if isinstance(node, ast.ClassDef)]
    return [
        prefix + node.name
        for prefix, body in bodies
        for node in body
        if isinstance(node, ast.FunctionDef)
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda p: p.stem)
def test_every_function_named_as_a_test_is_collected(path: Path) -> None:
    """None in a file that pytest does not read, and no name twice, of which the last one counts."""
    tests = [name for name in _functions(path) if name.startswith("test_")]
    assert path.name.startswith("test_") or not tests
    assert sorted(set(tests)) == sorted(tests)
