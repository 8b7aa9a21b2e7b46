"""The training loop: attack the images, perturb the weights, step at w + v, take v back.

Every random draw is a function of (seed, purpose, epoch, step), so the loop can be left after
any step and taken up again from the weights, the optimizer and two counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rwp.config.specs import TrainSpec
from rwp.core.lsc import keep_high_loss
from rwp.core.objectives import ExampleLosses
from rwp.core.precision import precision_context
from rwp.core.threat import ThreatModel
from rwp.core.weight_perturbation import (
    PerturbedWeights,
    perturb_weights,
    shifted_weights,
)
from rwp.data.augmentation import Augmentation, augment
from rwp.data.images import ImageSet
from rwp.rng import generator_for
from rwp.training.batches import Batch, Batches
from rwp.training.measure import measure
from rwp.training.parts import (
    moving_average_of,
    objective_of,
    optimizer_of,
    selection_keys,
    weight_perturbation_of,
)
from rwp.training.recorder import Row
from rwp.training.schedules import learning_rate
from rwp.training.tally import Tally


@dataclass
class Progress:
    """Where a training stands; with weights and optimizer, all that a resume needs."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    passes: dict[str, int] = field(default_factory=lambda: {"forward": 0, "backward": 0})
    chosen: dict[str, Row] = field(default_factory=dict)  # by checkpoint: best, best_on_test


class Training:
    """One network on its way; `step` and `finish_epoch` advance it."""

    def __init__(
        self,
        spec: TrainSpec,
        model: nn.Module,
        batches: Batches,
        splits: dict[str, ImageSet],
        *,
        device: torch.device,
    ) -> None:
        """Prepare a training.

        Args:
            spec: the resolved settings.
            model: the network, on `device`, in fp32.
            batches: the training images.
            splits: what is measured after each epoch, by name ("held_out", "test").
            device: where the arithmetic is done.
        """
        self.spec, self.model, self.batches, self.splits = spec, model, batches, splits
        self.device = device
        self.objective = objective_of(spec)
        self.perturbation = weight_perturbation_of(spec)
        self.optimizer = optimizer_of(spec, model)
        self.policy = Augmentation(**spec.augmentation.model_dump())
        self.progress = Progress()
        self.tally = Tally(device)
        self.average = moving_average_of(spec, model)
        model.register_forward_pre_hook(self._count_forward)

    def _count_forward(self, module: nn.Module, inputs: Any) -> None:
        if torch.is_grad_enabled():  # measuring is not training
            self.progress.passes["forward"] += 1

    @property
    def measured(self) -> nn.Module:
        """The network that is measured and kept: the moving average where the recipe has one."""
        return self.model if self.average is None else self.average.module

    @property
    def done(self) -> bool:
        """Whether the schedule is over."""
        return self.progress.epoch >= self.spec.optimization.epochs

    def run_epoch(self, after_step: Callable[[], None]) -> None:
        """Take the epoch's remaining steps, calling back after each."""
        self.model.train()
        plan = self.batches.plan(self.progress.epoch)
        for step in range(self.progress.step, len(plan)):
            started = time.monotonic()
            self._set_learning_rate(step, len(plan))
            with precision_context(self.spec.optimization.precision, self.device):
                self._step(self.batches.load(plan[step]))
            self.progress.step = step + 1
            self.progress.seconds += time.monotonic() - started
            after_step()

    def _set_learning_rate(self, step: int, num_steps: int) -> None:
        rate = learning_rate(
            self.spec.optimization, epoch=self.progress.epoch, step=step, num_steps=num_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        where = (purpose, self.progress.epoch, self.progress.step)
        return generator_for(self.spec.key.seed, *where, device=device)

    def _step(self, batch: Batch) -> None:
        images = augment(batch.images, self.policy, generator=self._generator("augment"))
        images = images.float() / 255
        adversarial = self._attack(images, batch.labels)

        def losses() -> ExampleLosses:
            return self.objective.losses(self.model, images, adversarial, batch.labels)

        perturbed = self._perturb(losses)
        offset = perturbed.offset if perturbed else {}
        with shifted_weights(self.model, offset):
            reusable = perturbed.reusable if perturbed else None
            outer = losses() if reusable is None else reusable
            kept = self._kept(outer)
            loss = _weighted_mean(outer.objective, batch.weights, kept)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()  # at w + v, as published; v is taken back on leaving
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.progress.passes["backward"] += 1
        c_min = self.perturbation.c_min if self.perturbation else None
        self.tally.add(outer, batch.labels, c_min=c_min, perturbed=perturbed, kept=kept)

    def _kept(self, outer: ExampleLosses) -> Tensor | None:
        """Which examples count, where those of low loss are removed (the paper's appendix)."""
        threshold = self.spec.remove_below
        return None if threshold is None else keep_high_loss(outer.criterion, threshold=threshold)

    def _attack(self, images: Tensor, labels: Tensor) -> Tensor:
        attack = self.spec.attack
        if attack is None:
            return images
        self.progress.passes["backward"] += attack.num_steps or 0
        return self.objective.attack(
            self.model,
            images,
            labels,
            threat=ThreatModel(attack.threat.norm, attack.threat.radius),
            step_size=attack.step,
            num_steps=attack.num_steps or 0,
            generator=self._generator("attack", self.device),
            bn_mode=attack.bn_mode,
        )

    def _perturb(self, losses: Callable[[], ExampleLosses]) -> PerturbedWeights | None:
        perturbation, settings = self.perturbation, self.spec.perturbation
        if perturbation is None or settings is None:
            return None
        if self.progress.epoch < settings.warmup_epochs:
            return None
        generator = self._generator("mask", self.device)
        perturbed = perturb_weights(self.model, losses, perturbation, generator=generator)
        self.progress.passes["backward"] += perturbed.diagnostics.steps
        return perturbed

    def finish_epoch(self) -> Row:
        """Measure, close the epoch, and give its row of the history."""
        epoch = self.progress.epoch
        row: Row = {"epoch": epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        row |= self.tally.row()
        num_images = float(self.tally.sums["images"])
        for name, split in self.splits.items():
            accuracies = measure(
                self.measured,
                split,
                self.spec.monitor,
                generator=lambda index, name=name: generator_for(
                    self.spec.key.seed, "measure", name, epoch, index, device=self.device
                ),
                device=self.device,
            )
            row |= {f"{name}_{key}": value for key, value in accuracies.items()}
        row["seconds"] = round(self.progress.seconds, 3)
        row["images_per_second"] = round(num_images / max(self.progress.seconds, 1e-9), 1)
        self.progress.epoch, self.progress.step, self.progress.seconds = epoch + 1, 0, 0.0
        self.tally = Tally(self.device)
        return row

    def improved(self, row: Row) -> list[str]:
        """The checkpoints for which this epoch's network is the best so far; they are noted."""
        chosen = self.progress.chosen
        names = [
            name
            for name, key in selection_keys(self.spec).items()
            if name not in chosen or row[key] > chosen[name][key]
        ]
        chosen |= dict.fromkeys(names, row)
        return names

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
            "tally": self.tally.state(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint of the same spec."""
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.tally.load(state["tally"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def _weighted_mean(losses: Tensor, *weights: Tensor | None) -> Tensor:
    """The mean over the whole batch, whatever the weights add up to."""
    for weight in weights:
        losses = losses if weight is None else losses * weight
    return losses.mean()
