"""Sums over the steps of an epoch, kept on the device so that no step waits for them."""

from __future__ import annotations

import torch
from torch import Tensor

from rwp.core.objectives import ExampleLosses
from rwp.core.weight_perturbation import PerturbedWeights

# The six groups of section 3 of the paper, 0 to 3 nats in steps of 0.5, and what lies above.
GROUP_EDGES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


class Tally:
    """Running sums of one epoch; `state` and `load` let an epoch go on in another process."""

    def __init__(self, device: torch.device) -> None:
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
            "perturbed",
        )
        self.sums = {name: zero.clone() for name in names}
        self.groups = torch.zeros(len(GROUP_EDGES) + 1, dtype=torch.float64, device=device)

    def add(
        self,
        outer: ExampleLosses,
        labels: Tensor,
        *,
        c_min: float | None,
        perturbed: PerturbedWeights | None,
        kept: Tensor | None = None,
    ) -> None:
        """Count one step: the losses of its outer pass and its weight perturbation.

        `kept` is 1 for examples that count in the outer loss and 0 for those removed from it.
        """
        sums, losses = self.sums, outer.objective.detach()
        sums["images"] += len(labels)
        sums["loss"] += losses.sum()
        sums["correct"] += (outer.logits.detach().argmax(1) == labels).sum()
        groups = torch.bucketize(losses.float(), self.edges, right=True)
        self.groups += torch.bincount(groups, minlength=len(self.groups))
        if c_min is not None:
            sums["below"] += (outer.criterion.detach() < c_min).sum()
        if kept is not None:
            sums["removed"] += len(kept) - kept.sum()
        if perturbed is not None:
            sums["perturbed"] += 1
            sums["weight_steps"] += perturbed.diagnostics.steps
            sums["norm_ratio"] += perturbed.diagnostics.norm_ratio

    def row(self) -> dict[str, float | list[float]]:
        """The epoch's means."""
        sums = {name: float(value) for name, value in self.sums.items()}
        images, perturbed = max(sums["images"], 1.0), max(sums["perturbed"], 1.0)
        return {
            "train_loss": sums["loss"] / images,
            "train_robust_accuracy": sums["correct"] / images,
            "share_below_c_min": sums["below"] / images,
            "share_removed": sums["removed"] / images,
            "loss_histogram": [float(count) / images for count in self.groups],
            "weight_steps": sums["weight_steps"] / perturbed,
            "norm_ratio": sums["norm_ratio"] / perturbed,
        }

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {**self.sums, "groups": self.groups}

    def load(self, state: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        self.groups = state["groups"]
        self.sums = {name: state[name] for name in self.sums}
