"""The training loop: attack the images, perturb the weights, step at w + v, take v back.

Every random draw is a function of (seed, purpose, epoch, step), so the loop can be left after
any step and taken up again from the weights, the optimizer and two counters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rwp.config.specs import TrainSpec
from rwp.core.batch_statistics import average_statistics
from rwp.core.group import ALONE, Group
from rwp.core.objectives import ExampleLosses, make_objective
from rwp.core.precision import autotuned_convolutions, precision_context
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
from rwp.training.batches import Batch, Batches, Indices, attack_start
from rwp.training.compilation import compiled
from rwp.training.measure import measure
from rwp.training.recorder import Row
from rwp.training.schedules import learning_rate
from rwp.training.tally import Tally
from rwp.training.work import Passes, Work, forward_flops, timed


@dataclass
class Progress:
    """Where a training stands; with weights and optimizer, all that a resume needs."""

    epoch: int = 0
    step: int = 0
    work: Work = field(default_factory=Work)
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
        group: Group = ALONE,
    ) -> None:
        """Prepare a training.

        Args:
            spec: the resolved settings.
            model: the network, on `device`, in fp32.
            batches: the training images.
            splits: what is measured after each epoch, by name ("held_out", "test").
            device: where the arithmetic is done.
            group: the processes that share each batch.
        """
        self.spec, self.model, self.batches, self.splits = spec, model, batches, splits
        self.device, self.group = device, group
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
        self.tally = Tally(device, group)
        self.runner = compiled(model) if optimization.compile else model
        self.runner.register_forward_pre_hook(self._count_forward)
        self.passed = Passes(self.runner, forward_flops(model, batches.images[:1].float()))

    def _count_forward(self, module: nn.Module, inputs: Any) -> None:
        if torch.is_grad_enabled():  # measuring is not training
            self.progress.passes["forward"] += 1

    @property
    def done(self) -> bool:
        """Whether the schedule is over."""
        return self.progress.epoch >= self.spec.optimization.epochs

    def run_epoch(self, after_step: Callable[[], None]) -> None:
        """Take the epoch's remaining steps, calling back after each."""
        self.model.train()
        plan = self.batches.plan(self.progress.epoch)
        precision = self.spec.optimization.precision
        for step in range(self.progress.step, len(plan)):
            self._set_learning_rate(step, len(plan))
            with (
                timed(self.progress.work, "seconds"),
                precision_context(precision, self.device),
                autotuned_convolutions(self.device),
            ):
                self._step(plan[step])
            self.progress.step = step + 1
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

    def _step(self, indices: Indices) -> None:
        with timed(self.progress.work, "loading_seconds"):
            whole = self.batches.load(indices)
            images = augment(whole.images, self.policy, generator=self._generator("augment"))
            images = images.float() / 255
            batch = whole.part(images, self.group)
        adversarial = self._attack(batch, images)

        def losses() -> ExampleLosses:
            return self.objective.losses(self.runner, batch.images, adversarial, batch.labels)

        perturbed = self._perturb(losses)
        offset = perturbed.offset if perturbed else {}
        with shifted_weights(self.runner, offset):
            reusable = perturbed.reusable if perturbed else None
            outer = losses() if reusable is None else reusable
            loss = outer.objective.mean()
            if batch.weights is not None:
                loss = (outer.objective * batch.weights).mean()
            self.optimizer.zero_grad(set_to_none=True)
            share = len(batch.labels) / len(whole.labels)
            (loss * share).backward()
            self._add_up_gradients()
            self.optimizer.step()  # at w + v, as published; v is taken back on leaving
        self.progress.passes["backward"] += 1
        self.progress.work.flops += self.passed.take(perturbed) / share
        c_min = self.perturbation.c_min if self.perturbation else None
        self.tally.add(outer, batch.labels, c_min=c_min, perturbed=perturbed)

    def _add_up_gradients(self) -> None:
        parameters = self.model.parameters()
        self.group.add_up_([p.grad for p in parameters if p.grad is not None])
        if self.spec.optimization.batch_statistics == "share":
            average_statistics(self.model, self.group)

    def _attack(self, batch: Batch, whole: Tensor) -> Tensor:
        attack = self.spec.attack
        if attack is None:
            return batch.images
        self.progress.passes["backward"] += attack.num_steps or 0
        generator = self._generator("attack", self.device)
        return self.objective.attack(
            self.runner,
            batch.images,
            batch.labels,
            threat=ThreatModel(attack.threat.norm, attack.threat.radius),
            step_size=attack.step,
            num_steps=attack.num_steps or 0,
            generator=generator,
            bn_mode=attack.bn_mode,
            start=attack_start(whole, self.objective, attack, generator, self.group),
        )

    def _perturb(self, losses: Callable[[], ExampleLosses]) -> PerturbedWeights | None:
        perturbation, settings = self.perturbation, self.spec.perturbation
        if perturbation is None or settings is None:
            return None
        if self.progress.epoch < settings.warmup_epochs:
            return None
        generator = self._generator("mask", self.device)
        perturbed = perturb_weights(
            self.runner, losses, perturbation, generator=generator, group=self.group
        )
        self.progress.passes["backward"] += perturbed.diagnostics.steps
        return perturbed

    def finish_epoch(self) -> Row:
        """Measure, close the epoch, and give its row of the history."""
        epoch = self.progress.epoch
        row: Row = {"epoch": epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        row |= self.tally.row()
        num_images = float(self.tally.state()["images"])
        for name, split in self.splits.items():
            accuracies = measure(
                self.model,
                split,
                self.spec.monitor,
                generator=lambda index, name=name: generator_for(
                    self.spec.key.seed, "measure", name, epoch, index, device=self.device
                ),
                device=self.device,
                group=self.group,
            )
            row |= {f"{name}_{key}": value for key, value in accuracies.items()}
        row |= self.progress.work.row(num_images, self.device)
        self.progress.epoch, self.progress.step, self.progress.work = epoch + 1, 0, Work()
        self.tally = Tally(self.device, self.group)
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
            "progress": asdict(self.progress),
            "tally": self.tally.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint of the same spec."""
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"] | {"work": Work(**state["progress"]["work"])})
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
