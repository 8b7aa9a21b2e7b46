"""The pipeline on a real Slurm of one node; `make test-slurm` brings it up around these tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project
from tests.pipeline.test_exact_rerun import small_settings

RUN = "results/demo/runs/digits/linf/small/at-rwp/seed0"
SMALL_NODE = (
    *("--default-resources", "mem_mb=1500", "runtime=20"),
    *("--set-resources", "train_demo:mem_mb=1500", "evaluate_demo:mem_mb=1500"),
    *("--slurm-init-seconds-before-status-checks", "10"),
    *("--slurm-status-command", "squeue"),  # there is no accounting
    *("--latency-wait", "20", "--retries", "2"),
)


def slurm_answers() -> bool:
    if shutil.which("scontrol") is None:
        return False
    return subprocess.run(("scontrol", "ping"), capture_output=True, timeout=20).returncode == 0


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not slurm_answers(), reason="no Slurm here: make test-slurm brings one up"),
]


@pytest.fixture
def on_slurm(project_with_data: Project) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Snakemake with the Slurm profile in a small project."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        log = (project_with_data.folder / "snakemake.log").open("w")
        process = subprocess.Popen(
            ("snakemake", *words, "--workflow-profile", "profiles/slurm", *SMALL_NODE),
            cwd=project_with_data.folder,
            env=project_with_data.environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=60)


def finish(process: subprocess.Popen[str], project: Project, seconds: float) -> str:
    """Wait, and give Snakemake's log."""
    process.wait(timeout=seconds)
    text = (project.folder / "snakemake.log").read_text()
    assert process.returncode == 0, text
    return text


def test_the_demo_goes_through_slurm(
    on_slurm: Callable[..., subprocess.Popen[str]],
    project_with_data: Project,
    committed: dict[str, Any],
) -> None:
    project_with_data.write(small_settings(committed))
    targets = [f"results/demo/{name}" for name in ("table1.csv", "table2.csv", "report.html")]
    text = finish(on_slurm(*targets), project_with_data, 1200)
    assert all((project_with_data.folder / target).exists() for target in targets)
    submitted = re.findall(r"slurm_logs/rule_([a-z0-9_]+)/\S*\)", text)
    # Tables, figures and the report are made on the spot, and no job needed a second attempt.
    kinds = {"train_demo", "train_demo_kept0", "evaluate_demo", "diagnose"}
    assert set(submitted) == kinds
    assert len(submitted) == 6
    assert project_with_data.run("rwp", "verify").returncode == 0
    for record in project_with_data.folder.rglob("run.json"):
        found = json.loads(record.read_text())
        assert found["gpu"] in ("0", "1")  # Slurm's choice
        assert found["threads"] == 1


@pytest.fixture
def long_training(project_with_data: Project, committed: dict[str, Any]) -> Project:
    """Settings under which the training takes a minute."""
    content = small_settings(committed)
    content["suites"]["demo"]["training"] |= {"epochs": 60, "decay_epochs": [50]}
    project_with_data.write(content)
    return project_with_data


def test_a_killed_training_goes_on(
    on_slurm: Callable[..., subprocess.Popen[str]], long_training: Project
) -> None:
    """First Slurm takes its node away and requeues it, then its process is killed outright."""
    target = f"{RUN}/run.json"
    snakemake = on_slurm(target)
    before = _rows_of_some_epochs(long_training, more_than=4)
    (job,) = _jobs()
    subprocess.run(("scontrol", "requeue", job), check=True)
    after = _rows_of_some_epochs(long_training, more_than=len(before) + 4)
    assert after[: len(before)] == before  # seconds included: they were not trained again
    assert _jobs() == [job]
    os.kill(_training_process(long_training), signal.SIGKILL)
    text = finish(snakemake, long_training, 600)
    history = (long_training.folder / f"{RUN}/history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in history]
    assert [row["epoch"] for row in rows] == list(range(60))
    assert rows[: len(after)] == after
    assert "Trying to restart job" in text  # Snakemake's own retry, after the second
    assert json.loads((long_training.folder / target).read_text())["status"] == "finished"


def _rows_of_some_epochs(project: Project, *, more_than: int) -> list[dict[str, Any]]:
    """The finished epochs of the training, once there are enough of them."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        for path in _histories(project.folder):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            if len(rows) > more_than:
                return rows
        time.sleep(0.5)
    raise AssertionError((project.folder / "snakemake.log").read_text())


def _histories(folder: Path) -> Iterator[Path]:
    yield from (folder / ".state").glob("demo/**/history.jsonl")


def _jobs() -> list[str]:
    result = subprocess.run(
        ("squeue", "--noheader", "--format=%i"), capture_output=True, text=True, check=True
    )
    return result.stdout.split()


def _training_process(project: Project) -> int:
    """The process that trains, not the shells around it."""
    found = [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit()
        and b"-m\0rwp\0train\0" in _link_or_line(folder, "cmdline")
        and _link_or_line(folder, "cwd") == bytes(project.folder)
    ]
    assert len(found) == 1
    return found[0]


def _link_or_line(folder: Path, name: str) -> bytes:
    try:
        path = folder / name
        return bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
    except OSError:  # it has ended
        return b""
