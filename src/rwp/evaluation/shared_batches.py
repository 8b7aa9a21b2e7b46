"""The outcome of one attack on one batch, as a file: so AutoAttack is resumed and shared.

Batches are slices of the images that are left, and an outcome depends on its batch alone, so it
does not matter which process computes it, when, or whether two happen to do so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from rwp.files import atomic_write

_FORMAT = "rwp.autoattack-batch/3"


@dataclass(frozen=True)
class BatchOutcome:
    """The examples of a batch that an attack fooled, by their place in the data set."""

    fooled: list[int]
    adversarial: Tensor  # (len(fooled), channels, height, width)
    seconds: float
    warnings: tuple[str, ...]
    not_finite: list[int]  # examples with a gradient that was not finite
    zero: list[int]  # examples whose gradient was zero in every step


def save_outcome(path: Path, index: np.ndarray, outcome: BatchOutcome) -> None:
    """Write the outcome of the batch with the examples `index`, in one move."""
    content = {
        "format": _FORMAT,
        "index": index.tolist(),
        "fooled": outcome.fooled,
        "adversarial": outcome.adversarial,
        "seconds": outcome.seconds,
        "warnings": list(outcome.warnings),
        "not_finite": outcome.not_finite,
        "zero": outcome.zero,
    }
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def load_outcome(path: Path, index: np.ndarray) -> BatchOutcome | None:
    """The outcome of the batch with the examples `index`; none if it has to be computed.

    A file that is damaged or of another batch counts as missing: it will be replaced.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != _FORMAT or content["index"] != index.tolist():
            return None
        return BatchOutcome(
            content["fooled"],
            content["adversarial"],
            content["seconds"],
            tuple(content["warnings"]),
            content["not_finite"],
            content["zero"],
        )
    except Exception:  # a damaged file may raise anything
        return None


def shared_batches(
    batches: Sequence[np.ndarray],
    compute: Callable[[np.ndarray], BatchOutcome],
    *,
    state: Path | None,
    name: str,
) -> list[BatchOutcome]:
    """The outcomes of all batches: read where they are finished, computed where they are not.

    Processes that share `state` lock the batch they are at; the lock of a process that was
    killed is free.
    """
    if state is None:
        return [compute(index) for index in batches]
    outcomes: dict[int, BatchOutcome] = {}
    # First what nobody works on; then, waiting for them, what others have begun.
    for patience in (0, -1):
        for place, index in enumerate(batches):
            if place in outcomes:
                continue
            path = state / f"{name}-{place}.pt"
            found = load_outcome(path, index)
            try:
                outcomes[place] = found or _locked(path, index, compute, patience)
            except Timeout:
                continue
    return [outcomes[place] for place in range(len(batches))]


def _locked(
    path: Path, index: np.ndarray, compute: Callable[[np.ndarray], BatchOutcome], patience: float
) -> BatchOutcome:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=patience):
        outcome = load_outcome(path, index)
        if outcome is None:
            outcome = compute(index)
            save_outcome(path, index, outcome)
        return outcome


@contextmanager
def shared_folder(state: Path) -> Iterator[None]:
    """Work in a folder of batches that any number of processes may share.

    Who leaves last in good order removes the folder; after a failure it stays, to go on from.
    Processes that were killed do not count, as their locks are free.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    with _gate(state):
        presence = _sign_in(state)
    try:
        yield
    except BaseException:
        presence.release()
        raise
    with _gate(state):
        presence.release()
        _remove_if_left(state)


def clear_folder(state: Path) -> None:
    """Remove a folder of batches unless someone is at work in it."""
    if state.exists():
        with _gate(state):
            _remove_if_left(state)


def _gate(state: Path) -> FileLock:
    # Beside the folder, so that nobody comes in while it is removed.
    return FileLock(f"{state}.lock")


def _sign_in(state: Path) -> FileLock:
    state.mkdir(exist_ok=True)
    place = 0
    while True:
        lock = FileLock(state / f"worker-{place}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            place += 1
        else:
            return lock


def _remove_if_left(state: Path) -> None:
    for path in state.glob("worker-*.lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return
    shutil.rmtree(state, ignore_errors=True)
