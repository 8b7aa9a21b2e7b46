"""Progress of a long step and the time left: a bar on a terminal, a line per epoch in a log."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from rwp.files import SETTINGS_FILE

T = TypeVar("T")
S = TypeVar("S")

_SPLITS = ("held_out", "test")  # of which a robust accuracy is shown
_CURVE = 40  # epochs of which `rwp watch` draws the robust accuracy
LINE_SECONDS = 10.0  # at most one line in this time, but always the first and the last


class Progress:
    """Used as a context manager; writes to standard error."""

    def __init__(
        self, name: str, epochs: int, steps: Sized, *, done: int = 0, quiet: bool = False
    ) -> None:
        """`done`: epochs of before, where a training goes on."""
        self.name, self.epochs, self.steps = name, epochs, len(steps)
        self.done, self.line_at, self.quiet = done, float("-inf"), quiet
        self.curve: list[float] = []  # of these epochs, robust accuracies
        self.seen = 0  # epochs since this process began; a resumed training has earlier ones
        self.began = time.monotonic()
        self.bar: Any = None
        self.beat = Beat("train", name)

    def __enter__(self) -> Progress:
        if not self.quiet:
            self.beat.say(now=True, total=self.epochs, unit="epochs")
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self.bar = Bar(console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.epochs * self.steps)
        return self

    def __exit__(self, *_: object) -> None:
        if not self.quiet:
            self.beat.end()
        if self.bar is not None:
            self.bar.stop()

    def step(self, step: int) -> None:
        """A step of the current epoch is done."""
        if not self.quiet:
            self.beat.say(done=round(self.done + step / self.steps, 2))
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done * self.steps + step)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is done."""
        self.done, self.seen = row["epoch"] + 1, self.seen + 1
        now = time.monotonic()
        due = now - self.line_at >= LINE_SECONDS or self.done == self.epochs
        seconds = (now - self.began) / self.seen * (self.epochs - self.done)
        if not self.quiet:
            robust = [row[f"{s}_robust_accuracy"] for s in _SPLITS if f"{s}_robust_accuracy" in row]
            self.curve = [*self.curve, *robust[:1]][-_CURVE:]
            self.beat.say(
                now=True,
                done=self.done,
                left=seconds,
                robust_accuracy=next(iter(robust), None),
                curve=self.curve,
            )
        if self.bar is None and due and not self.quiet:
            self.line_at = now
            accuracies = "  ".join(
                f"{key.replace('_', ' ')} {100 * value:.1f}"
                for key, value in row.items()
                if key.endswith("accuracy")
            )
            loss = row["train_loss"]
            left = time_left(seconds)
            sys.stderr.write(
                f"{self.name}  epoch {self.done}/{self.epochs}  {left}  loss {loss:.3f}"
                f"  {accuracies}\n"
            )
            sys.stderr.flush()


def time_left(seconds: float) -> str:
    """Seconds as a person says them: "40 s left", "12 min left", "3.5 h left"."""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


RUNNING = Path(".state/running")
_BEAT_SECONDS = 5.0
_current: EvaluationProgress | None = None


class Beat:
    """A small file that says what this process does, for `rwp watch`; it can hurt nothing."""

    def __init__(self, kind: str, name: str) -> None:
        self.path = RUNNING / f"{socket.gethostname()}-{os.getpid()}.json"
        self.content: dict[str, Any] = {
            "kind": kind,
            "name": name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "by": _by_whom(),
            "began": time.time(),
        }
        self.said = 0.0

    def say(self, *, now: bool = False, **content: Any) -> None:
        """Write how far it is, at most every few seconds; what cannot be written is left."""
        self.content |= content
        moment = time.time()
        if not now and moment - self.said < _BEAT_SECONDS:
            return
        self.said = moment
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".new")
            temporary.write_text(json.dumps(self.content | {"at": moment}), encoding="utf-8")
            temporary.replace(self.path)

    def end(self) -> None:
        """Nothing runs any more."""
        with suppress(OSError):
            self.path.unlink()


def _by_whom() -> str:
    """Who started this process: a Slurm job, Snakemake, or a person."""
    job = os.environ.get("SLURM_JOB_ID")
    snakemake = SETTINGS_FILE in os.environ
    if job is not None:
        return f"Slurm job {job}" + (", Snakemake" if snakemake else "")
    return "Snakemake" if snakemake else "by hand"


class EvaluationProgress:
    """How far an evaluation is, on a terminal, in a log and for `rwp watch`.

    Used as a context manager; while it is open, `tracked` and `counted` speak through it.
    """

    def __init__(self, name: str) -> None:
        self.name, self.beat = name, Beat("evaluate", name)
        self.part, self.began, self.line_at = "", 0.0, float("-inf")

    def __enter__(self) -> EvaluationProgress:
        global _current
        _current = self
        self.beat.say(now=True)
        return self

    def __exit__(self, *_: object) -> None:
        global _current
        _current = None
        self.beat.end()
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")

    def tick(self, part: str, done: int, total: int) -> None:
        """So many batches of an attack are done."""
        now = time.monotonic()
        if part != self.part:
            self.part, self.began, self.line_at = part, now, now
        if not done:
            return
        left = (now - self.began) / done * (total - done)
        self.beat.say(part=part, done=done, total=total, unit="batches", left=left)
        terminal = sys.stderr.isatty()
        if not terminal and now - self.line_at < LINE_SECONDS:
            return
        self.line_at = now
        text = f"{self.name}  {part}  batch {done}/{total}  {time_left(left)}"
        sys.stderr.write(f"\r\x1b[K{text}" if terminal else f"{text}\n")
        sys.stderr.flush()


def tracked(part: str, steps: Sequence[T]) -> Iterator[T]:
    """The steps one by one, telling how far they are where somebody listens."""
    for done, step in enumerate(steps):
        if _current is not None:
            _current.tick(part, done, len(steps))
        yield step
    if _current is not None:
        _current.tick(part, len(steps), len(steps))


def counted(part: str, total: int, compute: Callable[[T], S]) -> Callable[[T], S]:
    """The same function, which tells after each call how many of `total` are done."""
    done = 0

    def call(item: T) -> S:
        nonlocal done
        if _current is not None:
            _current.tick(part, done, total)
        found = compute(item)
        done += 1
        if _current is not None:
            _current.tick(part, done, total)
        return found

    return call
