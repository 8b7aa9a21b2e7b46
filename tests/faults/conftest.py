"""The fault matrix: real processes, real engines. `make test-faults` runs it and prints a table."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.conftest import ROOT, Project, tiny_settings
from tests.faults import ledger, sample
from tests.faults.processes import Undisturbed, read_undisturbed, train_undisturbed

STATE = ROOT / ".state"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and "faults" in (config.option.markexpr or ""):
        config.stash[_STARTED] = time.monotonic()
        STATE.mkdir(exist_ok=True)
        if ledger.VARIABLE not in os.environ:  # else several runs add up in one file
            place = STATE / "faults.jsonl"
            place.write_text("")
            os.environ[ledger.VARIABLE] = str(place)


_STARTED = pytest.StashKey[float]()


def pytest_report_header() -> str:
    return sample.headline()


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    place = os.environ.get(ledger.VARIABLE)
    if place is None or hasattr(config, "workerinput") or _STARTED not in config.stash:
        return
    rows = ledger.summary(Path(place))
    if not rows:
        return
    seconds = round(time.monotonic() - config.stash[_STARTED])
    content = {"seconds": seconds, "exit_status": int(exitstatus), "rows": rows}
    content["selection"] = sample.headline()
    (STATE / "faults.json").write_text(json.dumps(content, indent=2) + "\n")
    (STATE / "faults.md").write_text(ledger.page(content))
    terminalreporter.section(f"faults ({seconds} s)")
    terminalreporter.write_line(ledger.text_table(rows))


@pytest.fixture(scope="session")
def brief(committed: dict[str, Any]) -> dict[str, Any]:
    """The demo suite with trainings of a second or two."""
    return tiny_settings(committed)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, digits: Path, brief: dict[str, Any]
) -> Undisturbed:
    """What the defenses come to when nothing goes wrong: one process, one after another.

    Trained once for all test processes; each module has a copy that it may damage.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    with FileLock(f"{shared}.lock"):
        if not (shared / "steps.json").exists():
            train_undisturbed(new_project(shared, digits, brief))
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(shared, folder, dirs_exist_ok=True, symlinks=True)
    return read_undisturbed(Project(folder, brief))


def new_project(folder: Path, digits: Path, content: dict[str, Any]) -> Project:
    """A project with data in which commands run."""
    folder.mkdir(exist_ok=True)
    for name in ("Snakefile", "workflow", "profiles", "src"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(digits, folder / "data")
    return Project(folder, content)


@pytest.fixture
def place(tmp_path: Path, digits: Path, brief: dict[str, Any]) -> Project:
    """A fresh project with data."""
    return new_project(tmp_path / "project", digits, brief)
