"""A training that is stopped anywhere ends in the same bits as one that is not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from rwp.config.schema import Params
from rwp.errors import UserError
from rwp.training import jobs
from rwp.training.jobs import Interrupted, train_run
from rwp.training.loop import Training
from rwp.training.state import RunState
from rwp.training.work import TIMINGS
from tests.training.conftest import spec_of

FINGERPRINT = "0123456789abcdef"


def result(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[dict]]:
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for row in rows:
        for name in TIMINGS:
            row.pop(name)
    networks = (
        torch.load(folder / f"{name}.pt", weights_only=True)["weights"] for name in ("last", "best")
    )
    return (*networks, rows)


def assert_same(first: Path, second: Path) -> None:
    (last, best, rows), (other_last, other_best, other_rows) = result(first), result(second)
    assert rows == other_rows
    for mine, other in ((last, other_last), (best, other_best)):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


class _Killed(BaseException):
    """Stands for kill -9: nothing catches it, nothing is saved on the way out."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Each number: so many steps from the last kill (or the list's filling) to the next."""
    moments: list[int] = []
    original = Training._step

    def step(self: Training, batch: object) -> None:
        if moments:
            moments[0] -= 1
            if moments[0] == 0:
                moments.pop(0)
                raise _Killed
        original(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "_step", step)
    return moments  # type: ignore[return-value]


RECIPES = [
    "-".join((base, *more)) for base in ("at", "trades", "rst") for more in ((), ("awp",), ("rwp",))
]
FAST = {("at", 300), ("at-rwp", 300), ("trades-rwp", 300), ("rst-rwp", 0)}


@pytest.mark.parametrize(
    ("recipe", "checkpoint_seconds"),
    [
        pytest.param(
            recipe,
            seconds,
            id=f"{recipe} by {'epoch' if seconds else 'step'}",
            marks=() if (recipe, seconds) in FAST else pytest.mark.slow,
        )
        for recipe in RECIPES
        for seconds in (300, 0)
    ],
)
def test_killed_and_resumed_to_the_bit(
    recipe: str,
    checkpoint_seconds: int,
    shared_root: Path,
    tmp_path: Path,
    tiny: Params,
    kill_after: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "CHECKPOINT_SECONDS", checkpoint_seconds)
    spec = spec_of(tiny, recipe)
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    kill_after += [7, 14, 13]
    for _ in range(len(kill_after)):
        with pytest.raises(_Killed):
            train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    resumed = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert not kill_after
    assert_same(whole, resumed)


def test_the_same_seed_gives_the_same_bits(shared_root: Path, tmp_path: Path, tiny: Params) -> None:
    spec = spec_of(tiny, "at-rwp")
    first, second = (
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / name)
        for name in "ab"
    )
    assert_same(first, second)


def test_sigterm_saves_and_leaves(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tiny, "at")
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    original, steps = Training._step, []

    def step(self: Training, batch: object) -> None:
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "_step", step)
    with pytest.raises(Interrupted):
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert len(steps) == 5
    resumed = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert_same(whole, resumed)
    per_epoch = len(steps) / spec.optimization.epochs
    assert per_epoch == round(per_epoch)  # no step was taken twice


def test_a_second_process_on_the_run_is_refused(
    shared_root: Path, tmp_path: Path, tiny: Params
) -> None:
    spec = spec_of(tiny, "at")
    folder = shared_root / ".state" / spec.key.name
    folder.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(folder / f"{FINGERPRINT}.lock"),
        pytest.raises(UserError, match="expected to train this run alone, found another process"),
    ):
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 100, 2000])
def test_a_cut_checkpoint_is_set_aside(keep: int, tmp_path: Path) -> None:
    state = RunState(tmp_path / "run" / "fingerprint")
    state.folder.mkdir(parents=True)
    state.save({"weights": torch.zeros(1000)})
    whole = state.checkpoint.read_bytes()
    assert state.load(torch.device("cpu")) is not None
    state.checkpoint.write_bytes(whole[:keep])
    assert state.load(torch.device("cpu")) is None
    assert state.checkpoint.with_suffix(".unreadable").exists()


def test_a_cut_history_line_is_not_used(tmp_path: Path) -> None:
    state = RunState(tmp_path / "fingerprint")
    state.folder.mkdir(parents=True)
    state.write_history([{"epoch": 0, "train_loss": 1.0}, {"epoch": 1, "train_loss": 0.5}])
    text = state.history_file.read_text()
    state.history_file.write_text(text[:-8])
    assert [row["epoch"] for row in state.read_history(before_epoch=2)] == [0]
    state.history_file.write_text(text)
    assert [row["epoch"] for row in state.read_history(before_epoch=1)] == [0]
