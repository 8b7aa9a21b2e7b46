"""Means and spread over seeds, as the tables' columns hold them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

STD = "_std"  # what the column of a deviation adds to that of its mean


def averaged(columns: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
    """Per column its mean over seeds and, where there are several seeds, their deviation (n - 1).

    Both stay empty as long as one seed has no number.
    """
    cells: dict[str, float | None] = {}
    for name, values in columns.items():
        known = [value for value in values if value is not None]
        complete = bool(values) and len(known) == len(values)
        cells[name] = statistics.fmean(known) if complete else None
        if len(values) > 1:
            cells[f"{name}{STD}"] = statistics.stdev(known) if complete else None
    return cells


def average_rows(seeds: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """`averaged` for some columns of the rows of a run's seeds."""
    rows = list(seeds)
    return averaged({name: [row.get(name) for row in rows] for name in names})


def numeric(rows: Sequence[Mapping[str, Any]], labels: Iterable[str]) -> pd.DataFrame:
    """A frame whose number columns are numbers even where all of them are missing."""
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys(frame.columns.difference(list(labels)), float))
