"""How training images move between loss groups: from losses.npz, which images are learned when.

Groups are ranges of an image's adversarial loss, half open, and one for what lies above. An image
counts as memorized in an epoch in which its loss lies in the lowest group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rwp.errors import UserError
from rwp.reporting.labels import value_label

Arrays = dict[str, "np.ndarray[Any, Any]"]
# Of each array its dimensions and its kind of numbers: (epochs, images) or (images,).
_KINDS = {
    "clean_loss": (2, "f"),
    "adversarial_loss": (2, "f"),
    "clean_correct": (2, "b"),
    "adversarial_correct": (2, "b"),
    "image": (1, "i"),
    "label": (1, "i"),
}


def losses_of(run: Path) -> Arrays:
    """The arrays of a run's losses.npz.

    Raises:
        UserError: the run keeps none, or the file is damaged.
    """
    path = run / "losses.npz"
    if not path.is_file():
        raise UserError(
            f"{path}: expected every image's losses, found no file; write keep_losses: true in the"
            " suite and train the run"
        )
    from rwp.training.image_losses import read_losses

    try:
        arrays = read_losses(path)
        count = len(arrays["adversarial_loss"])
        kinds = {name: (one.ndim, one.dtype.kind) for name, one in arrays.items()}
        fitting = kinds == _KINDS or not count  # without an epoch there is nothing to be right
        whole = fitting and len({one.shape[-1] for one in arrays.values()}) == 1
    except Exception as error:  # a damaged archive may raise anything
        raise UserError(
            f"{path}: expected the losses of a training, got a damaged file; train the run again"
        ) from error
    epochs = {len(one) for one in arrays.values() if one.ndim == 2}
    history = run / "history.jsonl"
    if history.exists():
        epochs.add(len(history.read_text(encoding="utf-8").splitlines()))
    if not whole or len(epochs) != 1:
        raise UserError(
            f"{path}: expected the losses of every image in every epoch of the training, got"
            " others; train the run again"
        )
    return arrays


def group_names(edges: Sequence[float]) -> list[str]:
    """The ranges between the edges, and what lies above: 0-0.5, 0.5-1, 1+."""
    texts = [value_label(edge) for edge in edges]
    ranges = [f"{low}-{high}" for low, high in pairwise(texts)]
    return [*ranges, f"{texts[-1]}+"]


def groups_of(losses: np.ndarray[Any, Any], edges: Sequence[float]) -> np.ndarray[Any, Any]:
    """The number of each loss's group, -1 where none was seen.

    Raises:
        UserError: edges that do not rise from 0: images below all of them would be in no group, and
            the shares would be of the others alone.
    """
    rising = list(edges) == sorted(set(edges)) and all(map(math.isfinite, edges))
    if len(edges) < 1 or not rising or edges[0] != 0:
        raise UserError(
            f"edges: expected losses in nats that rise from 0, got {list(edges)}; order them, "
            "begin at 0 and end at a number"
        )
    numbers = np.searchsorted(np.asarray(edges), losses.astype(np.float64), side="right") - 1
    return np.where(np.isnan(losses), -1, numbers)


def _check_epoch(name: str, epoch: int, count: int) -> None:
    if not 0 <= epoch < count:
        raise UserError(
            f"{name}: expected an epoch from 0 to {count - 1}, which the training has, got {epoch};"
            " name another"
        )


def movement_table(
    arrays: Arrays, *, edges: Sequence[float], before: int, after: int
) -> pd.DataFrame:
    """Where the images of each loss group are some epochs later, one row per group.

    Columns: group, images, the percentage of them in each group afterwards, the percentage that
    resists the attack before and after, and the median epoch in which they first were in the
    lowest group (empty where most of them never were).

    Raises:
        UserError: the training has no such epoch; edges that do not rise.
    """
    losses, names = arrays["adversarial_loss"], group_names(edges)
    _check_epoch("before", before, len(losses))
    _check_epoch("after", after, len(losses))
    first, then = (groups_of(losses[epoch], edges) for epoch in (before, after))
    lowest = groups_of(losses, edges) == 0
    learned = np.where(lowest.any(axis=0), lowest.argmax(axis=0), np.inf)
    rows = []
    for number, name in enumerate(names):
        members = (first == number) & (then >= 0)
        count = int(members.sum())
        row: dict[str, Any] = {"group": name, "images": count}
        for other, column in enumerate(names):
            row[column] = 100 * float((then[members] == other).mean()) if count else np.nan
        for word, epoch in (("before", before), ("after", after)):
            right = arrays["adversarial_correct"][epoch][members]
            row[f"robust_{word}"] = 100 * float(right.mean()) if count else np.nan
        middle = float(np.median(learned[members])) if count else np.inf
        row["learned_in_epoch"] = middle if np.isfinite(middle) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def movement_frame(arrays: Arrays, *, edges: Sequence[float], epoch: int) -> pd.DataFrame:
    """Of the images of each loss group at an epoch: group, epoch, images, share in the lowest.

    The share is a percentage, in every epoch of the training.
    """
    losses = arrays["adversarial_loss"]
    _check_epoch("epoch", epoch, len(losses))
    every = groups_of(losses, edges)
    rows = []
    for number, name in enumerate(group_names(edges)):
        members = every[epoch] == number
        for now, groups in enumerate(every):
            seen = members & (groups >= 0)
            if seen.any():
                share = 100 * float((groups[seen] == 0).mean())
                images = int(seen.sum())
                rows.append({"group": name, "epoch": now, "images": images, "share": share})
    return pd.DataFrame(rows, columns=["group", "epoch", "images", "share"])
