"""A long step says how far it is, and how long it still takes."""

from __future__ import annotations

import pytest

from rwp import progress
from rwp.progress import Progress, time_left


def test_time_left_as_a_person_says_it() -> None:
    said = [time_left(seconds) for seconds in (0.4, 89, 90, 700, 5399, 5400, 12_700)]
    assert said == [
        *("0 s left", "89 s left", "2 min left", "12 min left", "90 min left"),
        *("1.5 h left", "3.5 h left"),
    ]


def test_a_resumed_training_counts_its_own_epochs_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 60.0])  # it begins; its first epoch, the seventh of ten, took a minute
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("run", 10, [0]) as shown:
        shown.epoch({"epoch": 6, "train_loss": 1.5, "test_robust_accuracy": 0.25})
    expected = "run  epoch 7/10  3 min left  loss 1.500  test robust accuracy 25.0\n"
    assert capsys.readouterr().err == expected
