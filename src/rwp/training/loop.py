"""The training loop: attack the images, perturb the weights, step at w + v, take v back.

Every random draw is a function of (seed, purpose, epoch, step), so the loop can be left after
any step and taken up again from the weights, the optimizer and two counters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rwp.core.batch_statistics import average_statistics
from rwp.core.losses import cross_entropy
from rwp.core.lsc import keep_high_loss
from rwp.core.mask import as_many_at_random
from rwp.core.objectives import ExampleLosses
from rwp.core.precision import autotuned_convolutions, precision_context
from rwp.core.process_group import ALONE, Group
from rwp.core.weight_perturbation import PerturbedWeights, shifted_weights
from rwp.data.augmentation import augment
from rwp.data.images import ImageSet
from rwp.data.transfer import images_of
from rwp.rng import derived_seed, generator_for
from rwp.streams import kept_streams
from rwp.training.batches import Batch, Batches, Indices, attack_start
from rwp.training.flops import PassCounter, Work, forward_flops, timed, wait_for
from rwp.training.history import Row, Tally
from rwp.training.image_losses import ImageLosses
from rwp.training.measure import measure
from rwp.training.optimization import MovingAverage, compiled, learning_rate, optimizer_of
from rwp.training.own import Memory, OwnObjective
from rwp.training.recipe import (
    climbed_of,
    has_own_code,
    memory_format_of,
    objective_of,
    perturb_of,
    weight_perturbation_of,
)
from rwp.training.several_processes import check_same_weights, refuse_shared_memory
from rwp.training.spec import TrainSpec


class Training:
    """A training in progress; `step` and `finish_epoch` advance it."""

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
        self.has_own_code = has_own_code(spec)
        self.memory_format = memory_format_of(spec, device)
        self.objective = objective_of(spec, batches.num_classes)
        self.climbed = climbed_of(spec, self.objective)
        self.perturbation = weight_perturbation_of(spec, model)
        self.perturb = perturb_of(spec)
        mask = self.perturbation.mask if self.perturbation else None
        found = map(Memory.of, (self.objective, mask, self.perturb))
        self.memories = {memory.name: memory for memory in found if memory is not None}
        refuse_shared_memory(self.objective, group)
        for memory in self.memories.values():
            if isinstance(memory.inner, nn.Module):
                memory.inner.to(device)
        self.optimizer = optimizer_of(spec, model)
        self.policy = spec.augmentation
        self.progress = Position()
        self.tally = Tally(device, group)
        decay = spec.average_decay
        self.average = None if decay is None else MovingAverage(model, decay=decay)
        keeps = spec.keep_losses
        self.losses = ImageLosses(batches.num_labeled, device, group) if keeps else None
        how = spec.optimization.compile
        self.runner = compiled(model, how)
        self.measured_runner = self.runner
        if self.average is not None:
            self.measured_runner = compiled(self.average.module, how)
        self.passed = PassCounter(self.runner, forward_flops(model, batches.images[:1].float()))

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
            self._set_learning_rate(step, len(plan))
            with timed(self.progress.work, "seconds"):
                self._step_in_precision(plan[step])
            self.progress.step = step + 1
            after_step()
        self.wait()

    def wait(self) -> None:
        """Let a GPU finish the steps that it was given, as part of their time."""
        with timed(self.progress.work, "seconds"):
            wait_for(self.device)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """What is trained and what is measured run in the suite's precision alike."""
        precision = self.spec.optimization.precision
        with precision_context(precision, self.device), autotuned_convolutions(self.device):
            yield

    def _set_learning_rate(self, step: int, num_steps: int) -> None:
        rate = learning_rate(
            self.spec.optimization, epoch=self.progress.epoch, step=step, num_steps=num_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @property
    def _drawing_device(self) -> torch.device:
        """Where noise is drawn: here, or on the CPU for a device without a generator (meta)."""
        return self.device if self.device.type in ("cpu", "cuda") else torch.device("cpu")

    def _place(self, purpose: str, *, own: bool = False) -> tuple[str | int, ...]:
        """What a draw is made for; by own code, each process has its own images to draw for."""
        where = (purpose, self.progress.epoch, self.progress.step)
        return (*where, "process", self.group.rank) if own and not self.group.leads else where

    def _generator(
        self, purpose: str, device: torch.device | str = "cpu", *, own: bool = False
    ) -> torch.Generator:
        return generator_for(self.spec.key.seed, *self._place(purpose, own=own), device=device)

    def _step_in_precision(self, indices: Indices) -> None:
        if self.has_own_code:  # dropout and the like draw from torch's own stream
            torch.manual_seed(derived_seed(self.spec.key.seed, *self._place("own", own=True)))
        with self._arithmetic():
            self._step(indices)

    def _same_draws(self) -> AbstractContextManager[None]:
        """What is looked at on the side takes no number of torch's own stream, as dropout would."""
        return kept_streams(self.device, enabled=self.has_own_code)

    def _step(self, indices: Indices) -> None:
        self.passed.start()
        with timed(self.progress.work, "loading_seconds"):
            whole = self.batches.load(indices)
            images = augment(whole.images, self.policy, generator=self._generator("augment"))
            images = images_of(images, self.device, self.memory_format)
            batch = whole.part(images, self.group)
        adversarial = self._attack(batch, images)
        if self.losses is not None:
            look = (batch.images, adversarial, batch.labels, batch.places)
            with self._same_draws():
                self.losses.look(self.runner, self.model, *look)

        def losses() -> ExampleLosses:
            return self.objective.losses(self.runner, batch.images, adversarial, batch.labels)

        def climbed() -> ExampleLosses:
            found = self.climbed.losses(self.runner, batch.images, adversarial, batch.labels)
            return found._replace(objective=_weighted(found.objective, batch.weights))

        perturbed = self._perturb(climbed)
        offset = perturbed.offset if perturbed else {}
        with shifted_weights(self.runner, offset):
            outer = losses()
            kept = self._kept(outer)
            loss = _weighted(outer.objective, batch.weights, kept).mean()
            share = len(batch.labels) / len(whole.labels)
            (loss * share).backward()
            self._add_up_gradients()
            if self._steps_perturbed:  # as published; v is taken back on leaving
                self._update()
        if not self._steps_perturbed:
            self._update()
        if self.average is not None:
            self.average.update(self.model)
        self.progress.passes["backward"] += 1
        self.progress.passes["forward"] += self.passed.forward
        self.progress.work.flops += self.passed.take(perturbed) / share
        c_min, seen = self._c_min(perturbed), self._compared(outer, batch.labels)
        rise = self._rise(_weighted(outer.objective, batch.weights), perturbed)
        self.tally.add(seen, batch.labels, c_min=c_min, perturbed=perturbed, kept=kept, rise=rise)

    @property
    def _steps_perturbed(self) -> bool:
        """Whether the optimizer steps at w + v, and not at w as SAM does."""
        settings = self.spec.perturbation
        return settings is None or settings.step_at == "perturbed"

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # memory of a CUDA graph is taken again

    def _c_min(self, perturbed: PerturbedWeights | None) -> Tensor | float | None:
        """What a step's losses are compared with, if anything.

        NaN where that is not known: a quantile before one was looked for, and where the mask
        looks at clean losses, which the outer pass does not have.
        """
        perturbation, settings = self.perturbation, self.spec.perturbation
        if perturbation is None or settings is None:
            return None
        compares = perturbation.c_min is not None or perturbation.c_min_quantile is not None
        if compares and settings.climbs == "clean_ce" and self.spec.attack is not None:
            return math.nan
        if perturbation.c_min_quantile is None:
            return perturbation.c_min
        return math.nan if perturbed is None else perturbed.diagnostics.c_min

    def _compared(self, outer: ExampleLosses, labels: Tensor) -> ExampleLosses:
        """The outer losses, with those that the mask looks at."""
        settings = self.spec.perturbation
        if settings is None or settings.climbs == "objective":
            return outer
        return outer._replace(criterion=cross_entropy(outer.logits.detach(), labels))

    def _kept(self, outer: ExampleLosses) -> Tensor | None:
        """Which examples count, where those of low loss are removed (the paper's appendix)."""
        threshold = self.spec.remove_below
        if threshold is None:
            return None
        kept = keep_high_loss(outer.criterion, threshold=threshold)
        if self.spec.remove_at_random:
            generator = self._generator("removal", self._drawing_device)
            removed = as_many_at_random(kept == 0, generator=generator, group=self.group)
            kept = (~removed).to(kept.dtype)
        return kept

    def _rise(self, outer: Tensor, perturbed: PerturbedWeights | None) -> Tensor | None:
        """What v adds to the sum of the training losses; NaN where v raises others than these."""
        if perturbed is None or not perturbed.offset:
            return None
        before, after = perturbed.diagnostics.losses_at_w, outer.detach().sum()
        if before is None or self.climbed is not self.objective:
            return torch.full_like(after, math.nan)
        return after - before

    def _add_up_gradients(self) -> None:
        if self.group.size > 1 and self.has_own_code:
            self._complete_gradients()
        parameters = self.model.parameters()
        self.group.add_up_([p.grad for p in parameters if p.grad is not None])
        if self.spec.optimization.batch_statistics == "share":
            average_statistics(self.model, self.group)

    def _complete_gradients(self) -> None:
        """Zeros for weights that other processes used and this one did not."""
        weights = list(self.model.parameters())
        used = torch.tensor([float(p.grad is not None) for p in weights], device=self.device)
        self.group.add_up_([used])
        for weight, count in zip(weights, used.tolist(), strict=True):
            if count and weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    def _attack(self, batch: Batch, whole: Tensor) -> Tensor:
        attack = self.spec.attack
        if attack is None:
            return batch.images
        self.progress.passes["backward"] += attack.num_steps or 0
        own = isinstance(self.objective, OwnObjective) and self.objective.has_attack
        generator = self._generator("attack", self._drawing_device, own=own)
        start = None
        if not own:
            start = attack_start(whole, self.objective, attack, generator, self.group)
        return self.objective.attack(
            self.runner,
            batch.images,
            batch.labels,
            threat=attack.threat.model,
            step_size=attack.step,
            num_steps=attack.num_steps or 0,
            generator=generator,
            bn_mode=attack.bn_mode,
            start=start,
            check_inputs=False,  # Batches has looked at all of them
        )

    def _perturb(self, losses: Callable[[], ExampleLosses]) -> PerturbedWeights | None:
        perturbation, settings = self.perturbation, self.spec.perturbation
        if perturbation is None or settings is None:
            return None
        if self.progress.epoch < settings.warmup_epochs:
            return None
        generator = self._generator("mask", self._drawing_device)
        perturbed = self.perturb(
            self.runner, losses, perturbation, generator=generator, group=self.group
        )
        self.progress.passes["backward"] += perturbed.diagnostics.backward_passes
        return perturbed

    def check_together(self) -> None:
        """Check that all processes still hold the same, as the first one saves for all.

        Raises:
            UserError: they do not, or the objective has begun to remember.
        """
        check_same_weights(self.model, self.group, name=self.spec.key.name)
        refuse_shared_memory(self.objective, self.group)

    def finish_epoch(self, after_batch: Callable[[], None] = lambda: None) -> Row:
        """Measure, calling back after each batch, close the epoch, and give its history row."""
        epoch = self.progress.epoch
        row: Row = {"epoch": epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        row |= self.tally.row()
        num_images = float(self.tally.state()["images"])
        with self._arithmetic():
            for name in self.splits:
                if self.spec.measures(name, epoch):
                    row |= self._measure(name, after_batch)
        row |= self.progress.work.row(num_images, self.device)
        self.progress.next_epoch()
        if self.losses is not None:
            self.losses.finish_epoch()
        self.tally = Tally(self.device, self.group)
        return row

    def _measure(self, name: str, after_batch: Callable[[], None]) -> Row:
        where = ("measure", name, self.progress.epoch)
        shares = measure(
            self.measured_runner,
            self.splits[name],
            self.spec.monitor_of(name),
            generator=lambda index: generator_for(
                self.spec.key.seed, *where, index, device=self._drawing_device
            ),
            device=self.device,
            memory_format=self.memory_format,
            trained_at_once=self.spec.optimization.batch_size,
            group=self.group,
            after_batch=after_batch,
            one_shape=True if self.spec.optimization.compile != "off" else None,
        )
        return {f"{name}_{key}": value for key, value in shares.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress.state(),
            "tally": self.tally.state(),
            "average": None if self.average is None else self.average.state_dict(),
            "losses": None if self.losses is None else self.losses.state(),
            "memories": {name: memory.stored() for name, memory in self.memories.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint of the same spec."""
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Position.from_state(state["progress"])
        self.tally.load(state["tally"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.losses is not None:
            self.losses.load(state["losses"])
        for name, stored in state.get("memories", {}).items():  # earlier versions saved none
            if name in self.memories:  # a training that starts from this one may have others
                self.memories[name].load(stored, self.device)


def _weighted(losses: Tensor, *weights: Tensor | None) -> Tensor:
    """For a mean over the whole batch, whatever the weights add up to."""
    for weight in weights:
        losses = losses if weight is None else losses * weight
    return losses


@dataclass
class Position:
    """Where a training stands; with weights and optimizer, all that a resume needs."""

    epoch: int = 0
    step: int = 0
    work: Work = field(default_factory=Work)  # of the epoch
    passes: dict[str, int] = field(default_factory=lambda: {"forward": 0, "backward": 0})
    chosen: dict[str, Row] = field(default_factory=dict)  # by checkpoint: best, best_on_test
    made_by: list[dict[str, Any]] = field(default_factory=list)  # machines and versions, in order

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
