"""How a training is stopped, saved and gone on with, bit for bit on a CPU.

SIGTERM and Ctrl-C ask it to stop after a step. Its state lies outside the declared outputs, in a
folder named after the run and its fingerprint: the workflow engine deletes the declared outputs of
a failed job, and another configuration of the same run must not resume from it.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout

from rwp.core.process_group import ALONE, Group
from rwp.errors import UserError, in_one_line, passing_cause
from rwp.files import atomic_write
from rwp.progress import Progress
from rwp.training.guards import Stopped, fault_of
from rwp.training.history import Recorder, Row
from rwp.training.loop import Training
from rwp.training.run_record import note_machine

FORMAT = "rwp.state/1"
log = logging.getLogger("rwp.training")


class RunState:
    """The folder of one run's resume state; of a group of processes, the leading one uses it."""

    def __init__(self, folder: Path, group: Group = ALONE) -> None:
        self.folder, self.group = folder, group
        self.checkpoint = folder / "checkpoint.pt"
        self.previous = folder / "previous.pt"
        self.history_file = folder / "history.jsonl"

    def network(self, name: str, row: Row) -> Path:
        """The network after an epoch, waiting here until the run is done: best, epoch100."""
        return self.folder / f"{name}-{row['epoch']}.pt"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second process on the same run is refused.

        Raises:
            UserError: another process holds it.
        """
        if not self.group.leads:
            yield
            return
        lock = FileLock(self.folder.parent / f"{self.folder.name}.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"{self.folder}: expected to train this run alone, found another process at it;"
                f" wait for it or stop it"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def save(self, content: dict[str, Any]) -> None:
        """Replace the checkpoint in one move; the one before is kept, should this one be damaged.

        `content` holds the history too, so that the two can never disagree.
        """
        if not self.group.leads:
            return
        with atomic_write(self.checkpoint) as temporary:
            with temporary.open("wb") as stream:  # a full disk is an OSError on a stream alone
                torch.save({"format": FORMAT, **content}, stream)
            if self.checkpoint.exists():
                self.checkpoint.replace(self.previous)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last sound checkpoint, or none; one that cannot be used is named and set aside.

        Raises:
            UserError: one cannot be read just now; it stays where it is.
        """
        if self.group.size == 1:
            return self._load(device)
        # Not by way of a GPU: all of them would take the leading process's.
        return self.group.from_lead(lambda: self._load(torch.device("cpu")))

    def _load(self, device: torch.device) -> dict[str, Any] | None:
        for path in (self.checkpoint, self.previous):
            if not path.exists():
                continue
            content = _read(path, device)
            if content is not None:
                return content
            aside = _place_aside(path)
            path.replace(aside)
            log.warning(
                "%s: expected a checkpoint (%s), got a damaged file or one of another version;"
                " it lies in %s now, and the one before or the start is taken",
                path,
                FORMAT,
                aside.name,
            )
        return None

    def tidy(self, chosen: Mapping[str, Row]) -> None:
        """Remove chosen networks that neither the checkpoint nor the one before it names."""
        for name, row in chosen.items() if self.group.leads else ():
            found = {int(path.stem.rpartition("-")[2]): path for path in self._all(name)}
            older = sorted(epoch for epoch in found if epoch < row["epoch"])
            for epoch, path in found.items():
                if epoch != row["epoch"] and epoch not in older[-1:]:
                    path.unlink(missing_ok=True)

    def _all(self, name: str) -> list[Path]:
        return list(self.folder.glob(f"{name}-*.pt"))

    def remove(self) -> None:
        """Forget the run once its results lie in place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path, device: torch.device) -> dict[str, Any] | None:
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums and does not look at them
            if archive.testzip() is not None:
                return None
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a cut or foreign file: whatever torch makes of it
        if cause := passing_cause(error):
            raise UserError(
                f"{path}: expected to read the state of this training, got {in_one_line(cause)}; it"
                f" may be whole and stays: run the same command again when it can be read"
            ) from error
        return None
    usable = isinstance(content, dict) and content.pop("format", None) == FORMAT
    return content if usable else None


def _place_aside(path: Path) -> Path:
    """Where a file that cannot be used goes; never over an earlier one."""
    names = (f"-{number}" if number > 1 else "" for number in itertools.count(1))
    places = (path.with_name(f"{path.stem}{name}.unreadable") for name in names)
    return next(place for place in places if not place.exists())


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """SIGTERM (Slurm, Snakemake) and Ctrl-C ask the loop to stop at the next step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


CHECKPOINT_SECONDS = 300  # an epoch of a Wide ResNet takes longer than anyone likes to lose
LOOK_SECONDS = 10  # how often the running loss is looked at within an epoch
_GO_ON, _SAVE, _STOP, _GIVE_UP = range(4)


class Interrupted(Exception):  # noqa: N818 (asked to stop, not an error)
    """The training was asked to stop and has saved where it is."""


class Watch:
    """Looks at a training after each step."""

    def __init__(
        self,
        training: Training,
        state: RunState,
        history: list[Row],
        recorder: Recorder,
        stop: threading.Event,
    ) -> None:
        self.training, self.state, self.history = training, state, history
        self.recorder, self.stop = recorder, stop
        self.saved_at = self.looked_at = time.monotonic()
        self.noted = False  # that this machine has computed something

    def save(self) -> None:
        """Make this the place to go on from.

        Raises:
            UserError: several processes do not hold the same any more.
        """
        self.training.check_together()
        run_id = self.recorder.run_id
        content = {"history": self.history, "mlflow_run_id": run_id}
        self.state.save({**self.training.state(), **content})
        self.saved_at = time.monotonic()

    def after_step(self, progress: Progress) -> None:
        """Save, leave or give up if it is time to."""
        training, now, fault = self.training, time.monotonic(), None
        if not self.noted:
            note_machine(training)
            self.noted = True
        at = training.progress
        progress.step(at.step)
        due = now - self.saved_at > CHECKPOINT_SECONDS
        wish = _STOP if self.stop.is_set() else _SAVE if due else _GO_ON
        if wish != _GO_ON or now - self.looked_at > LOOK_SECONDS:
            training.wait()
            self.looked_at, fault = now, fault_of(training.tally.loss(), training.model)
        # All processes do the same after the same step, whichever was the first to want it.
        wish = training.group.largest(_GIVE_UP if fault else wish)
        if wish == _GIVE_UP:
            fault = fault or "another process's loss is not finite"
            raise Stopped("diverged", f"{fault} in epoch {at.epoch}, by step {at.step}")
        if wish != _GO_ON:
            self.save()
        if wish == _STOP:
            raise Interrupted

    def while_measuring(self) -> None:
        """Save or leave if it is time to; several processes have no moment in common between the
        batches, and have saved before.
        """
        training = self.training
        due = time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
        if (self.stop.is_set() or due) and training.group.size == 1:
            if fault := fault_of(training.tally.loss(), training.model):
                raise Stopped("diverged", f"{fault} in epoch {training.progress.epoch}")
            self.save()
            if self.stop.is_set():
                raise Interrupted

    def before_measuring(self) -> None:
        """Several processes save what they trained: they stop only when all have measured."""
        training = self.training
        if training.group.size == 1:
            return
        fault = fault_of(training.tally.loss(), training.model)
        if training.group.largest(int(bool(fault))):
            fault = fault or "another process's loss is not finite"
            raise Stopped("diverged", f"{fault} in epoch {training.progress.epoch}")
        self.save()
