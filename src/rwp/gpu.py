"""Each job takes GPUs of its own, by file locks that free themselves when the job ends.

Snakemake counts GPUs but does not number them. Call `claim` before torch is imported.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rwp.errors import UserError

JOBS_PER_GPU = "RWP_JOBS_PER_GPU"


def visible_gpus() -> list[str]:
    """The GPUs that this process may use; a scheduler's choice is respected."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    words = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.split()


@contextmanager
def claim(*, count: int = 1, poll_seconds: float = 0.2) -> Iterator[str]:
    """Wait for free slots on so many GPUs and hold them.

    Yields:
        "cuda", or "cpu" where there is no GPU.

    Raises:
        UserError: there are GPUs, but fewer than asked for.
    """
    gpus = visible_gpus()
    if not gpus:
        yield "cpu"
        return
    if count > len(gpus):
        raise UserError(
            f"gpus: expected at most {len(gpus)}, which are visible here, got {count}; lower"
            f" --gpus, or `gpus` in params.yaml"
        )
    folder = Path(tempfile.gettempdir()) / f"rwp-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    held = _hold(folder, gpus, count, poll_seconds)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
    try:
        yield "cuda"
    finally:
        _release(held)
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _hold(folder: Path, gpus: list[str], count: int, poll_seconds: float) -> dict[str, FileLock]:
    """All of them or none, so that two jobs that want several never wait for each other."""
    slots = int(os.environ.get(JOBS_PER_GPU, "1"))
    while True:
        held: dict[str, FileLock] = {}
        for slot in range(slots):
            for gpu in gpus:
                if gpu in held or len(held) == count:
                    continue
                lock = FileLock(folder / f"{gpu.replace('/', '_')}.{slot}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                held[gpu] = lock
        if len(held) == count:
            return held
        _release(held)
        time.sleep(poll_seconds)


def _release(held: dict[str, FileLock]) -> None:
    for lock in held.values():
        lock.release()
