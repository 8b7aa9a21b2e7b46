"""Progress of a long step and the time left: a bar on a terminal, a line per epoch in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sized
from typing import Any

LINE_SECONDS = 10.0  # at most one line in this time, but always the first and the last


class Progress:
    """Used as a context manager; writes to standard error."""

    def __init__(self, name: str, epochs: int, steps: Sized, *, quiet: bool = False) -> None:
        self.name, self.epochs, self.steps = name, epochs, len(steps)
        self.done, self.line_at, self.quiet = 0, float("-inf"), quiet
        self.seen = 0  # epochs since this process began; a resumed training has earlier ones
        self.began = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self.bar = Bar(console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.epochs * self.steps)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self, step: int) -> None:
        """A step of the current epoch is done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done * self.steps + step)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is done."""
        self.done, self.seen = row["epoch"] + 1, self.seen + 1
        now = time.monotonic()
        due = now - self.line_at >= LINE_SECONDS or self.done == self.epochs
        if self.bar is None and due and not self.quiet:
            self.line_at = now
            accuracies = "  ".join(
                f"{key.replace('_', ' ')} {100 * value:.1f}"
                for key, value in row.items()
                if key.endswith("accuracy")
            )
            loss = row["train_loss"]
            left = time_left((now - self.began) / self.seen * (self.epochs - self.done))
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
