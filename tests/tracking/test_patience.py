"""A helper that hangs, fails or dawdles costs a bounded time, and then is left alone."""

from __future__ import annotations

import threading
import time

import pytest

from rwp import patience
from rwp.patience import Patience


def test_one_that_hangs_is_left_behind_and_never_called_again() -> None:
    waiting, calls = threading.Event(), []
    helper = Patience(per_call=0.2, in_all=10.0)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within"):
        helper.call(waiting.wait, 60)
    with pytest.raises(TimeoutError, match="too much time already"):
        helper.call(calls.append, 1)
    assert time.monotonic() - started < 5
    assert helper.exhausted
    assert not calls
    waiting.set()


def test_failures_are_raised_and_their_time_counts() -> None:
    helper = Patience(per_call=5.0, in_all=0.2)

    def fail() -> None:
        time.sleep(0.15)
        raise ConnectionError("refused")

    for _ in range(2):
        with pytest.raises(ConnectionError, match="refused"):
            helper.call(fail)
    assert helper.exhausted


def test_what_answers_in_time_may_be_called_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    helper, calls = Patience(per_call=5.0, in_all=0.1), []
    for number in range(50):
        helper.call(calls.append, number)
    assert calls == list(range(50))
    assert helper.left == 0.1
    monkeypatch.setattr(patience, "_USUAL_SECONDS", 0.0)
    helper.call(time.sleep, 0.2)  # one that dawdles is counted
    assert helper.exhausted
