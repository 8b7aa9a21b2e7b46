"""One row of the history per epoch of training, and who gets it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rwp.core.objectives import ExampleLosses
from rwp.core.process_group import ALONE, Group
from rwp.core.weight_perturbation import PerturbedWeights
from rwp.files import write_text

Row = dict[str, Any]

# The six groups of section 3 of the paper, 0 to 3 nats in steps of 0.5, and what lies above.
GROUP_EDGES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


class Tally:
    """Running sums over the steps of one epoch, kept on the device so that no step waits for them.

    `state` and `load` let an epoch go on in another process.
    """

    def __init__(self, device: torch.device, group: Group = ALONE) -> None:
        self.group = group
        self.edges = torch.tensor(GROUP_EDGES, device=device)
        zero = torch.zeros((), dtype=torch.float64, device=device)
        names = (
            "images",
            "loss",
            "correct",
            "below",
            "removed",
            "weight_steps",
            "norm_ratio",
            "loss_rise",
            "perturbed",
        )
        self.sums = {name: zero.clone() for name in names}
        self.groups = torch.zeros(len(GROUP_EDGES) + 1, dtype=torch.float64, device=device)
        self.numbers = torch.arange(len(self.groups), device=device)

    def add(
        self,
        outer: ExampleLosses,
        labels: Tensor,
        *,
        c_min: Tensor | float | None,
        perturbed: PerturbedWeights | None,
        kept: Tensor | None = None,
        rise: Tensor | None = None,
    ) -> None:
        """Count one step: the losses of its outer pass and its weight perturbation.

        `c_min` is None where nothing is compared and NaN where what is compared is not known.
        `kept` is 1 for examples that count in the outer loss and 0 for those removed from it;
        `rise` is what the weight perturbation adds to the sum of the losses.
        """
        sums, losses = self.sums, outer.objective.detach()
        sums["images"] += len(labels)
        sums["loss"] += losses.sum()
        sums["correct"] += (outer.logits.detach().argmax(1) == labels).sum()
        groups = torch.bucketize(losses.float(), self.edges, right=True)
        # Not bincount, which reads the largest group back from the device.
        self.groups += (groups.unsqueeze(1) == self.numbers).sum(0)
        if isinstance(c_min, float) and math.isnan(c_min):
            sums["below"] += math.nan
        elif c_min is not None:
            sums["below"] += (outer.criterion.detach() < c_min).sum()
        if kept is not None:
            sums["removed"] += len(kept) - kept.sum()
        if rise is not None:
            sums["loss_rise"] += rise
        if perturbed is not None and self.group.leads:  # the same in every process
            sums["perturbed"] += 1
            known = perturbed.diagnostics.counts_steps
            sums["weight_steps"] += perturbed.diagnostics.steps_on_device if known else math.nan
            sums["norm_ratio"] += perturbed.diagnostics.norm_ratio_on_device

    def loss(self) -> float:
        """The mean loss so far; waits for the device."""
        return float(self.sums["loss"]) / max(float(self.sums["images"]), 1.0)

    def row(self) -> dict[str, float | list[float] | None]:
        """The epoch's means; None for a rise of the loss that nobody measured."""
        state = self.state()
        sums = {name: float(value) for name, value in state.items() if name != "groups"}
        images, perturbed = max(sums["images"], 1.0), max(sums["perturbed"], 1.0)
        return {
            "train_loss": sums["loss"] / images,
            "train_robust_accuracy": sums["correct"] / images,
            "share_below_c_min": sums["below"] / images,
            "share_removed": sums["removed"] / images,
            "loss_histogram": [float(count) / images for count in state["groups"]],
            "weight_steps": _known(sums["weight_steps"] / perturbed),
            "norm_ratio": sums["norm_ratio"] / perturbed,
            "loss_rise": _known(sums["loss_rise"] / images),
        }

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: of all processes together."""
        together = [self.group.total(value) for value in (*self.sums.values(), self.groups)]
        return dict(zip((*self.sums, "groups"), together, strict=True))

    def load(self, state: dict[str, Tensor]) -> None:
        """From a checkpoint; the leading process takes it over, the others count from zero.

        What a checkpoint of an earlier version did not count is not known.
        """
        mine, device = float(self.group.leads), self.edges.device
        unknown = torch.tensor(math.nan, dtype=torch.float64)
        self.groups = state["groups"].to(device) * mine
        self.sums = {name: state.get(name, unknown).to(device) * mine for name in self.sums}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_history(path: Path, rows: list[Row]) -> None:
    """Write the history in one move; what is not finite becomes null."""
    write_text(path, "".join(_line(row) for row in rows))


def finite(row: Row) -> Row:
    """A row as files have it: what is not known is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def _line(row: Row) -> str:
    return json.dumps(finite(row), allow_nan=False) + "\n"


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
