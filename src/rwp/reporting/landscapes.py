"""Landscapes as they were measured, and the excess of training over test images."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rwp.errors import UserError

EXCESS = "excess"
_PLACE = ["seed", "epoch", "group", "offset"]


def excess_of(measured: pd.DataFrame) -> pd.DataFrame:
    """How much more the loss of training images rises than that of test images of the same group.

    A group that is picked for its low loss at w rises under any noise; what training images rise
    beyond test images is what was memorized. Columns: seed, epoch, group, offset, excess
    (nats); no rows where no test images were measured.
    """
    changes = {
        split: measured[measured["split"] == split].set_index(_PLACE)["change"]
        for split in ("train", "test")
    }
    return (changes["train"] - changes["test"]).dropna().rename(EXCESS).reset_index()


def mean_excess(path: Path, *, epoch: int, group: str) -> dict[int, float]:
    """Seed -> mean excess (nats) of a group after some epochs, over the inner half of the offsets.

    A seed that lacks one of the offsets is left out: its mean would be of others.

    Raises:
        UserError: the file is no such table.
    """
    try:
        measured = pd.read_csv(path)
    except ValueError:  # pandas' own errors, too
        measured = pd.DataFrame()
    lacking = [name for name in (*_PLACE, "split", "change") if name not in measured]
    if lacking:
        raise UserError(
            f"{path}: expected losses by seed and split, got none of {', '.join(lacking)}; measure "
            "the landscape again"
        )
    excess = excess_of(measured)
    reach = measured["offset"].abs().max() / 2
    inner = excess["offset"].abs().between(0, reach + 1e-9) & (excess["offset"] != 0)
    chosen = excess[inner & (excess["epoch"] == epoch) & (excess["group"] == group)]
    num_offsets = excess[inner]["offset"].nunique()
    return {
        int(str(seed)): float(values.mean())
        for seed, values in chosen.groupby("seed")[EXCESS]
        if len(values) == num_offsets
    }
