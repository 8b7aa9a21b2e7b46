"""An edit of params.yaml changes no job that is already planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project
from tests.pipeline.repository import small_settings

RUN = "results/demo/runs/digits/linf/small/at/seed0/run.json"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # on a machine that does much else


@pytest.fixture
def small(project_with_data: Project, committed: dict[str, Any]) -> Project:
    project_with_data.write(small_settings(committed, "at"))
    return project_with_data


def start(project: Project, *words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "snakemake"), "--cores", "1", *words],
        cwd=project.folder,
        env=project.environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def epochs_trained(project: Project) -> int:
    return int(json.loads((project.folder / RUN).read_text())["spec"]["optimization"]["epochs"])


def test_jobs_of_this_machine(small: Project) -> None:
    """The training waits for the data; the table, which reads settings itself, for the training."""
    for path in (small.folder / "data/digits").iterdir():
        path.unlink()
    process = start(small, "results/demo/table1.csv")
    while not list((small.folder / ".state").glob("settings/*.yaml")):
        assert process.poll() is None
        time.sleep(0.05)
    (small.folder / "params.yaml").write_text("edited: [while jobs wait\n", encoding="utf-8")
    log, _ = process.communicate()
    assert process.returncode == 0, log
    assert epochs_trained(small) == 3
    assert "AT," in (small.folder / "results/demo/table1.csv").read_text()


@pytest.mark.parametrize("travels", [True, False])
def test_a_job_of_a_cluster(travels: bool, small: Project, committed: dict[str, Any]) -> None:
    """It reads the rules anew when it starts, as Snakemake's executors for clusters have it."""
    before = small.snakemake("--force", "data/unlabeled/digits-holdout.json")
    assert before.returncode == 0, before.stderr
    (kept,) = (small.folder / ".state/settings").glob("*.yaml")
    content = small_settings(committed, "at")
    content["suites"]["demo"]["training"]["epochs"] = 4
    small.write(content)
    job = ("--mode", "remote", "--force", "--nolock", "--no-hooks", "--ignore-incomplete")
    variables = {"RWP_SETTINGS": os.path.relpath(kept, small.folder)} if travels else {}
    process = start(small, *job, RUN, **variables)
    log, _ = process.communicate()
    assert process.returncode == 0, log
    assert epochs_trained(small) == (3 if travels else 4)


def test_a_job_whose_settings_are_gone(small: Project) -> None:
    """Those of today may be others than those that its fingerprint stands on."""
    job = ("--mode", "remote", "--force", "--nolock", "--no-hooks", "--ignore-incomplete")
    process = start(small, *job, RUN, RWP_SETTINGS=".state/settings/gone.yaml")
    log, _ = process.communicate()
    assert process.returncode == 2
    assert "error: RWP_SETTINGS: expected the settings that this job was planned with" in log
    assert not (small.folder / RUN).exists()
