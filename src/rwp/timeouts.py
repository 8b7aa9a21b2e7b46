"""Limits on how long calls to a server may delay a training: per call, and for all together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

_USUAL_SECONDS = 2.0  # what a call may take without being counted


class Patience:
    """Calls functions that may hang, and stops calling once they have cost too much time."""

    def __init__(self, *, per_call: float, in_all: float) -> None:
        """Allow `per_call` seconds for one call, and `in_all` for failed and slow ones together."""
        self.per_call, self.left = per_call, in_all

    @property
    def exhausted(self) -> bool:
        """Whether nothing is called any more."""
        return self.left <= 0

    def call(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Run `action` and wait for it, within the limits.

        Raises:
            TimeoutError: it is still at work; it is left behind, and nothing is called again.
            Exception: what the action raised.
        """
        if self.exhausted:
            raise TimeoutError("it has cost too much time already")
        failures: list[BaseException] = []

        def work() -> None:
            try:
                action(*arguments)
            except BaseException as error:
                failures.append(error)

        started = time.monotonic()
        # A daemon: one that hangs for ever does not keep the process from ending.
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        worker.join(min(self.per_call, self.left))
        spent = time.monotonic() - started
        if worker.is_alive():
            self.left = 0.0
            raise TimeoutError(f"no answer within {spent:.0f} s")
        self.left -= spent if failures else max(0.0, spent - _USUAL_SECONDS)
        if failures:
            raise failures[0]
