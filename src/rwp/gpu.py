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

from rwp.errors import UserError, in_one_line

JOBS_PER_GPU = "RWP_JOBS_PER_GPU"
VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVER = Path("/proc/driver/nvidia/gpus")
_NODES = Path("/dev")  # a container sees the host's driver, and of its GPUs what it was given
_NONE = "No devices were found"  # as in a scheduler's step without one
# Inside an allocation of a scheduler the first GPU may be called 0 whichever it is, so that equal
# names in two allocations are two GPUs, and locks are those of one allocation.
ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
THREADS = "OMP_NUM_THREADS"  # Snakemake sets it to the rule's `threads`


def visible_gpus() -> list[str]:
    """The GPUs that this process may use; a scheduler's choice is respected.

    Raises:
        UserError: the driver has GPUs, but nobody says which.
    """
    chosen = os.environ.get(VISIBLE)
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    try:
        return list(_known_gpus())
    except FileNotFoundError as error:
        reason, silent = in_one_line(error), True
    except (OSError, subprocess.SubprocessError) as error:
        if _NONE in str(getattr(error, "stdout", "")) + str(getattr(error, "stderr", "")):
            return []
        reason, silent = in_one_line(error), False
    if _DRIVER.is_dir() and any(_DRIVER.iterdir()) and any(_NODES.glob("nvidia[0-9]*")):
        raise UserError(
            f"nvidia-smi: expected the GPUs of this machine, got {reason}; mend it, or set"
            f" {VISIBLE} to their numbers (to nothing for the CPU)"
        )
    if not silent:
        _say(f"warning: nvidia-smi tells of no GPU ({reason}): this job runs on the CPU")
    return []


def _known_gpus() -> dict[str, str]:
    """The GPUs that the driver shows this process: number -> UUID, or "" where it says none."""
    words = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")
    found = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    rows = (line.partition(",") for line in found.stdout.splitlines() if line.strip())
    return {index.strip(): uuid.strip() for index, _, uuid in rows}


def _lock_names(gpus: Sequence[str]) -> dict[str, str]:
    """Their UUIDs where they are known: a scheduler may call several GPUs 0, each in its step."""
    try:
        known = _known_gpus()
    except (OSError, subprocess.SubprocessError):
        known = {}
    names = {gpu: known.get(gpu) or gpu.replace("/", "_") for gpu in gpus}
    for gpu in gpus:  # the start of a UUID names a GPU as well
        whole = [uuid for uuid in known.values() if uuid.startswith(gpu)]
        names[gpu] = whole[0] if len(whole) == 1 else names[gpu]
    return names


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
def claim(*, count: int = 1, poll_seconds: float = 0.2) -> Iterator[str]:
    """Wait for free slots on so many GPUs and hold them.

    Inside, CUDA_VISIBLE_DEVICES names those GPUs alone, and torch uses as many CPU threads as
    OMP_NUM_THREADS says.

    Yields:
        "cuda", or "cpu" where there is no GPU, or none that torch can use.

    Raises:
        UserError: there are GPUs, but fewer than asked for; RWP_JOBS_PER_GPU is no number.
    """
    gpus = visible_gpus()
    if not gpus:
        _limit_threads()
        yield "cpu"
        return
    before = os.environ.get(VISIBLE)
    with take_slots(gpus, count=count, poll_seconds=poll_seconds) as held:
        os.environ[VISIBLE] = held
        try:
            _limit_threads()
            yield _device_of(held)
        finally:
            if before is None:
                os.environ.pop(VISIBLE)
            else:
                os.environ[VISIBLE] = before


@contextmanager
def take_slots(gpus: Sequence[str], *, count: int = 1, poll_seconds: float = 0.2) -> Iterator[str]:
    """Hold a slot on each of so many GPUs and yield their names; kill -9 frees them as well.

    Says on standard error when they were taken and given back.

    Raises:
        UserError: there are fewer GPUs than asked for; RWP_JOBS_PER_GPU is no number.
    """
    slots = _jobs_per_gpu()
    if count > len(gpus):
        raise UserError(
            f"gpus: expected at most {len(gpus)}, which are visible here, got {count}; lower"
            f" --gpus, or `gpus` in params.yaml"
        )
    place = "-".join([str(os.getuid()), *(os.environ[n] for n in ALLOCATIONS if n in os.environ)])
    folder = Path(tempfile.gettempdir()) / f"rwp-gpus-{place}"
    folder.mkdir(exist_ok=True)
    held = _hold(folder, gpus, slots, count, poll_seconds)
    names = ",".join(held)
    _say(f"GPU {names}: taken")
    try:
        yield names
    finally:
        _say(f"GPU {names}: given back")
        _release(held)


def _jobs_per_gpu() -> int:
    text = os.environ.get(JOBS_PER_GPU, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"{JOBS_PER_GPU}: expected how many jobs may share a GPU, from 1 on, got {text!r};"
            f" set it to a number or unset it"
        )
    return int(text)


def _hold(
    folder: Path, gpus: Sequence[str], slots: int, count: int, poll_seconds: float
) -> dict[str, FileLock]:
    """All of them or none, so that two jobs that want several never wait for each other."""
    names, waits = _lock_names(gpus), False
    while True:
        held: dict[str, FileLock] = {}
        for slot in range(slots):  # the first job of every GPU before the second of any
            for gpu in gpus:
                if gpu in held or len(held) == count:
                    continue
                lock = FileLock(folder / f"{names[gpu]}.{slot}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                held[gpu] = lock
        if len(held) == count:
            return held
        _release(held)
        if not waits:
            waits = True
            _say(f"waiting for {count} of the GPUs {','.join(gpus)}, which other jobs hold")
        time.sleep(poll_seconds)


def _release(held: dict[str, FileLock]) -> None:
    for lock in held.values():
        lock.release()


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
