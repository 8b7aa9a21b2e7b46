"""How many passes through the network a step costs, from its settings alone.

A training's own count, `passes` in its run.json, is of batches; costs are of single images, so
that batch sizes do not matter. A masked weight perturbation stops where no example is left to
perturb on, and attacks leave out images that are wrong anyway, so these are upper bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rwp.data.spec import DatasetSpec
from rwp.evaluation.spec import LandscapeSpec
from rwp.files import read_json
from rwp.training.spec import AttackSpec, TrainSpec

# Images of training and test, and the size of one: known before anything is fetched.
_SOURCES = {
    "cifar10": (50_000, 10_000, "32x32x3"),
    "cifar100": (50_000, 10_000, "32x32x3"),
    "svhn": (73_257, 26_032, "32x32x3"),
}
_DIGITS = 1797  # both splits; the test share is a setting

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

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            self.forward + other.forward,
            self.attack + other.attack,
            self.weights + other.weights,
        )

    def __mul__(self, factor: float) -> Passes:
        return Passes(self.forward * factor, self.attack * factor, self.weights * factor)


@dataclass(frozen=True)
class DataSize:
    """Images of a data set, as training finds them, and the size of one, such as "32x32x3"."""

    num_train: int
    num_test: int
    image: str


def data_size(name: str, definition: DatasetSpec, root: Path) -> DataSize | None:
    """Of a data set: from its passport, or by its source; none for a folder not yet read."""
    passport = root / "data" / name / "passport.json"
    if passport.exists():
        found = read_json(passport)
        counts = {file: entry["count"] for file, entry in found["files"].items()}
        channels, height, width = found["shape"]
        return DataSize(counts["train.pt"], counts["test.pt"], f"{height}x{width}x{channels}")
    if definition.source == "digits":
        num_test = round(_DIGITS * (definition.test_share or 0))
        num_train, image = _DIGITS - num_test, "8x8x1"
    elif definition.source in _SOURCES:
        num_train, num_test, image = _SOURCES[definition.source]
    else:
        return None
    return DataSize(
        num_train - round(num_train * (definition.unlabeled_share or 0)), num_test, image
    )


def training_passes(spec: TrainSpec, *, num_train: int) -> Passes:
    """Of batches, measuring left out: what run.json counts, at most.

    Each step attacks (K1 steps), perturbs the weights (K2 steps, after the warm-up), and takes
    the outer step: one backward pass, and as many forward passes as the loss has parts.
    """
    epochs, perturbation = spec.optimization.epochs, spec.perturbation
    attack_steps = (spec.attack.num_steps or 0) if spec.attack else 0
    outer = _OUTER_PASSES[spec.objective.loss]
    plain = Passes(attack_steps + outer, attack_steps, 1)
    total = plain * epochs
    if perturbation is not None:
        steps = perturbation.num_weight_steps * max(0, epochs - perturbation.warmup_epochs)
        total += Passes(outer * steps, 0, steps)
    return total * steps_per_epoch(spec, num_train=num_train)


def steps_per_epoch(spec: TrainSpec, *, num_train: int) -> int:
    """Batches of an epoch; with unlabeled images its length is a setting."""
    return math.ceil(_epoch_images(spec, num_train) / spec.optimization.batch_size)


def _epoch_images(spec: TrainSpec, num_train: int) -> int:
    if spec.unlabeled is not None:  # whole batches
        size = spec.optimization.batch_size
        return math.ceil(spec.unlabeled.epoch_size / size) * size
    return num_train - round(num_train * spec.held_out_fraction)


def training_cost(spec: TrainSpec, size: DataSize) -> Passes:
    """Of images: the training and what it measures after each epoch."""
    cost = priced(spec, training_passes(spec, num_train=size.num_train), size)
    measured = round(size.num_train * spec.held_out_fraction)
    measured += size.num_test if spec.needs_test else 0
    each = Passes(1) if spec.monitor is None else _attacked(spec.monitor)
    return cost + each * (measured * spec.optimization.epochs)


def counted_cost(spec: TrainSpec, counted: dict[str, int], size: DataSize) -> Passes:
    """Of images: what a finished training's run.json counted of batches, measuring left out."""
    steps = spec.optimization.epochs * steps_per_epoch(spec, num_train=size.num_train)
    attack = steps * ((spec.attack.num_steps or 0) if spec.attack else 0)
    batches = Passes(counted["forward"], attack, counted["backward"] - attack)
    return priced(spec, batches, size)


def priced(spec: TrainSpec, batches: Passes, size: DataSize) -> Passes:
    """Passes of a training's batches as passes of images.

    A backward pass runs back through all forward passes of its loss, and the attack on the
    divergence looks at the clean images once; run.json counts neither.
    """
    steps = steps_per_epoch(spec, num_train=size.num_train)
    loss = spec.objective.loss
    clean = steps * spec.optimization.epochs if loss == "trades" else 0
    weights = batches.weights * _OUTER_PASSES[loss]
    images = _epoch_images(spec, size.num_train) / steps
    return Passes(batches.forward + clean, batches.attack, weights) * images


def record_cost(attack: AttackSpec, *, num_images: int) -> Passes | None:
    """Of images, one attack of an evaluation; none for AutoAttack, which stops image by image."""
    if attack.kind == "autoattack":
        return None
    return (Passes(1) if attack.kind == "natural" else _attacked(attack)) * num_images


def landscape_cost(spec: LandscapeSpec, *, num_train: int) -> Passes:
    """Of images: an attack per checkpoint, and a forward pass per point of each direction."""
    num_images = spec.num_examples or num_train - round(num_train * spec.held_out_fraction)
    points = Passes(spec.num_directions * (spec.num_points + 1))
    return (_attacked(spec.attack) + points) * (num_images * len(spec.epochs))


def _attacked(attack: AttackSpec) -> Passes:
    """One image before, during and after an attack."""
    steps = (attack.num_steps or 1) * attack.num_restarts
    return Passes(steps + 1 + attack.num_restarts, steps)
