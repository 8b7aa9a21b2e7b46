"""What runs says of itself, and `rwp watch` reads it and nothing else."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from rwp import progress
from rwp.commands.watch import running, watch
from rwp.files import SETTINGS_FILE
from rwp.progress import RUNNING, EvaluationProgress, Progress, counted, tracked


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (SETTINGS_FILE, "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def _shown(capsys: pytest.CaptureFixture[str]) -> str:
    watch(follow=False)
    return capsys.readouterr().out


def test_a_training_is_seen_while_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _shown(capsys) == "nothing runs here\n"
    monkeypatch.setenv(SETTINGS_FILE, "settings.yaml")
    with Progress("demo/at", 4, [0, 1]) as shown:
        assert "train demo/at  starting  Snakemake" in _shown(capsys)
        row: dict[str, Any] = {"epoch": 0, "train_loss": 1.0, "test_robust_accuracy": 0.25}
        shown.epoch(row)
        text = _shown(capsys)
        for part in ("epochs 1/4 (25 %)", "s left", "robust accuracy 25.0 %", str(os.getpid())):
            assert part in text
    assert _shown(capsys) == "nothing runs here\n"


def test_a_workflow_whose_jobs_have_just_begun(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".snakemake/locks").mkdir(parents=True)
    assert _shown(capsys) == "nothing runs here\n"
    Path(".snakemake/locks/0.output.lock").touch()
    assert "Snakemake holds this folder" in _shown(capsys)


@pytest.mark.parametrize(
    ("environment", "by"),
    [
        ({}, "by hand"),
        ({SETTINGS_FILE: "x"}, "Snakemake"),
        ({"SLURM_JOB_ID": "7"}, "Slurm job 7"),
        ({"SLURM_JOB_ID": "7", SETTINGS_FILE: "x"}, "Slurm job 7, Snakemake"),
    ],
)
def test_who_started_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], by: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Progress("run", 1, [0]):
        assert [content["by"] for content in running()] == [by]


def test_an_evaluation_tells_its_batches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with EvaluationProgress("demo/at/best"):
        assert list(tracked("pgd-20", range(3))) == [0, 1, 2]
        double = counted("apgd-ce", 2, lambda number: 2 * number)
        assert [double(1), double(2)] == [2, 4]
        lines = capsys.readouterr().err.splitlines()
    assert any("demo/at/best  pgd-20  batch 1/3  0 s left" in line for line in lines)
    assert "demo/at/best  apgd-ce  batch 2/2  0 s left" in lines
    assert list(tracked("alone", [1])) == [1]  # where nobody listens
    assert not list(RUNNING.glob("*.json"))


def test_processes_that_are_gone_are_left_out() -> None:
    RUNNING.mkdir(parents=True)
    content = {"kind": "train", "name": "x", "at": time.time(), "pid": 2**22 + 1}
    (RUNNING / "a.json").write_text(json.dumps(content | {"host": socket.gethostname()}))
    (RUNNING / "b.json").write_text(json.dumps(content | {"host": "elsewhere"}))
    (RUNNING / "c.json").write_text(json.dumps(content | {"host": "elsewhere", "at": 0}))
    (RUNNING / "d.json").write_text("{")
    assert [found["host"] for found in running()] == ["elsewhere"]


def test_a_folder_that_cannot_be_written_hurts_nothing(tmp_path: Path) -> None:
    (tmp_path / ".state").write_text("a file")
    with Progress("run", 1, [0]) as shown:
        shown.step(1)
    assert (tmp_path / ".state").read_text() == "a file"


@pytest.mark.parametrize(
    "wrong",
    [{"pid": None}, {"pid": 10**20}, {"at": "x"}, {"done": 1, "total": "n"}, {"left": []},
     {"robust_accuracy": "high"}, {"robust_accuracy": 0.2, "curve": 7}],
)  # fmt: skip
def test_what_no_run_of_ours_says_is_left_out(
    wrong: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    RUNNING.mkdir(parents=True)
    usual = {"kind": "train", "name": "x", "at": time.time(), "pid": os.getpid()}
    content = usual | {"host": socket.gethostname()} | wrong
    (RUNNING / "a.json").write_text(json.dumps(content))
    assert _shown(capsys) == "nothing runs here\n"


def test_robust_accuracies_are_drawn_by_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("demo/at", 9, [0]) as shown:
        for epoch, value in enumerate((0.1, 0.3, 0.2, 0.8)):
            row = {"epoch": epoch, "train_loss": 1.0, "test_robust_accuracy": value}
            shown.epoch(row)
        assert "robust accuracy ▁▃▂█ 80.0 %" in _shown(capsys)
