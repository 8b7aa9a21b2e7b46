"""run.json: a run's settings and inputs, and how it ended."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rwp.files import atomic_write, sha256_file
from rwp.training.flops import summary
from rwp.training.history import Row, finite
from rwp.training.loop import Training

FORMAT = "rwp.run/1"


@dataclass(frozen=True)
class RunFiles:
    """The files of a run's folder."""

    folder: Path

    @property
    def last(self) -> Path:
        """The network of the final epoch."""
        return self.folder / "last.pt"

    def chosen(self, name: str) -> Path:
        """The network of the epoch that was chosen as `best` or `best_on_test`."""
        return self.folder / f"{name}.pt"

    @property
    def history(self) -> Path:
        """One JSON object per epoch."""
        return self.folder / "history.jsonl"

    @property
    def record(self) -> Path:
        """How the run came about."""
        return self.folder / "run.json"


def run_record(
    training: Training,
    history: list[Row],
    outcome: dict[str, str | None],
    files: dict[str, dict[str, str]],
    mlflow_run_id: str | None,
) -> dict[str, Any]:
    """The content of run.json.

    `outcome` has the keys status, reason and fingerprint; `files` the hashes of the `inputs` that
    were read and of the `networks` that were written.
    """
    finished = outcome["status"] == "finished"
    chosen = training.progress.chosen
    if not training.progress.made_by:  # all steps were an earlier version's, which noted nothing
        note_machine(training)
    *earlier, now = training.progress.made_by
    return {
        "format": FORMAT,
        **outcome,
        "key": training.spec.key.document(),
        "spec": training.spec.document(),
        **now,  # what made the last epoch, and before it others
        **({"earlier": earlier} if earlier else {}),
        "deterministic": all(each["deterministic"] for each in training.progress.made_by),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),  # by the machine's own numbering
        **files,
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "seconds": round(sum(row["seconds"] for row in history), 3),
        "performance": summary(history),
        "passes": training.progress.passes,
        **{n: finite(row) if (row := chosen.get(n)) else None for n in ("best", "best_on_test")},
        "last": finite(history[-1]) if finished else None,
        "mlflow_run_id": mlflow_run_id,
    }


def note_machine(training: Training) -> None:
    """Add what computes now to what has computed so far, if it is another."""
    made_by = training.progress.made_by
    now = {
        "commit": commit(),
        "versions": versions(),
        "device": device_name(training.device),
        "processor": processor_name(),  # of the same instructions two makers' give other bits
        "processes": training.group.size,
        "threads": torch.get_num_threads(),  # more threads add in another order: other bits
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if made_by[-1:] != [now]:
        made_by.append(now)


def copy_file(source: Path, target: Path) -> None:
    """Copy in one move."""
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def file_hashes(inputs: dict[str, Path], folder: Path) -> dict[str, dict[str, str]]:
    """The SHA-256 of each file that was read, by its role, and of each network, by its name."""
    networks = {name: folder / f"{name}.pt" for name in ("best", "best_on_test", "last")}
    return {
        "inputs": {role: sha256_file(path) for role, path in inputs.items()},
        "networks": {name: sha256_file(path) for name, path in networks.items() if path.exists()},
    }


@cache
def commit() -> str | None:
    """The checked-out commit, "+changes" where files differ from it; none outside of git.

    A project that was unpacked in the folder of another repository is outside.
    """

    def git(*words: str) -> str:
        command = ("git", *words)
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return found.stdout.strip()

    try:
        if not git("ls-files", "--", "."):  # none of this folder is known there
            return None
        return git("describe", "--always", "--abbrev=12", "--dirty=+changes", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def versions() -> dict[str, str]:
    """Versions of all that may change the bits."""
    found = {"python": platform.python_version()}
    names = {"rwp": "robust-weight-perturbation"}  # as the package index knows it
    for package in ("torch", "numpy", "pyautoattack", "rwp"):
        try:
            found[package] = version(names.get(package, package))
        except PackageNotFoundError:
            found[package] = "not installed"
    if torch.version.cuda is not None and torch.cuda.is_available():
        found["cuda"], found["cudnn"] = torch.version.cuda, str(torch.backends.cudnn.version())
    return found


def device_name(device: torch.device) -> str:
    """The name of the device that computed."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


@cache
def processor_name() -> str:
    """The processor's name, as its maker gives it, or else its kind."""
    information = Path("/proc/cpuinfo")  # of Linux; what `platform` knows there is the kind alone
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = (
        value.strip()
        for name, _, value in (line.partition(":") for line in lines)
        if name.strip() == "model name"
    )
    return next(names, "") or platform.processor() or platform.machine()
