"""Stop trainings that diverge or collapse, and say so; they give no number to a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from rwp.training.history import Row

# Published SVHN runs sit at the majority rate for three epochs before they start to learn; a run
# that is still there after this many, or this share of its schedule, has collapsed.
PATIENCE_EPOCHS = 10
PATIENCE_SHARE = 0.4
# A network that is right on so many more clean images than the majority class has has learned,
# however few steps it had: that it does not resist yet is a result. Where the other classes are
# few, on half of their images; where classes are many, on twice as many as chance.
LEARNED = 0.1
_LEFT = 0.01  # how far robust accuracy has to be above the majority class's share, likewise

_FINITE = {
    "train_loss": "the training loss",
    "norm_ratio": "the weight perturbation's norm, by that of the weights,",
}


class Stopped(Exception):  # noqa: N818 (a verdict, not an error of the program)
    """The training is stopped, and has no result. `status` is "collapsed" or "diverged"."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def fault_of(loss: float, model: nn.Module) -> str | None:
    """What is not finite, if anything: the mean loss so far, or a weight.

    Looked at within an epoch, which may last an hour, and before anything is saved: a weight may
    be lost before any loss shows it.
    """
    if not math.isfinite(loss):
        return f"the training loss is {loss}"
    tensors = [value for value in model.state_dict().values() if value.is_floating_point()]
    norms = torch._foreach_norm(tensors)
    return None if bool(torch.stack(norms).isfinite().all()) else "a weight is not finite"


def check_epoch(
    history: Sequence[Row],
    *,
    epochs: int,
    majority_share: float,
    measured_share: float | None = None,
) -> None:
    """Look at the history after each epoch.

    `majority_share` is that of the largest class among the training images; `measured_share` that
    among the images whose clean accuracy is measured, where it is another.

    Raises:
        Stopped: the loss is not finite, or the network has not learned to tell the classes apart.
    """
    row = history[-1]
    for name, words in _FINITE.items():
        value = row.get(name, 0.0)
        if not math.isfinite(value):
            raise Stopped("diverged", f"{words} is {value} in {_epoch(row)}")
    patience = max(2, min(PATIENCE_EPOCHS, math.ceil(PATIENCE_SHARE * epochs)))
    recent = history[-patience:]
    robust = max(entry["train_robust_accuracy"] for entry in recent)
    clean, others = _clean(history, patience), 1 - majority_share
    share = max(majority_share, measured_share or 0.0)
    if (
        len(recent) == patience
        and robust <= majority_share + min(_LEFT, others / 10, majority_share / 10)
        and clean <= share + min(LEARNED, (1 - share) / 2, share)
    ):
        raise Stopped(
            "collapsed",
            f"robust accuracy on training data has not left the majority class's share"
            f" ({majority_share:.3f}) for {patience} epochs, up to {_epoch(row)}",
        )


def _clean(history: Sequence[Row], patience: int) -> float:
    """The best recent accuracy on clean held-out images; on those of the test split without any.

    The last one where none was measured lately.
    """
    for split in ("held_out", "test"):
        found = [row.get(f"{split}_clean_accuracy") for row in history]
        lately = [value for value in found[-patience:] if value is not None and value >= 0]
        before = [value for value in found if value is not None and value >= 0]
        if before:
            return max(lately or before[-1:])
    return 0.0


def _epoch(row: Row) -> str:
    return f"epoch {row['epoch']}"
