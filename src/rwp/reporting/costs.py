"""What steps cost: passes through the network, from the settings alone.

A training's own count, `passes` in its run.json, is of batches; costs are of single images, so
that batch sizes do not matter. A masked weight perturbation stops where no example is left to
perturb on, and attacks leave out images that are wrong anyway, so these are upper bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rwp.data.spec import DataSize, images_trained_on
from rwp.evaluation.spec import LandscapeSpec
from rwp.training.spec import (
    AttackSpec,
    TrainSpec,
    check_held_out,
)

BYTES_PER_LOOK = 6  # per image and epoch: two losses of 16 bits, two answers of a byte

# Forward passes of one outer loss: TRADES and MART look at the clean images, too.
_OUTER_PASSES = {"natural": 1, "at": 1, "trades": 2, "mart": 2}


@dataclass(frozen=True)
class Passes:
    """Forward passes, backward passes to the images alone (attacks), and all other ones."""

    forward: float = 0
    attack: float = 0
    weights: float = 0

    @property
    def backward(self) -> float:
        """Backward passes of both kinds, as run.json counts them."""
        return self.attack + self.weights

    @property
    def units(self) -> float:
        """In forward passes, a gradient of the weights being two more and one of images one."""
        return self.forward + self.attack + 2 * self.weights

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            self.forward + other.forward,
            self.attack + other.attack,
            self.weights + other.weights,
        )

    def __mul__(self, factor: float) -> Passes:
        return Passes(self.forward * factor, self.attack * factor, self.weights * factor)


def training_passes(spec: TrainSpec, *, num_train: int, num_drawn: int | None = None) -> Passes:
    """Of batches, measuring left out: what run.json counts, at most.

    Each step attacks (K1 steps), perturbs the weights (K2 steps, after the warm-up), and takes
    the outer step: one backward pass, and as many forward passes as the loss has parts.
    """
    epochs, perturbation = spec.optimization.epochs, spec.perturbation
    attack_steps = (spec.attack.num_steps or 0) if spec.attack else 0
    outer = _OUTER_PASSES.get(spec.objective.loss, 1)  # of one's own: at least
    plain = Passes(attack_steps + outer, attack_steps, 1)
    total = plain * (epochs - spec.first_epoch)
    if perturbation is not None:
        first = max(perturbation.warmup_epochs, spec.first_epoch)
        steps = perturbation.num_weight_steps * max(0, epochs - first)
        total += Passes(outer * steps, 0, steps)
    return total * steps_per_epoch(spec, num_train=num_train, num_drawn=num_drawn)


def steps_per_epoch(spec: TrainSpec, *, num_train: int, num_drawn: int | None = None) -> int:
    """Batches of an epoch; with unlabeled images its length is a setting."""
    return math.ceil(epoch_images(spec, num_train, num_drawn) / spec.optimization.batch_size)


def epoch_images(spec: TrainSpec, num_train: int, num_drawn: int | None = None) -> int:
    """Images that an epoch trains on."""
    if spec.unlabeled is not None:  # whole batches
        size = spec.optimization.batch_size
        return math.ceil(spec.unlabeled.epoch_size / size) * size
    return images_trained_on(num_train, num_drawn, spec.held_out_fraction)


def training_cost(spec: TrainSpec, size: DataSize) -> Passes:
    """Of images: the training and what it measures after each epoch.

    Raises:
        UserError: as `check_held_out`.
    """
    check_held_out(spec, size.num_train)
    passes = training_passes(spec, num_train=size.num_train, num_drawn=size.num_drawn)
    cost = priced(spec, passes, size)
    counts = {"held_out": round(size.num_train * spec.held_out_fraction)}
    counts["test"] = (spec.curve_examples or size.num_test) if spec.needs_test else 0
    last = spec.optimization.epochs
    for split, count in counts.items():
        monitor = spec.monitor_of(split)
        each = Passes(1) if monitor is None else _attacked(monitor)
        times = sum(spec.measures(split, epoch) for epoch in range(spec.first_epoch, last))
        cost += each * (count * times)
    images = epoch_images(spec, size.num_train, size.num_drawn)
    looks = 2 * images * (last - spec.first_epoch) if spec.keep_losses else 0
    return cost + Passes(looks)


def losses_bytes(spec: TrainSpec, size: DataSize) -> int:
    """Of a run's losses.npz before it is compressed; 0 where it keeps none."""
    images = images_trained_on(size.num_train, size.num_drawn, spec.held_out_fraction)
    return images * spec.optimization.epochs * BYTES_PER_LOOK if spec.keep_losses else 0


def counted_cost(spec: TrainSpec, counted: dict[str, int], size: DataSize) -> Passes:
    """Of images: what a finished training's run.json counted of batches, measuring left out."""
    each = steps_per_epoch(spec, num_train=size.num_train, num_drawn=size.num_drawn)
    steps = spec.optimization.epochs * each
    attack = steps * ((spec.attack.num_steps or 0) if spec.attack else 0)
    batches = Passes(counted["forward"], attack, counted["backward"] - attack)
    return priced(spec, batches, size, since=0)  # run.json counts the epochs of a parent, too


def priced(spec: TrainSpec, batches: Passes, size: DataSize, *, since: int | None = None) -> Passes:
    """Passes of a training's batches as passes of images; `since` an epoch, or its own first.

    A backward pass runs back through all forward passes of its loss, and the attack on the
    divergence looks at the clean images once; run.json counts neither.
    """
    steps = steps_per_epoch(spec, num_train=size.num_train, num_drawn=size.num_drawn)
    loss = spec.objective.loss
    epochs = spec.optimization.epochs - (spec.first_epoch if since is None else since)
    clean = steps * epochs if loss == "trades" else 0
    weights = batches.weights * _OUTER_PASSES.get(loss, 1)
    images = epoch_images(spec, size.num_train, size.num_drawn) / steps
    return Passes(batches.forward + clean, batches.attack, weights) * images


def record_cost(attack: AttackSpec, *, num_images: int) -> Passes | None:
    """Of images, one attack of an evaluation; none for AutoAttack, which stops image by image."""
    if attack.kind == "autoattack":
        return None
    return (Passes(1) if attack.kind == "natural" else _attacked(attack)) * num_images


def landscape_cost(spec: LandscapeSpec, size: DataSize) -> Passes:
    """Of images: an attack per checkpoint, and a forward pass per point of each direction."""
    trained_on = images_trained_on(size.num_train, size.num_drawn, spec.held_out_fraction)
    num_images = min(spec.num_examples or trained_on, trained_on)
    points = Passes(spec.num_directions * (spec.num_points + 1))
    if spec.test_images:  # as many, where there are
        num_images += min(num_images, size.num_test)
    return (_attacked(spec.attack) + points) * (num_images * len(spec.epochs) * len(spec.keys))


def _attacked(attack: AttackSpec) -> Passes:
    """One image before, during and after an attack."""
    known = attack.options.get("num_steps")  # of an attack of one's own, if it is called so
    steps = (attack.num_steps or (known if isinstance(known, int) else 1)) * attack.num_restarts
    return Passes(steps + 1 + attack.num_restarts, steps)
