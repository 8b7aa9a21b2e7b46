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
from rwp.core.objectives import ExampleLosses, make_objective
from rwp.core.precision import precision_context
from rwp.core.threat import ThreatModel
from rwp.core.weight_perturbation import (
    PerturbedWeights,
    WeightPerturbation,
    perturb_weights,
    shifted_weights,
)
from rwp.data.augmentation import Augmentation, augment
from rwp.data.images import ImageSet
from rwp.rng import generator_for
from rwp.training.batches import Batch, Batches
from rwp.training.measure import measure
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
    best: Row | None = None


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
        objective = spec.objective
        self.objective = make_objective(
            objective.loss,
            beta=objective.beta,
            criterion=objective.criterion,
            clean_updates=objective.clean_updates if objective.loss == "trades" else None,
            random_start=spec.attack.random_start if spec.attack else None,
        )
        self.perturbation = _weight_perturbation(spec)
        optimization = spec.optimization
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=optimization.learning_rate,
            momentum=optimization.momentum,
            nesterov=optimization.nesterov,
            weight_decay=optimization.weight_decay,
        )
        self.policy = Augmentation(**spec.augmentation.model_dump())
        self.progress = Progress()
        self.tally = Tally(device)
        model.register_forward_pre_hook(self._count_forward)

    def _count_forward(self, module: nn.Module, inputs: Any) -> None:
        if torch.is_grad_enabled():
            self.progress.passes["forward"] += 1

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
            loss = outer.objective.mean()
            if batch.weights is not None:
                loss = (outer.objective * batch.weights).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()  # at w + v, as published; v is taken back on leaving
        self.progress.passes["backward"] += 1
        c_min = self.perturbation.c_min if self.perturbation else None
        self.tally.add(outer, batch.labels, c_min=c_min, perturbed=perturbed)

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

    def finish_epoch(self, after_batch: Callable[[], None] = lambda: None) -> Row:
        """Measure, calling back after each batch, close the epoch, and give its history row."""
        epoch, passes = self.progress.epoch, dict(self.progress.passes)
        row: Row = {"epoch": epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        row |= self.tally.row()
        num_images = float(self.tally.sums["images"])
        for name, split in self.splits.items():
            accuracies = measure(
                self.model,
                split,
                self.spec.monitor,
                generator=lambda index, name=name: generator_for(
                    self.spec.key.seed, "measure", name, epoch, index, device=self.device
                ),
                device=self.device,
                after_batch=after_batch,
            )
            self.progress.passes = dict(passes)  # measuring is not training
            row |= {f"{name}_{key}": value for key, value in accuracies.items()}
        row["seconds"] = round(self.progress.seconds, 3)
        row["images_per_second"] = round(num_images / max(self.progress.seconds, 1e-9), 1)
        self.progress.epoch, self.progress.step, self.progress.seconds = epoch + 1, 0, 0.0
        self.tally = Tally(self.device)
        return row

    def improves(self, row: Row) -> bool:
        """Whether this epoch's network is the best so far; if so, remember it."""
        key = selection_key(self.spec)
        if self.progress.best is not None and row[key] <= self.progress.best[key]:
            return False
        self.progress.best = row
        return True

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
            "tally": self.tally.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint of the same spec."""
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.tally.load(state["tally"])


def selection_key(spec: TrainSpec) -> str:
    """The measurement that chooses `best`."""
    accuracy = "clean_accuracy" if spec.monitor is None else "robust_accuracy"
    return f"{spec.selection}_{accuracy}"


def _weight_perturbation(spec: TrainSpec) -> WeightPerturbation | None:
    if spec.perturbation is None:
        return None
    options = spec.perturbation.model_dump(exclude={"name", "warmup_epochs"})
    return WeightPerturbation(**options)
