"""Landscapes as they were measured, and the excess of training over test images."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from rwp.errors import UserError
from rwp.evaluation.spec import LandscapeSpec

EXCESS = "excess"
FEWEST_POINTS = 4  # at equal distances, that some are within half of the radius beside the middle
_PLACE = ["seed", "epoch", "group", "offset"]
_WHERE = ["seed", "split", "epoch", "group", "offset"]
_NUMBERS = ["loss", "change", "num_examples"]


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


def mean_excess(measured: pd.DataFrame, *, epoch: int, group: str) -> dict[int, float]:
    """Seed -> mean excess (nats) of a group after some epochs, over the inner half of the offsets.

    A seed without images of the group in both splits is left out.
    """
    excess = excess_of(measured)
    reach = measured["offset"].abs().max() / 2
    inner = excess["offset"].abs().between(0, reach + 1e-9) & (excess["offset"] != 0)
    chosen = excess[inner & (excess["epoch"] == epoch) & (excess["group"] == group)]
    return {int(str(seed)): float(values.mean()) for seed, values in chosen.groupby("seed")[EXCESS]}


def read_landscape(path: Path, spec: LandscapeSpec) -> pd.DataFrame:
    """A landscape as it was measured, and whole: of each seed and epoch, at each offset once.

    Raises:
        UserError: it is no such table, or of other seeds, splits, epochs or offsets than `spec`.
    """
    try:
        measured = pd.read_csv(path)
    except ValueError:  # pandas' own errors, too
        measured = pd.DataFrame()
    if fault := _fault(measured, spec):
        raise UserError(
            f"{path}: expected losses of each seed, split and epoch at each offset once, got "
            f"{fault}; measure the landscape again"
        )
    return measured


def _fault(measured: pd.DataFrame, spec: LandscapeSpec) -> str:
    lacking = [name for name in (*_WHERE, *_NUMBERS) if name not in measured]
    if lacking:
        return f"no column {', '.join(lacking)}"
    for name in (*_NUMBERS, "seed", "epoch", "offset"):  # far out, losses may be infinite
        if not is_numeric_dtype(measured[name]) or measured[name].isna().any():
            return f"something else than numbers under {name}"
    if measured.duplicated(_WHERE).any():
        return "some of them twice"
    splits = ("train", "test") if spec.test_images else ("train",)
    seeds = [key.seed for key in spec.keys]
    found = set(measured[_WHERE[:3]].itertuples(index=False, name=None))
    for seed, split, epoch in sorted(found - set(product(seeds, splits, spec.epochs))):
        return f"more, of the {split} images of seed {seed} after epoch {epoch}"
    # at some epoch no image may be in any group
    for seed, split in sorted(set(product(seeds, splits)) - {where[:2] for where in found}):
        return f"none of the {split} images of seed {seed}"
    offsets = np.linspace(-spec.radius, spec.radius, spec.num_points)
    near = 1e-6 + 1e-5 * spec.radius  # they are written with six decimals
    for where, rows in measured.groupby(_WHERE[:4]):
        own = np.sort(rows["offset"].to_numpy())
        if len(own) != len(offsets) or not np.allclose(own, offsets, atol=near):
            seed, split, epoch, group = map(str, where)
            return f"{len(own)} others of {group} nats, {split}, seed {seed}, after epoch {epoch}"
    return ""
