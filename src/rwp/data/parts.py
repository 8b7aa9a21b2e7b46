"""A part of a data set: stratified by class, or the first images in the published order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.rng import generator_for


@dataclass(frozen=True, eq=False)
class Part:
    """Which images of a data set were taken, and by what rule.

    `index` is sorted: a part keeps the order of its data set.
    """

    rule: Literal["all", "stratified", "first"]
    seed: int | None  # of the stratified draw
    of: int  # images of the whole set
    index: Int[Tensor, " n"]

    def identity(self) -> dict[str, Any]:
        """Rule, seed, size, size of the whole set, and a hash of the images' places in it."""
        digest = hashlib.sha256(self.index.numpy().astype("<i8").tobytes()).hexdigest()
        size = len(self.index)
        return {"rule": self.rule, "seed": self.seed, "size": size, "of": self.of, "sha256": digest}

    def flags(self) -> NDArray[np.bool_]:
        """For each image of the whole set: whether it is in the part."""
        taken = np.zeros(self.of, dtype=np.bool_)
        taken[self.index.numpy()] = True
        return taken


def take_part(
    images: ImageSet,
    *,
    num_examples: int | None = None,
    first_examples: int | None = None,
    seed: int,
    source: object,
) -> tuple[ImageSet, Part]:
    """A part of `images`, named in messages by its `source`; all of them unless a size is given.

    `num_examples` are drawn class by class, in proportion, by `seed` alone; a smaller part lies
    in every larger one. `first_examples` are the first in the published order, as leaderboards
    take them.

    Raises:
        UserError: there are fewer images, or a class would be missing.
    """
    of, present = len(images), _present(images.labels)
    size = first_examples or num_examples
    name = "first_examples" if first_examples else "num_examples"
    if size is None:
        return images, Part("all", None, of, torch.arange(of))
    if size > of:
        raise UserError(f"{source}: expected at least {size} images, got {of}; lower {name}")
    if first_examples is not None:
        index = torch.arange(size)
        missing = sorted(present - _present(images.labels[index]))
        if missing:
            raise UserError(
                f"{source}: expected every class among first_examples: {size}, got none of class "
                f"{missing[0]}; the order is by class: use num_examples, which draws from each"
            )
        return images.select(index), Part("first", None, of, index)
    if size < len(present):
        raise UserError(
            f"{source}: expected at least one image of each of {len(present)} classes, got "
            f"num_examples: {size}; raise it"
        )
    index = stratified_order(images.labels, seed)[:size].sort().values
    return images.select(index), Part("stratified", seed, of, index)


def require_per_class(labels: Int[Tensor, " n"], per_class: int, *, where: str) -> None:
    """Make sure that each class has so many images; `where` names the setting.

    Raises:
        UserError: one has fewer.
    """
    counts = torch.bincount(labels)
    fewest = int(counts.argmin())
    if int(counts[fewest]) < per_class:
        raise UserError(
            f"{where}: expected at most {int(counts[fewest])}, as many training images as class "
            f"{fewest} has to draw from, got {per_class}; lower it"
        )


def draw_per_class(
    labels: Int[Tensor, " n"], per_class: int, *, seed: int, where: str
) -> Int[Tensor, " drawn"]:
    """The sorted places of so many images of each class, drawn by `seed` alone.

    Raises:
        UserError: a class has fewer.
    """
    require_per_class(labels, per_class, where=where)
    drawn = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator_for(seed, "per_class", label))
        drawn.append(members[order[:per_class]])
    return torch.cat(drawn).sort().values


def stratified_order(labels: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """All images in an order of which every beginning has each class in proportion.

    It opens with one image of each class; which class is next is decided as Sainte-Lague divides
    seats, which image of it by `seed`.
    """
    labels = labels.cpu()
    turns = torch.empty(len(labels), dtype=torch.float64)
    rounds = torch.ones(len(labels), dtype=torch.int64)
    order = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        drawn = torch.randperm(len(members), generator=generator_for(seed, "part", label))
        turns[members[drawn]] = (torch.arange(len(members)).double() + 0.5) / len(members)
        rounds[members[drawn[0]]] = 0
        order[members[drawn]] = label
    # equal turns go to the lower class
    keys = (order.numpy(), turns.numpy(), rounds.numpy())
    return torch.from_numpy(np.lexsort(keys))


def _present(labels: Int[Tensor, " n"]) -> set[int]:
    return set(labels.unique().tolist())
