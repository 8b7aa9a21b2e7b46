"""Stratified splits that depend on nothing but the labels and a seed."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from rwp.data.parts import draw_per_class
from rwp.errors import UserError
from rwp.rng import generator_for

HELD_OUT_SEED = 0  # one split for all recipes and seeds of a data set
# One fixed seed for the splits that belong to the data itself (the digits' test images, the
# unlabeled share): runs with different seeds must still see the same data set.
SPLIT_SEED = 0


def held_out_split(
    labels: Int[Tensor, " n"], *, fraction: float, seed: int
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " taken"]]:
    """Split training images into those to train on and those to choose the checkpoint on.

    Returns:
        Two sorted index tensors. Each class gives its share, rounded so that the total is
        `round(fraction * n)`.

    Raises:
        UserError: the fraction is not in (0, 1), a label is negative, or a class would be
            left empty on the training side.
    """
    return stratified_split(labels, fraction, seed, "held_out")


def training_split(
    labels: Int[Tensor, " n"],
    *,
    held_out_fraction: float,
    per_class: int | None,
    seed: int,
    where: str,
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " taken"]]:
    """What one run trains on, and what its checkpoint is chosen on; both sorted.

    What is held out is the same for all seeds. With `per_class` the training images are drawn
    from the rest by the seed of the run, alike for all recipes, so that recipes can be compared
    seed by seed; nobody sees what is left over.

    Args:
        labels: of all training images.
        held_out_fraction: of them; 0: none.
        per_class: images of each class to train on; none: all that are not held out.
        seed: of the run.
        where: names the data set in messages.

    Raises:
        UserError: a class has fewer images than `per_class`, or none left to train on.
    """
    kept, taken = torch.arange(len(labels)), torch.arange(0)
    if held_out_fraction:
        kept, taken = held_out_split(labels, fraction=held_out_fraction, seed=HELD_OUT_SEED)
    if per_class is not None:
        kept = kept[draw_per_class(labels[kept], per_class, seed=seed, where=where)]
    return kept, taken


def stratified_split(
    labels: Int[Tensor, " n"], fraction: float, seed: int, purpose: str
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " taken"]]:
    """`held_out_split` for any `purpose`; different purposes draw independently."""
    if not 0 < fraction < 1:
        raise UserError(f"{purpose} share: expected a number in (0, 1), got {fraction}; change it")
    if len(labels) == 0 or int(labels.min()) < 0:
        raise UserError(f"{purpose} share: expected labeled images, got some without a label")
    labels = labels.cpu()
    counts = torch.bincount(labels).tolist()
    drawing = generator_for(seed, "split", purpose, "ties")
    quotas = _quotas(counts, fraction, torch.rand(len(counts), generator=drawing).tolist())
    taken = []
    for index, (count, quota) in enumerate(zip(counts, quotas, strict=True)):
        if count and quota == count:
            raise UserError(
                f"{purpose} share: expected class {index} to keep an image, got all {count} "
                f"taken at {fraction}; lower the share or add images"
            )
        members = (labels == index).nonzero().flatten()
        order = torch.randperm(count, generator=generator_for(seed, "split", purpose, index))
        taken.append(members[order[:quota]])
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[torch.cat(taken)] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def _quotas(counts: list[int], fraction: float, draw: list[float]) -> list[int]:
    """How many to take of each class: floors first, then the largest remainders.

    Of classes that are due less than one image and tie, `draw` decides, or the first ones of the
    alphabet would be all that is taken. None is taken whole while another can give.
    """
    exact = [count * fraction for count in counts]
    quotas = [int(share) for share in exact]
    missing = round(sum(exact)) - sum(quotas)

    def order(index: int) -> tuple[bool, float, float, int]:
        emptied = quotas[index] + 1 >= counts[index]
        tie = draw[index] if exact[index] < 1 else 0.0
        return emptied, quotas[index] - exact[index], tie, index

    for index in sorted(range(len(counts)), key=order)[:missing]:
        quotas[index] += 1
    return quotas
