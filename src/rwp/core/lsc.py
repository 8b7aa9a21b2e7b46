"""Loss Stationary Condition (LSC): examples sorted by range of their loss (the paper's Eq. 7)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor


def loss_groups(losses: Float[Tensor, " batch"], edges: Sequence[float]) -> Int[Tensor, " batch"]:
    """The group of each example: i where edges[i] <= loss < edges[i + 1], -1 outside all.

    Half-open, where the paper closes both ends, so that no example counts twice.

    Args:
        losses: per example, in nats.
        edges: increasing, in nats; n + 1 edges make n groups.

    Raises:
        ValueError: fewer than two edges, or not increasing.
    """
    if len(edges) < 2 or any(low >= high for low, high in pairwise(edges)):
        raise ValueError(
            f"edges: expected at least two increasing losses, got {list(edges)}; sort them"
        )
    boundaries = torch.tensor(list(edges), dtype=losses.dtype, device=losses.device)
    groups = torch.bucketize(losses, boundaries, right=True) - 1
    # NaN sorts above every edge, so it is outside as well.
    return torch.where(groups < len(edges) - 1, groups, -1)


def keep_high_loss(losses: Float[Tensor, " batch"], *, threshold: float) -> Float[Tensor, " batch"]:
    """Weight 1 for examples of at least `threshold`, 0 for those below (the paper's appendix).

    Multiply the losses by it and take the mean over the whole batch: those removed count in
    the divisor.
    """
    return (losses >= threshold).to(losses.dtype)
