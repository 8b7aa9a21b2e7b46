"""A training that is stopped anywhere ends in the same bits as one that is not."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock

from rwp.core import ALONE
from rwp.errors import UserError
from rwp.files import sha256_file
from rwp.pipeline.settings import Params
from rwp.progress import Progress
from rwp.training import loop, resume, run_record
from rwp.training.history import SilentRecorder
from rwp.training.jobs import Interrupted, input_paths, prepare, state_folder, train_run
from rwp.training.loop import Training
from rwp.training.resume import RunState, Watch
from tests.training.conftest import spec_of
from tests.training.outcomes import rows, weights
from tests.training.ranks import Drifted, Several

FINGERPRINT = "0123456789abcdef"


def result(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[dict]]:
    return weights(folder / "last.pt"), weights(folder / "best.pt"), rows(folder)


def assert_same(first: Path, second: Path) -> None:
    (last, best, rows), (other_last, other_best, other_rows) = result(first), result(second)
    assert rows == other_rows
    for mine, other in ((last, other_last), (best, other_best)):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_checkpoint_every_five_minutes(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results are the same without, so nothing else would show it."""
    spec, now = spec_of(tiny, "at"), [0.0]
    saved: list[float] = []
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    monkeypatch.setattr(resume, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(RunState, "save", lambda self, content: saved.append(now[0]))
    watch = Watch(training, RunState(tmp_path), [], SilentRecorder(), threading.Event())
    progress = Progress("run", 1, [0], quiet=True)
    for now[0] in (100.0, 299.0, 301.0, 302.0, 600.0, 602.0, 603.0):
        watch.after_step(progress)
    assert saved == [301.0, 602.0]


def test_the_checkpoint_before_is_gone_on_from(tmp_path: Path) -> None:
    state = RunState(tmp_path)
    for epoch in range(3):
        state.save({"epoch": epoch})
    state.checkpoint.write_bytes(state.checkpoint.read_bytes()[:100])
    for _ in range(2):  # also when the damaged one is set aside
        assert state.load(torch.device("cpu")) == {"epoch": 1}


class Noting(SilentRecorder):
    """Notes which epochs it hears of, and the end."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def epoch(self, row: dict[str, Any]) -> None:
        self.said.append(row["epoch"])

    def finish(self, status: str, artifacts: dict[str, str]) -> None:
        self.said.append(status)


def test_a_listener_hears_each_epoch_once(
    shared_root: Path, tmp_path: Path, tiny: Params, kill_after: list[int]
) -> None:
    first, second = Noting(), Noting()
    named: dict[str, Any] = {"root": shared_root, "fingerprint": FINGERPRINT}
    kill_after += [20]  # in the second epoch
    with pytest.raises(_Killed):
        train_run(spec_of(tiny, "at"), recorder=first, output=tmp_path, **named)
    train_run(spec_of(tiny, "at"), recorder=second, output=tmp_path, **named)
    assert (first.said, second.said) == ([0], [1, 2, "finished"])


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
    monkeypatch.setattr(resume, "CHECKPOINT_SECONDS", checkpoint_seconds)
    spec = spec_of(tiny, recipe)
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    kill_after += [7, 14, 13]
    for _ in range(len(kill_after)):
        with pytest.raises(_Killed):
            train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    resumed = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert not kill_after
    assert_same(whole, resumed)


def test_a_moving_average_goes_on_where_it_was(
    shared_root: Path, tmp_path: Path, tiny: Params, kill_after: list[int]
) -> None:
    """What is measured and kept is the average: of the steps before the kill, too."""
    spec = spec_of(tiny, "at").replace(average_decay=0.9)
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    per_epoch = len(
        prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))[0].batches.plan(0)
    )
    kill_after += [2 * per_epoch + 1]
    with pytest.raises(_Killed):
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    resumed = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert not kill_after
    assert_same(whole, resumed)


REMEMBERING = """
from torch.nn import functional as F


class Curriculum:
    def __init__(self):
        self.calls = 0

    def losses(self, model, images, adversarial, labels):
        self.calls += 1
        logits = model(adversarial)
        weight = min(1.0, self.calls / 500)
        return weight * F.cross_entropy(logits, labels, reduction="none"), logits

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]
"""


def test_an_objective_that_remembers_goes_on_where_it_was(
    shared_root: Path,
    tmp_path: Path,
    tiny: Params,
    kill_after: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resume, "CHECKPOINT_SECONDS", 0)
    (tmp_path / "remembering.py").write_text(REMEMBERING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    spec = spec_of(tiny, "at-rwp")
    spec = spec.replace(objective=spec.objective.replace(loss="remembering:Curriculum"))
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    kill_after += [7, 14]
    for _ in range(2):
        with pytest.raises(_Killed):
            train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    resumed = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert_same(whole, resumed)
    plain = spec_of(tiny, "at-rwp")
    other = train_run(plain, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "plain")
    assert result(other)[2] != result(whole)[2]


def test_the_same_seed_gives_the_same_bits(shared_root: Path, tmp_path: Path, tiny: Params) -> None:
    spec = spec_of(tiny, "at-rwp")
    first, second = (
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / name)
        for name in "ab"
    )
    assert_same(first, second)


def told_in_step_5(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """SIGTERM comes in the fifth step; what is returned grows by one with each."""
    original, steps = Training._step, list[int]()

    def step(self: Training, batch: object) -> None:
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "_step", step)
    return steps


def test_sigterm_saves_and_leaves(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tiny, "at")
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    steps = told_in_step_5(monkeypatch)
    with pytest.raises(Interrupted):
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert len(steps) == 5
    assert not (tmp_path / "parts").exists()  # a run's folder says that the run is over
    resumed = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert_same(whole, resumed)
    per_epoch = len(steps) / spec.optimization.epochs
    assert per_epoch == round(per_epoch)  # no step was taken twice


def test_sigterm_while_it_measures(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring a large network takes minutes, which Slurm does not wait."""
    spec = spec_of(tiny, "at-rwp")
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    original, calls = loop.measure, []

    def measure(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:  # the second split after the first epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "measure", measure)
    with pytest.raises(Interrupted):
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert len(calls) == 2
    resumed = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert_same(whole, resumed)
    passes = [json.loads((f / "run.json").read_text())["passes"] for f in (whole, resumed)]
    assert passes[0] == passes[1]


def test_a_kill_while_it_measures_for_long_repeats_no_step(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tiny, "at")
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    measured, stepped = loop.measure, Training._step
    calls: list[int] = []
    steps: list[int] = []

    def measure(*arguments: object, **options: object) -> object:
        calls.append(1)
        monkeypatch.setattr(resume, "CHECKPOINT_SECONDS", 0)  # as if it had taken so long
        if len(calls) == 2:
            raise _Killed
        try:
            return measured(*arguments, **options)  # type: ignore[arg-type]
        finally:
            monkeypatch.setattr(resume, "CHECKPOINT_SECONDS", 300)

    def step(self: Training, batch: object) -> None:
        steps.append(1)
        stepped(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "measure", measure)
    monkeypatch.setattr(Training, "_step", step)
    with pytest.raises(_Killed):
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    resumed = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert_same(whole, resumed)
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    assert len(steps) == spec.optimization.epochs * len(training.batches.plan(0))  # none twice


def test_several_processes_save_before_they_measure(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher that is stopped gives them half a minute, and measuring may take an hour."""
    spec, saved = spec_of(tiny, "at"), RunState.save
    places: list[tuple[int, int]] = []

    def save(self: RunState, content: dict[str, Any]) -> None:
        places.append((content["progress"]["epoch"], content["progress"]["step"]))
        saved(self, content)

    monkeypatch.setattr(RunState, "save", save)
    steps = 0
    for group in (ALONE, Several(2)):
        training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
        steps, places[:] = len(training.batches.plan(0)), []
        train_run(
            spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "run", group=group
        )
        assert ((0, steps) in places) == (group.size == 2)


def test_the_loss_is_looked_at_within_an_epoch_though_nothing_is_saved(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch of a large network takes an hour."""
    spec, original = spec_of(tiny, "at"), Training._step
    steps: list[int] = []

    def step(self: Training, batch: object) -> None:
        original(self, batch)  # type: ignore[arg-type]
        steps.append(self.progress.epoch)
        if steps.count(1) == 3:
            self.tally.sums["loss"].fill_(float("nan"))

    monkeypatch.setattr(Training, "_step", step)
    monkeypatch.setattr(resume, "LOOK_SECONDS", -1)  # time is up after each step
    folder = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "diverged"
    assert steps.count(1) == 3


def test_processes_that_drifted_apart_save_nothing(
    shared_root: Path, tmp_path: Path, tiny: Params
) -> None:
    """Else the same command would go on from the first one's weights, as if they were right."""

    spec, group = spec_of(tiny, "at"), Several(2)
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"), group)
    training.group = Drifted(2)
    state = RunState(tmp_path / "state", group)
    state.folder.mkdir()
    watch = Watch(training, state, [], SilentRecorder(), threading.Event())
    with pytest.raises(UserError, match="expected the same weights in all 2 processes"):
        watch.save()
    assert not state.checkpoint.exists()


def test_the_processor_is_named_as_its_maker_names_it() -> None:
    information = Path("/proc/cpuinfo")
    if not information.exists() or "model name" not in information.read_text():
        pytest.skip("only Linux on x86 tells the name in /proc/cpuinfo")
    assert f": {run_record.processor_name()}\n" in information.read_text()


def test_a_training_tells_all_that_has_computed_it(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tiny, "at")
    told_in_step_5(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(run_record, "device_name", lambda device: "Big GPU")
        patch.setattr(run_record, "processor_name", lambda: "Big CPU")
        with pytest.raises(Interrupted):
            train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        folder = train_run(
            spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts"
        )
    record = json.loads((folder / "run.json").read_text())
    (earlier,) = record["earlier"]
    assert earlier["device"] == "Big GPU"
    assert record["device"].startswith("cpu")
    assert (earlier["processor"], record["processor"]) == ("Big CPU", run_record.processor_name())
    assert record["deterministic"] is False  # the first part was not
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    record = json.loads((whole / "run.json").read_text())
    assert "earlier" not in record
    assert record["networks"]["best"] == sha256_file(whole / "best.pt")


def state_of(spec: TrainSpec, root: Path, output: Path) -> Path:
    return state_folder(spec, root=root, fingerprint=FINGERPRINT, output=output)


def test_a_training_that_goes_elsewhere_leaves_the_runs_own_state_alone(
    shared_root: Path, tmp_path: Path, tiny: Params, kill_after: list[int]
) -> None:
    """It went on from it without a word, and took it away at its end."""
    spec = spec_of(tiny, "at")
    own = state_of(spec, shared_root, shared_root / spec.key.directory)
    assert own == state_folder(spec, root=shared_root, fingerprint=FINGERPRINT, output=None)
    assert own.name == FINGERPRINT
    kill_after += [30]
    with pytest.raises(_Killed):
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT)
    saved = (own / "checkpoint.pt").read_bytes()
    there = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "there")
    assert (own / "checkpoint.pt").read_bytes() == saved
    assert not list(state_of(spec, shared_root, tmp_path / "there").glob("*.pt"))
    assert_same(there, train_run(spec, root=shared_root, fingerprint=FINGERPRINT))


def test_a_second_process_on_the_run_is_refused(
    shared_root: Path, tmp_path: Path, tiny: Params
) -> None:
    spec = spec_of(tiny, "at")
    folder = state_of(spec, shared_root, tmp_path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(folder.parent / f"{folder.name}.lock"),
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


PASSING = {
    "disk": OSError(errno.EIO, "Input/output error"),
    "stale handle": OSError(errno.ESTALE, "Stale file handle"),
    "memory": MemoryError("no room"),
    "a GPU's memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
}


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("place", ["zipfile.ZipFile.testzip", "torch.load"])
def test_a_checkpoint_that_cannot_be_read_just_now_stays(
    fault: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a full GPU or a server that was away would begin the training anew."""
    state = RunState(tmp_path / "run" / "fingerprint")
    state.folder.mkdir(parents=True)
    for epoch in range(2):
        state.save({"epoch": epoch})

    def fail(*_: object, **__: object) -> None:
        raise PASSING[fault]

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(UserError, match=r"checkpoint.pt: expected .*; it may be whole") as said:
            state.load(torch.device("cpu"))
    assert "\n" not in str(said.value)
    assert state.load(torch.device("cpu")) == {"epoch": 1}


def test_what_was_set_aside_is_kept(tmp_path: Path) -> None:
    state = RunState(tmp_path / "run" / "fingerprint")
    state.folder.mkdir(parents=True)
    for text in ("first", "second", "third"):
        state.checkpoint.write_text(text)
        assert state.load(torch.device("cpu")) is None
    aside = sorted(path for path in state.folder.iterdir() if path.suffix == ".unreadable")
    assert sorted(path.read_text() for path in aside) == ["first", "second", "third"]


def test_the_history_is_the_checkpoints(
    shared_root: Path, tmp_path: Path, tiny: Params, kill_after: list[int]
) -> None:
    """The file beside it is for people to look at; cut or gone, nothing is lost."""
    spec = spec_of(tiny, "at")
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    kill_after += [30]
    with pytest.raises(_Killed):
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    state = RunState(state_of(spec, shared_root, tmp_path / "parts"))
    assert state.history_file.read_text()
    state.history_file.write_text('{"epoch": 0, "train_l')
    resumed = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert_same(whole, resumed)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    shared_root: Path,
    tmp_path: Path,
    tiny: Params,
    kill_after: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = spec_of(tiny, "at-rwp")
    whole = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "whole")
    kill_after += [40]
    with pytest.raises(_Killed):
        train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    state = RunState(state_of(spec, shared_root, tmp_path / "parts"))
    state.checkpoint.write_bytes(state.checkpoint.read_bytes()[:5000])
    resumed = train_run(spec, root=shared_root, fingerprint=FINGERPRINT, output=tmp_path / "parts")
    assert_same(whole, resumed)
    assert "checkpoint.pt: expected a checkpoint" in caplog.text
    assert "the one before or the start is taken" in caplog.text


def test_a_checkpoint_with_one_wrong_bit_is_not_used(tmp_path: Path) -> None:
    state = RunState(tmp_path / "run" / "fingerprint")
    state.folder.mkdir(parents=True)
    state.save({"weights": torch.ones(5000)})
    whole = bytearray(state.checkpoint.read_bytes())
    place = whole.index(torch.ones(100).numpy().tobytes()) + 50  # amid the weights
    whole[place] ^= 1
    state.checkpoint.write_bytes(whole)
    assert state.load(torch.device("cpu")) is None


def test_a_checkpoint_of_another_version_is_not_used(tmp_path: Path) -> None:
    state = RunState(tmp_path / "run" / "fingerprint")
    state.folder.mkdir(parents=True)
    torch.save({"format": "rwp.state/0", "weights": {}}, state.checkpoint)
    assert state.load(torch.device("cpu")) is None
    assert state.checkpoint.with_suffix(".unreadable").exists()


def test_best_networks_that_no_checkpoint_names_are_removed(tmp_path: Path) -> None:
    state = RunState(tmp_path)
    for epoch in (0, 3, 4, 7):
        state.network("best", {"epoch": epoch}).touch()
    state.network("best_on_test", {"epoch": 0}).touch()
    state.network("epoch2", {"epoch": 1}).touch()
    state.tidy({"best": {"epoch": 4}, "best_on_test": {"epoch": 0}})
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["best-3.pt", "best-4.pt", "best_on_test-0.pt", "epoch2-1.pt"]
