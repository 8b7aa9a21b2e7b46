"""What a training tells the outside; the MLflow tracker is one listener, silence another."""

from __future__ import annotations

from typing import Any, Protocol

Row = dict[str, Any]


class Recorder(Protocol):
    """A listener. None of its methods may raise, or take long."""

    run_id: str | None

    def start(self, run_id: str | None) -> None:
        """Begin, or go on with the run of that id."""

    def epoch(self, row: Row) -> None:
        """One more row of the history."""

    def finish(self, status: str, artifacts: dict[str, str]) -> None:
        """End as "finished", "collapsed", "diverged" or "interrupted"; where the files lie."""


class SilentRecorder:
    """Listens to nothing."""

    run_id: str | None = None

    def start(self, run_id: str | None) -> None:
        """Begin."""

    def epoch(self, row: Row) -> None:
        """Ignore a row."""

    def finish(self, status: str, artifacts: dict[str, str]) -> None:
        """End."""
