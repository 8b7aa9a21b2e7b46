"""`make setup` in a folder with two small locks and a `uv` that only notes what it is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

UV = """#!/bin/sh
echo "$@" | tr ' ' '\\n' | grep '\\.lock$' >> {log}
exit 0
"""
Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / ".git").mkdir(parents=True)
    (folder / "workflow" / "envs").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("requirements.lock", "workflow/envs/uv.lock"):
        (folder / name).write_text("")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text(UV.format(log=tmp_path / "log"))
    (tools / "uv").chmod(0o755)
    return folder


def make(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(project.parent / "tools"), os.environ["PATH"]])
    return subprocess.run(
        ["make", "--no-print-directory", *words, f"PYTHON={sys.executable}"],
        cwd=project,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )


def asked(project: Path) -> list[str]:
    """The locks that uv was asked to install since the last call."""
    log = project.parent / "log"
    found = log.read_text().split()
    log.unlink()
    return found


def test_a_new_lock_keeps_what_was_added(project: Path) -> None:
    """`uv pip sync` takes out all that the lock does not name."""
    result = make(project, "extra-slurm")
    assert result.returncode == 0, result.stderr
    assert asked(project) == ["requirements.lock", "workflow/envs/slurm.lock"]
    assert make(project, "extra-slurm").returncode == 0
    asked(project)
    (project / "requirements.lock").write_text("# pulled\n")
    stamp = project / ".venv" / ".installed"
    os.utime(stamp, (0, 0))
    assert make(project, "setup").returncode == 0
    assert asked(project) == ["requirements.lock", "workflow/envs/slurm.lock"]


@pytest.mark.slow
def test_a_moved_folder_gets_an_environment_anew(project: Path) -> None:
    assert make(project, "setup").returncode == 0
    (project / ".venv" / "old").write_text("")
    moved = project.with_name("moved")
    project.rename(moved)
    result = make(moved, "setup")
    assert result.returncode == 0, result.stderr
    assert "it is made anew" in result.stdout
    assert not (moved / ".venv" / "old").exists()


def test_the_environment_of_another_machine_stays(project: Path) -> None:
    """One folder that two machines have at two paths: jobs may be at work over there."""
    assert make(project, "setup").returncode == 0
    stamp = project / ".venv" / ".installed"
    stamp.write_text("/mnt/project\nother-node\n")
    result = make(project, "setup")
    assert result.returncode == 2
    assert (
        "make: .venv: expected an environment of this machine, got one that other-node has at"
        " /mnt/project; if no job uses it there, remove .venv" in result.stderr
    )
    assert stamp.exists()
