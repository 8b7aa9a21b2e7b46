"""Where a training stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rwp.training.recorder import Row
from rwp.training.work import Work


@dataclass
class Position:
    """Where a training stands; with weights and optimizer, all that a resume needs."""

    epoch: int = 0
    step: int = 0
    work: Work = field(default_factory=Work)  # of the epoch
    passes: dict[str, int] = field(default_factory=lambda: {"forward": 0, "backward": 0})
    chosen: dict[str, Row] = field(default_factory=dict)  # by checkpoint: best, best_on_test

    def state(self) -> dict[str, Any]:
        """For a checkpoint: plain data."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Position:
        """From a checkpoint."""
        return cls(**state | {"work": Work(**state["work"])})

    def next_epoch(self) -> None:
        """Stand at the beginning of the next epoch."""
        self.epoch, self.step, self.work = self.epoch + 1, 0, Work()
