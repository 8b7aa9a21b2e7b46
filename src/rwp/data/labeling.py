"""Labels that a teacher gives to unlabeled images, and which of them to keep."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from rwp.core.modes import evaluation_mode
from rwp.errors import UserError


@torch.no_grad()
def pseudo_label(
    model: nn.Module,
    images: UInt8[Tensor, "n c h w"],
    *,
    batch_size: int,
    device: torch.device | str,
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The model's most probable class of each image and its softmax probability, on the CPU.

    The model is in eval mode inside and left as found; the same model and batch size give the
    same bits on the same machine.

    Raises:
        UserError: a probability is not a number.
    """
    labels, confidences = [], []
    # cuDNN chooses among algorithms by their speed unless told not to
    exact = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    with evaluation_mode(model), exact:
        for batch in images.split(batch_size):
            logits = model(batch.to(device).float() / 255)
            confidence, label = logits.float().softmax(dim=1).max(dim=1)
            labels.append(label.cpu())
            confidences.append(confidence.cpu())
    if not torch.cat(confidences).isfinite().all():
        raise UserError("teacher: expected finite logits, got NaN; train the teacher again")
    return torch.cat(labels), torch.cat(confidences)


def select_pseudo_labels(
    labels: Int[Tensor, " n"],
    confidences: Float[Tensor, " n"],
    *,
    min_confidence: float | None,
    per_class: int | None,
    num_classes: int,
) -> Int[Tensor, " kept"]:
    """The sorted indices of the pseudo-labels to train on; None switches a rule off.

    First those below `min_confidence` go; then each class keeps its `per_class` most confident
    ones (the earlier image where two tie), so that the classes are equally large.

    Raises:
        UserError: nothing is left, or a class has fewer than `per_class`.
    """
    kept = torch.arange(len(labels))
    if min_confidence is not None:
        kept = (confidences >= min_confidence).nonzero().flatten()
    if per_class is not None:
        kept = torch.cat(
            [
                _most_confident(kept[labels[kept] == index], confidences, per_class, index)
                for index in range(num_classes)
            ]
        )
    if len(kept) == 0:
        raise UserError(
            f"min_confidence: expected some pseudo-labels at or above {min_confidence}, got none; "
            "lower it"
        )
    return kept.sort().values


def _most_confident(
    members: Int[Tensor, " k"], confidences: Float[Tensor, " n"], count: int, index: int
) -> Int[Tensor, " count"]:
    if len(members) < count:
        raise UserError(
            f"per_class: expected at least {count} pseudo-labels of every class, "
            f"got {len(members)} of class {index}; lower it"
        )
    order = confidences[members].argsort(descending=True, stable=True)
    return members[order[:count]]


class Agreement(NamedTuple):
    """How many of the images with a shipped label got the same from the teacher."""

    compared: int
    agreeing: int


def agreement(labels: Int[Tensor, " n"], shipped: Int[Tensor, " n"]) -> Agreement:
    """Compare pseudo-labels with the source's own labels, where it has them (0 or more)."""
    known = shipped >= 0
    return Agreement(int(known.sum()), int((labels == shipped)[known].sum()))
