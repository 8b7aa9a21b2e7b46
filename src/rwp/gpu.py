"""Each job takes a GPU of its own, by a file lock that frees itself when the job ends.

Snakemake counts GPUs but does not number them. Call `claim` before torch is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from rwp.errors import UserError

JOBS_PER_GPU = "RWP_JOBS_PER_GPU"
VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"  # Snakemake sets it to the rule's `threads`


def visible_gpus() -> list[str]:
    """The GPUs that this process may use; a scheduler's choice is respected."""
    chosen = os.environ.get(VISIBLE)
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    words = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.split()


@contextmanager
def claim(*, poll_seconds: float = 0.2) -> Iterator[str]:
    """Wait for a free slot on a GPU and hold it; yields "cuda", or "cpu" where there is none.

    Inside, CUDA_VISIBLE_DEVICES names that GPU alone, and torch uses as many CPU threads as
    OMP_NUM_THREADS says.

    Raises:
        UserError: RWP_JOBS_PER_GPU is not a positive number.
    """
    gpus = visible_gpus()
    if not gpus:
        _limit_threads()
        yield "cpu"
        return
    before = os.environ.get(VISIBLE)
    with take_slot(gpus, poll_seconds=poll_seconds) as gpu:
        os.environ[VISIBLE] = gpu
        try:
            _limit_threads()
            yield _device_of(gpu)
        finally:
            if before is None:
                os.environ.pop(VISIBLE)
            else:
                os.environ[VISIBLE] = before


@contextmanager
def take_slot(gpus: Sequence[str], *, poll_seconds: float = 0.2) -> Iterator[str]:
    """Hold one of the GPUs' slots and yield the GPU's name; the system frees it on kill -9.

    Says on standard error when the GPU was taken and given back.

    Raises:
        UserError: RWP_JOBS_PER_GPU is not a positive number.
    """
    slots = _jobs_per_gpu()
    folder = Path(tempfile.gettempdir()) / f"rwp-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    lock, gpu = _first_free(folder, gpus, slots, poll_seconds)
    _say(f"GPU {gpu}: taken")
    try:
        yield gpu
    finally:
        _say(f"GPU {gpu}: given back")
        lock.release()


def _jobs_per_gpu() -> int:
    text = os.environ.get(JOBS_PER_GPU, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"{JOBS_PER_GPU}: expected how many jobs may share a GPU, from 1 on, got {text!r};"
            f" set it to a number or unset it"
        )
    return int(text)


def _first_free(
    folder: Path, gpus: Sequence[str], slots: int, poll_seconds: float
) -> tuple[FileLock, str]:
    while True:
        for slot in range(slots):  # the first job of every GPU before the second of any
            for gpu in gpus:
                lock = FileLock(folder / f"{gpu.replace('/', '_')}.{slot}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                return lock, gpu
        time.sleep(poll_seconds)


def _device_of(gpu: str) -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    _say(f"warning: GPU {gpu} is there, but torch finds no CUDA: this job runs on the CPU")
    return "cpu"


def _limit_threads() -> None:
    """Not every build of torch looks at the variable itself."""
    threads = os.environ.get(THREADS, "")
    if threads.isdecimal() and int(threads) > 0:
        import torch

        torch.set_num_threads(int(threads))


def _say(text: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}\n")
    sys.stderr.flush()
