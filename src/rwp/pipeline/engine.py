"""What Snakemake notes in a project: which jobs have begun, and that it is at work.

A job begins with a mark on each of its outputs, which the engine takes away when the job has ended.
Killed in between, it leaves the marks, and the next one would delete those outputs and make them
again: also where the job had gone on alone and finished.

When a job has ended, the engine notes its parameters, a fingerprint among them, and makes the
outputs again when today's are others. It has no note of what was made by hand or under an engine
that was killed, and would take such outputs for current whatever the settings; and its note is
of before where something was made anew by hand. What results say of themselves decides.
"""

from __future__ import annotations

import fcntl
import os
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from rwp.errors import UserError
from rwp.files import read_object
from rwp.pipeline.state import changed_sources, results
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
    try:
        return made_by(step, root) == job_fingerprint(step)
    except (UserError, OSError):  # a damaged record, an image that cannot be read
        return False


def job_fingerprint(step: Step) -> str:
    """What Snakemake notes of a step's job, and compares."""
    return step.digest if step.kind == "evaluate" else step.fingerprint


def made_by(step: Step, root: Path) -> str | None:
    """The fingerprint of the job that made what lies there: today's, or what tells another.

    Returns:
        None where an output lacks or where none carries a fingerprint, as tables and figures.

    Raises:
        UserError: what carries it is damaged.
    """
    seals = step.outputs[-1:] if step.kind == "fetch" else step.records
    if not seals or not all((root / path).exists() for path in step.outputs):
        return None
    fetched_otherwise = changed_sources([step], root)
    others = [found.path for found in results([step]) if found.state(root) != "done"]
    for path in (*fetched_otherwise, *others):
        found = read_object(root / path).get("fingerprint")
        # The same one, where the images are others than the passport's.
        return str(found) if found != step.fingerprint_of(path) else f"{found} on other images"
    return job_fingerprint(step)


def notes_due(
    wanted: Iterable[Step], noted: Callable[[str], list[str] | None], root: Path = Path()
) -> Iterator[tuple[str, list[str]]]:
    """What Snakemake should note of outputs in place of what it does, by what they say themselves.

    So exactly those jobs run whose outputs are not today's, whoever made them. Of outputs that
    carry no fingerprint and that it has no note of nothing is known: they are made again. A note
    that is not today's, of outputs that are not either, stays: the job runs anyway, and if the
    settings are put back, the note is right again.

    Args:
        wanted: the steps that are asked for.
        noted: gives the parameters that Snakemake has noted of an output; None without a note.
        root: the project.

    Yields:
        An output, and the parameters of the job that made it.
    """
    for step in wanted:
        try:
            found = made_by(step, root)
        except (UserError, OSError):
            continue  # the tables say of a damaged record what to do
        today = [repr(job_fingerprint(step))]
        for path in step.outputs:
            known = noted(path)
            misleads = known is None or (known == today) != ([repr(found)] == today)
            if found is not None and misleads:
                yield path, [repr(found)]
            elif found is None and known is None and (root / path).exists():
                yield path, [repr("unknown")]


def _marked(folder: Path) -> Iterator[str]:
    """The files with marks: a mark is named after its file, in letters that any disk takes."""
    for place, _, names in os.walk(folder):
        parts = Path(place).relative_to(folder).parts
        for name in names:
            with suppress(ValueError):  # no mark
                yield _named([*parts, name])


def _named(parts: Iterable[str]) -> str:
    return urlsafe_b64decode("".join(part.removeprefix("@") for part in parts)).decode()
