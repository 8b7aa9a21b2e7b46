"""Jobs take turns on the GPUs; the devices are made up, the jobs and locks are real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import pytest
import yte

from rwp import gpu
from rwp.errors import UserError
from rwp.gpu import ALLOCATIONS, take_slots, visible_gpus
from tests.conftest import ROOT, Project

HOLD = """
import sys, time
from rwp.gpu import ALLOCATIONS, take_slots, visible_gpus
with take_slots(visible_gpus(), count=int(sys.argv[2]), poll_seconds=0.02):
    time.sleep(float(sys.argv[1]))
"""
Held = tuple[str, datetime, datetime]


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of the test's own, and with no GPU of this machine in sight."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "locks"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("RWP_JOBS_PER_GPU", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for allocation in ALLOCATIONS:
        monkeypatch.delenv(allocation, raising=False)


def start(seconds: float, count: int = 1, **variables: str) -> subprocess.Popen[str]:
    """A process that holds a slot for so long."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(seconds), str(count)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


def held(texts: Iterable[str]) -> list[Held]:
    """(GPU, from, to) of each job, from what it said on standard error."""
    found = []
    for text in texts:
        pattern = r"^(\S+) GPU (\S+): (taken|given back)$"
        (taken, gpu, _), (back, same, _) = re.findall(pattern, text, re.MULTILINE)
        assert gpu == same
        found.append((gpu, datetime.fromisoformat(taken), datetime.fromisoformat(back)))
    return found


def most_at_once(jobs: Sequence[Held], gpu: str) -> int:
    """How many jobs were on a GPU together at the busiest moment."""
    mine = [(start, end) for name, start, end in jobs if name == gpu]
    return max(sum(start <= moment < end for start, end in mine) for moment, _ in mine)


@pytest.mark.parametrize(("share", "at_once"), [("1", 1), ("2", 2)])
def test_eight_processes_on_two_gpus(share: str, at_once: int) -> None:
    processes = [
        start(0.2, CUDA_VISIBLE_DEVICES="4,GPU-7", RWP_JOBS_PER_GPU=share) for _ in range(8)
    ]
    jobs = held(process.communicate()[1] for process in processes)
    assert len(jobs) == 8
    assert {gpu for gpu, _, _ in jobs} == {"4", "GPU-7"}
    assert most_at_once(jobs, "4") == most_at_once(jobs, "GPU-7") == at_once


def test_jobs_that_want_two_gpus_never_wait_for_each_other() -> None:
    counts = (2, 1, 2, 1, 2)
    processes = [start(0.1, count, CUDA_VISIBLE_DEVICES="0,1") for count in counts]
    jobs = held(process.communicate()[1] for process in processes)
    assert [len(gpus.split(",")) for gpus, _, _ in jobs] == list(counts)
    apart = [(gpu, *times) for gpus, *times in jobs for gpu in gpus.split(",")]
    assert most_at_once(apart, "0") == most_at_once(apart, "1") == 1


def test_more_gpus_than_there_are() -> None:
    with (
        pytest.raises(UserError, match=r"gpus: expected at most 2, .* got 3; lower --gpus"),
        take_slots(["0", "1"], count=3),
    ):
        pass


def test_kill_9_frees_the_gpu() -> None:
    killed = start(60, CUDA_VISIBLE_DEVICES="0")
    assert killed.stderr is not None
    assert "taken" in killed.stderr.readline()
    waiting = start(0, CUDA_VISIBLE_DEVICES="0")
    assert waiting.stderr is not None
    assert "waiting for 1 of the GPUs 0, which other jobs hold" in waiting.stderr.readline()
    time.sleep(0.5)
    assert waiting.poll() is None  # it waits for the first one
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stderr.close()
    waiting.communicate()
    assert waiting.returncode == 0


@pytest.mark.parametrize(("second", "waits"), [("71", False), ("70", True)])
def test_gpu_0_of_another_allocation_is_another_gpu(second: str, waits: bool) -> None:
    """A scheduler that hides devices numbers those of each allocation from 0."""
    first = start(2, CUDA_VISIBLE_DEVICES="0", SLURM_JOB_ID="70")
    assert first.stderr is not None
    taken = first.stderr.readline()
    other = start(0.1, CUDA_VISIBLE_DEVICES="0", SLURM_JOB_ID=second)
    texts = [other.communicate()[1], taken + first.communicate()[1]]
    assert most_at_once(held(texts), "0") == (1 if waits else 2)


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an `nvidia-smi` that knows two GPUs, first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [(None, ["0", "1"]), ("1", ["1"]), ("1, 0", ["1", "0"]), ("", []), ("-1", [])],
)
def test_what_the_user_hid_stays_hidden(
    hidden: str | None, expected: list[str], two_gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert visible_gpus() == expected


@pytest.mark.parametrize("driver", [True, False])
@pytest.mark.parametrize(
    ("program", "reason"), [("exec sleep 9", "timed out"), ("exit 9", "status 9")]
)
def test_gpus_that_nobody_names_are_not_taken_for_none(
    program: str,
    reason: str,
    driver: bool,
    two_gpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A busy nvidia-smi would send a training of days to the CPU, without a word."""
    (two_gpus / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
    original = subprocess.run
    monkeypatch.setattr(
        gpu.subprocess, "run", lambda *words, **more: original(*words, **more | {"timeout": 0.5})
    )
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "gpus")
    monkeypatch.setattr(gpu, "_NODES", tmp_path / "dev")
    if driver:
        (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
        assert visible_gpus() == []  # the host's, none of which this container was given
        capsys.readouterr()
        (tmp_path / "dev" / "nvidia0").mkdir(parents=True)
        with pytest.raises(UserError, match=rf"nvidia-smi: expected .*{reason}.*; mend it, or set"):
            visible_gpus()
    else:
        assert visible_gpus() == []
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line
        assert line.endswith("this job runs on the CPU")


def test_a_step_without_a_gpu_computes_on_the_cpu(
    two_gpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (two_gpus / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert visible_gpus() == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("here", "there", "waits"),
    [
        (("0", "GPU-1a"), ("0", "GPU-2b"), False),
        (("0", "GPU-1a"), ("0", "GPU-1a"), True),
        (("0", "GPU-1a"), ("GPU-1", "GPU-1a"), True),
    ],
)
def test_gpus_are_known_by_their_uuid(
    here: tuple[str, str], there: tuple[str, str], waits: bool, two_gpus: Path
) -> None:
    """Steps of one allocation that see one GPU each all call it 0."""
    for name in ("first", "second"):
        (two_gpus / name).mkdir()
    processes = []
    for name, (visible, uuid) in (("first", here), ("second", there)):
        program = two_gpus / name / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho 0, {uuid}\n")
        program.chmod(0o755)
        path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
        seconds = 60 if name == "first" else 0.1
        processes.append(start(seconds, CUDA_VISIBLE_DEVICES=visible, SLURM_JOB_ID="7", PATH=path))
        assert processes[-1].stderr is not None
        said = processes[-1].stderr.readline()
    processes[0].kill()
    for process in processes:
        process.communicate()
    assert ("waiting for 1 of the GPUs" in said) == waits


@pytest.mark.parametrize("share", ["0", "-1", "two", "1.5", ""])
def test_a_share_that_is_no_number(share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWP_JOBS_PER_GPU", share)
    with (
        pytest.raises(UserError, match=r"RWP_JOBS_PER_GPU: expected .* got .*; set it"),
        take_slots(["0"]),
    ):
        pass


@pytest.mark.parametrize(
    ("hidden", "share", "slots"),
    [("0,1", None, 2), ("0,1", "3", 6), ("2", "x", 1), ("", "2", 1000), ("-1", None, 1000)],
)
def test_snakemake_starts_as_many_jobs_as_there_are_slots(
    hidden: str, share: str | None, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1000: no GPU, so the cores alone limit the jobs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    if share is not None:
        monkeypatch.setenv("RWP_JOBS_PER_GPU", share)
    with (ROOT / "profiles/default/config.yaml").open() as profile:
        assert yte.process_yaml(profile)["resources"]["gpu"] == slots


@pytest.mark.slow
@pytest.mark.usefixtures("two_gpus")
def test_eight_trainings_on_two_gpus(project_with_data: Project) -> None:
    """torch finds no CUDA for made-up GPUs: each job says so, and trains on the CPU."""
    runs = [
        f"results/demo/runs/digits/linf/small/{recipe}/seed{seed}"
        for recipe in ("at", "at-awp")
        for seed in range(4)
    ]
    targets = [f"{run}/run.json" for run in runs]
    limits = ("--cores", "8", "--resources", "gpu=8")  # all start in the same moment
    result = project_with_data.run("snakemake", *targets, *limits)
    assert result.returncode == 0, result.stdout + result.stderr
    logs = [(project_with_data.folder / f"logs/train/{run}.log").read_text() for run in runs]
    jobs = held(logs)
    assert {gpu for gpu, _, _ in jobs} == {"0", "1"}
    assert most_at_once(jobs, "0") == most_at_once(jobs, "1") == 1
    assert all("torch finds no CUDA: this job runs on the CPU" in log for log in logs)
    records = [json.loads((project_with_data.folder / target).read_text()) for target in targets]
    assert [record["gpu"] for record in records] == [gpu for gpu, _, _ in jobs]
    assert {record["threads"] for record in records} == {1}
    assert all(record["device"].startswith("cpu") for record in records)
