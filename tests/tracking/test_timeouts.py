"""A helper that hangs, fails or dawdles costs a bounded time, and then is left alone."""

from __future__ import annotations

import threading
import time

import pytest

from rwp import timeouts
from rwp.timeouts import Patience


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
    helper = Patience(per_call=60.0, in_all=60.0)

    def fail() -> None:
        time.sleep(0.1)
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match="refused"):
        helper.call(fail)
    assert helper.left <= 59.9
    helper.left = 0.0
    with pytest.raises(TimeoutError, match="too much time already"):
        helper.call(fail)


def test_what_answers_in_time_costs_nothing_and_what_dawdles_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timeouts, "_USUAL_SECONDS", 60.0)
    helper, calls = Patience(per_call=60.0, in_all=60.0), []
    for number in range(50):
        helper.call(calls.append, number)
    assert calls == list(range(50))
    assert helper.left == 60.0
    monkeypatch.setattr(timeouts, "_USUAL_SECONDS", 0.0)
    helper.call(time.sleep, 0.1)
    assert helper.left <= 59.9
