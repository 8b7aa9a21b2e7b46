"""What Snakemake notes in a project: which jobs have begun, and that it is at work.

A job begins with a mark on each of its outputs, which the engine takes away when the job has ended.
Killed in between, it leaves the marks, and the next one would delete those outputs and make them
again: also where the job had gone on alone and finished.
"""

from __future__ import annotations

import fcntl
import os
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from rwp.errors import UserError
from rwp.files import read_object
from rwp.pipeline.state import Result
from rwp.pipeline.steps import Step, Steps

FOLDER = Path(".snakemake")
_held: list[int] = []  # locks that end with this process


def be_at_work(folder: Path = FOLDER) -> bool:
    """Let others know, as long as this process lives; any number may be at work at once.

    Returns:
        Whether nobody else is.
    """
    handle, alone = _open_lock(folder), True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # also a file system without locks
        alone = False
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)
    _held.append(handle)
    return alone


def refuse_if_at_work(folder: Path = FOLDER) -> None:
    """See that no engine is at work: its lock is not to be taken away.

    Raises:
        UserError: one is.
    """
    handle = _open_lock(folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            "snakemake --unlock: expected no other snakemake at work in this folder, found one;"
            " wait for it or stop it"
        ) from error
    except OSError:  # a file system without locks
        return
    finally:
        os.close(handle)


def _open_lock(folder: Path) -> int:
    folder.mkdir(exist_ok=True)
    return os.open(folder / "at_work.lock", os.O_RDWR | os.O_CREAT, 0o666)


def finished_jobs(steps: Steps, folder: Path = FOLDER, root: Path = Path()) -> list[str]:
    """The outputs with marks whose jobs are done, under today's settings and code."""
    marked: dict[Step, None] = {}
    for path in _marked(folder / "incomplete"):
        with suppress(UserError):  # no step makes it any more
            marked[steps.find(path)] = None
    return [path for step in marked if is_done(step, root) for path in step.outputs]


def is_done(step: Step, root: Path) -> bool:
    """Whether all outputs lie there, and those that carry a fingerprint have today's.

    They are written last. Tables and figures carry none: they are made again in seconds.
    """
    sealed = step.outputs[-1:] if step.kind == "fetch" else step.records
    whole = all((root / path).exists() for path in step.outputs)
    try:
        return whole and bool(sealed) and all(_is_of_today(step, path, root) for path in sealed)
    except (UserError, OSError):  # a damaged record, an image that cannot be read
        return False


def _is_of_today(step: Step, path: str, root: Path) -> bool:
    if step.kind == "fetch":
        return read_object(root / path).get("fingerprint") == step.fingerprint
    return Result(step, path).state(root) == "done"


def _marked(folder: Path) -> Iterator[str]:
    """The files with marks: a mark is named after its file, in letters that any disk takes."""
    for place, _, names in os.walk(folder):
        parts = Path(place).relative_to(folder).parts
        for name in names:
            with suppress(ValueError):  # no mark
                yield _named([*parts, name])


def _named(parts: Iterable[str]) -> str:
    return urlsafe_b64decode("".join(part.removeprefix("@") for part in parts)).decode()
