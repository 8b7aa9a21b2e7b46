"""Several processes as a person starts them: by torchrun, and by the launcher of `--gpus`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rwp import __version__
from tests.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # on a machine that does much else

LAUNCH = "import sys; from rwp.processes import launch; sys.exit(launch(2, sys.argv[1:]))"
TRAIN = ("train", "--recipe", "at-rwp", "--no-tracking")


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Until it is so, however slow the machine is; the process must be at work meanwhile."""
    while not condition():
        assert process is None or process.poll() is None
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(word) for word in text.split()]


def alive(pid: int) -> bool:
    """Whether a process is at work; one that has ended and waits to be noticed is not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def epochs_done(project: Project) -> int:
    found = list((project.folder / ".state").rglob("history.jsonl"))
    return len(found[0].read_text(encoding="utf-8").splitlines()) if found else 0


@pytest.fixture
def launched(
    project_with_data: Project, settings: dict[str, Any]
) -> Iterator[subprocess.Popen[str]]:
    """A training of two processes that would go on for minutes, some epochs old."""
    content = json.loads(json.dumps(settings))
    content["suites"]["demo"]["training"]["epochs"] = 400
    project_with_data.write(content)
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *TRAIN],
        cwd=project_with_data.folder,
        env=project_with_data.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: epochs_done(project_with_data) > 1, process)
        yield process
    finally:
        process.kill()
        process.wait()


def checkpoint(project: Project) -> dict[str, Any]:
    (path,) = (project.folder / ".state").rglob("checkpoint.pt")
    return torch.load(path, weights_only=True)["progress"]


def test_torchrun(project_with_data: Project) -> None:
    result = project_with_data.run("torchrun", "--nproc-per-node", "2", "-m", "rwp", *TRAIN)
    assert result.returncode == 0, result.stderr
    folder = project_with_data.folder / "results/demo/runs/digits/linf/small/at-rwp/seed0"
    assert result.stdout.split() == [str(folder)]
    assert result.stderr.count("epoch 3/3") == 1
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (record["status"], record["processes"]) == ("finished", 2)
    assert record["performance"]["flops_per_second"] > 0
    assert record["versions"]["rwp"] == __version__  # a package of that name elsewhere is another
    assert "not installed" not in record["versions"].values()
    assert len((folder / "history.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_bad_input_is_one_line_of_one_process(project: Project) -> None:
    result = project.run("python", "-c", LAUNCH, *TRAIN)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert "train.pt: expected the train images, found none" in line


def test_sigterm_reaches_all_and_saves(
    launched: subprocess.Popen[str], project_with_data: Project
) -> None:
    ranks = children(launched.pid)
    assert len(ranks) == 2
    launched.send_signal(signal.SIGTERM)
    _, said = launched.communicate()
    assert launched.returncode == 143
    assert said.count("stopped as asked; the same command goes on from here") == 1
    assert "Traceback" not in said
    assert not any(alive(rank) for rank in ranks)
    assert checkpoint(project_with_data)["step"] > 0


def test_a_killed_launcher_leaves_no_process_and_nothing_is_lost(
    launched: subprocess.Popen[str], project_with_data: Project
) -> None:
    ranks = children(launched.pid)
    launched.kill()
    wait_for(lambda: not any(alive(rank) for rank in ranks))
    assert checkpoint(project_with_data)["epoch"] > 0


def test_a_killed_process_ends_the_others_and_is_named(
    launched: subprocess.Popen[str], project_with_data: Project
) -> None:
    ranks = children(launched.pid)
    os.kill(ranks[1], signal.SIGKILL)
    _, said = launched.communicate()
    assert launched.returncode == 137
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "process 1 of 2: expected it to finish, it was killed by signal 9" in lines[-1]
    assert not any(alive(rank) for rank in ranks)
    assert checkpoint(project_with_data)["epoch"] > 0
