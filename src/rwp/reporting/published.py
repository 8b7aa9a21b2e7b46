"""The published numbers that ship with the package; published/README.md tells their origin."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from rwp.reporting.cells import PAPER_COLUMNS

_FOLDER = Path(__file__).parent / "published"

AWP_LOGS = "csdongxian/AWP"


Row = dict[str, Any]


@cache
def published_table1() -> dict[tuple[str, ...], Row]:
    """(threat_model, method, dataset) -> best, last (percent), log, origin, note."""
    rows = _read("table1.csv", ("best", "last"))
    return {(row["threat_model"], row["method"], row["dataset"]): row for row in rows}


@cache
def published_table2() -> dict[str, Row]:
    """Defense -> its accuracy under each attack (percent), origin, note."""
    rows = _read("table2.csv", tuple(PAPER_COLUMNS.values()))
    return {row["defense"]: row for row in rows}


def _read(name: str, numbers: tuple[str, ...]) -> list[Row]:
    with (_FOLDER / name).open(encoding="utf-8", newline="") as stream:
        return [
            {column: float(text) if column in numbers else text for column, text in row.items()}
            for row in csv.DictReader(stream)
        ]


@cache
def published_curves() -> pd.DataFrame:
    """The published training logs, as fractions: source, setting, epoch (from 0), accuracies."""
    return pd.read_csv(_FOLDER / "curves.csv.gz")


def published_curve(setting: str, source: str = AWP_LOGS) -> pd.DataFrame:
    """One published log, indexed by epoch; empty where there is none of that name."""
    curves = published_curves()
    chosen = curves[(curves["source"] == source) & (curves["setting"] == setting)]
    return chosen.set_index("epoch")
