"""Which images make up each batch: a pure function of seed and epoch."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

from rwp.errors import UserError
from rwp.rng import generator_for


def epoch_batches(
    num_labeled: int, *, batch_size: int, seed: int, epoch: int
) -> list[Int[Tensor, " batch"]]:
    """One epoch's batches of image indices: every image once, the short last batch kept."""
    _require_positive(num_labeled=num_labeled, batch_size=batch_size)
    generator = generator_for(seed, "batches", epoch)
    return list(torch.randperm(num_labeled, generator=generator).split(batch_size))


def mixed_batches(
    num_labeled: int,
    num_unlabeled: int,
    *,
    batch_size: int,
    unlabeled_fraction: float,
    epoch_size: int,
    seed: int,
    epoch: int,
) -> list[tuple[Int[Tensor, " labeled"], Int[Tensor, " unlabeled"]]]:
    """Batches for robust self-training: a fixed share of each is pseudo-labeled.

    An epoch is `epoch_size` images in whole batches. Labeled indices follow a fresh
    permutation each epoch (and another one when it is used up); pseudo-labeled ones are
    drawn with replacement (Carmon et al., 2019).

    Raises:
        UserError: a count is not positive, or the fraction leaves one kind out.
    """
    _require_positive(num_labeled=num_labeled, batch_size=batch_size, epoch_size=epoch_size)
    _require_positive(num_unlabeled=num_unlabeled)
    unlabeled_per_batch = round(batch_size * unlabeled_fraction)
    labeled_per_batch = batch_size - unlabeled_per_batch
    if not 0 < unlabeled_fraction < 1 or min(unlabeled_per_batch, labeled_per_batch) == 0:
        raise UserError(
            "unlabeled_fraction: expected a share in (0, 1) that gives a batch of "
            f"{batch_size} both kinds, got {unlabeled_fraction}; change it"
        )
    num_batches = math.ceil(epoch_size / batch_size)
    generator = generator_for(seed, "mixed_batches", epoch)
    needed = num_batches * labeled_per_batch
    passes = math.ceil(needed / num_labeled)
    order = [torch.randperm(num_labeled, generator=generator) for _ in range(passes)]
    labeled = torch.cat(order)[:needed].split(labeled_per_batch)
    drawn = torch.randint(
        num_unlabeled, (num_batches, unlabeled_per_batch), generator=generator
    ).unbind()
    return list(zip(labeled, drawn, strict=True))


def _require_positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name}: expected at least 1, got {count}; check the data set")
