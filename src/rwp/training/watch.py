"""Between the steps of a training: what is saved when, and when to leave or to give up."""

from __future__ import annotations

import threading
import time

from rwp.progress import Progress
from rwp.training.guards import Stopped, fault_of
from rwp.training.loop import Training
from rwp.training.recorder import Recorder, Row
from rwp.training.state import RunState

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

    def save(self) -> None:
        """Make this the place to go on from."""
        run_id = self.recorder.run_id
        content = {"history": self.history, "mlflow_run_id": run_id}
        self.state.save({**self.training.state(), **content})
        self.saved_at = time.monotonic()

    def after_step(self, progress: Progress) -> None:
        """Save, leave or give up if it is time to."""
        training, now, fault = self.training, time.monotonic(), None
        at = training.progress
        progress.step(at.step)
        due = now - self.saved_at > CHECKPOINT_SECONDS
        wish = _STOP if self.stop.is_set() else _SAVE if due else _GO_ON
        if wish != _GO_ON or now - self.looked_at > LOOK_SECONDS:
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
        """Leave if asked to; several processes have no moment in common between the batches."""
        training = self.training
        if self.stop.is_set() and training.group.size == 1:
            if fault := fault_of(training.tally.loss(), training.model):
                raise Stopped("diverged", f"{fault} in epoch {training.progress.epoch}")
            self.save()
            raise Interrupted
