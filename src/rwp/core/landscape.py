"""How the loss changes along random directions in weight space (the paper's Eq. 8, Figure 2)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rwp.core.geometry import lengths, normal_like
from rwp.core.losses import cross_entropy, full_precision
from rwp.core.modes import evaluation_mode
from rwp.core.weights import all_kernels, borrowed_weights


def filter_normalized_direction(
    model: nn.Module, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """A random direction in which every filter is as long as the model's own.

    Li et al. (2018): per output channel, d / ||d|| * ||w||. Only kernels move, frozen ones too;
    scales, shifts and biases have no entry.

    Args:
        model: whose kernels set the lengths.
        generator: where the direction is drawn from; may live on another device.

    Raises:
        ValueError: the model has no kernel, so its landscape would be flat.
    """
    weights = all_kernels(model)
    if not weights:
        raise ValueError(
            "model: expected kernels (weights of more than one dimension), got none; name one "
            "with layers of its own"
        )
    direction = {}
    for name, weight in weights.items():
        noise = normal_like(weight, generator)
        direction[name] = noise * (lengths(weight.detach()) / lengths(noise))  # of each filter
    return direction


@torch.no_grad()
def weight_loss_landscape(
    model: nn.Module,
    images: Float[Tensor, "count channels height width"],
    labels: Int[Tensor, " count"],
    groups: Int[Tensor, " count"],
    *,
    num_groups: int,
    direction: Mapping[str, Tensor],
    scales: Sequence[float],
    batch_size: int,
) -> Float[Tensor, "scales groups"]:
    """Mean cross-entropy of each group at w + scale * direction.

    In eval mode with running statistics; the model comes back bit for bit.

    Args:
        model: images to logits.
        images: fixed (adversarial) images.
        labels: class indices.
        groups: group of each example, from `rwp.core.lsc.loss_groups`; -1 counts nowhere.
        num_groups: number of groups; an empty one gives NaN.
        direction: by parameter name, see `filter_normalized_direction`.
        scales: the paper's mu; 0 is the model itself.
        batch_size: examples per forward pass.
    """
    named = dict(model.named_parameters())
    weights, steps = [named[name] for name in direction], list(direction.values())
    rows = []
    with evaluation_mode(model), borrowed_weights(weights) as move:
        for scale in scales:
            move([step * scale for step in steps])
            parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
            losses = torch.cat([cross_entropy(full_precision(model(x)), y) for x, y in parts])
            rows.append(_group_means(losses, groups, num_groups))
    return torch.stack(rows)


def _group_means(losses: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    members = torch.nn.functional.one_hot(groups + 1, num_groups + 1)[:, 1:].to(losses.dtype)
    finite = losses.isfinite()
    means = (torch.where(finite, losses, 0.0) @ members) / members.sum(dim=0)
    spoiled = ~finite & (groups >= 0)  # of its own group alone: infinity times zero is NaN
    return means.index_add(0, groups[spoiled], losses[spoiled])
