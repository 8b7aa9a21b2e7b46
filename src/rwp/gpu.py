"""Each job takes a GPU of its own, by a file lock that frees itself when the job ends.

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


def ask_for_determinism() -> None:
    """Let a GPU compute the same bits each time, for some speed; a CPU does so anyway.

    Sets what cuBLAS reads when it starts, so call it before torch is imported elsewhere. An
    operation that has no such implementation is an error from here on.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def claim(*, poll_seconds: float = 0.2) -> Iterator[str]:
    """Wait for a free slot on a GPU and hold it; yields "cuda", or "cpu" where there is none."""
    gpus = visible_gpus()
    if not gpus:
        yield "cpu"
        return
    folder = Path(tempfile.gettempdir()) / f"rwp-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    lock, gpu = _first_free(folder, gpus, poll_seconds)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        yield "cuda"
    finally:
        lock.release()
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _first_free(folder: Path, gpus: list[str], poll_seconds: float) -> tuple[FileLock, str]:
    slots = int(os.environ.get(JOBS_PER_GPU, "1"))
    while True:
        for slot in range(slots):
            for gpu in gpus:
                lock = FileLock(folder / f"{gpu.replace('/', '_')}.{slot}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                return lock, gpu
        time.sleep(poll_seconds)
