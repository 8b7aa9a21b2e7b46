"""The paper's tables, and ours beside them: difference and verdict, cell by cell."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

import pandas as pd

from rwp.data.official import OFFICIAL
from rwp.evaluation.spec import PAPER_COLUMNS
from rwp.reporting.paper_settings import difference_in_table1, difference_in_table2
from rwp.reporting.published_curves import PUBLISHED, published_curve
from rwp.reporting.results import Results, Row, records_by
from rwp.reporting.runs import LAST_EPOCHS, OK
from rwp.reporting.tables import Table

# What the paper calls best is chosen on the test split; its last, wherever it can be traced, is
# the mean of the final epochs.
PAPER_MEASURES = {"best": "best_on_test", "last": "last_epochs_mean"}

# What names a row of Table 1.
PLACE = ("threat_model", "method", "dataset")

WITHIN, ABOVE, BELOW = "within", "above", "below"
NOT_COMPARABLE, MISSING = "not comparable", "missing"


@cache
def published_table1() -> dict[tuple[str, ...], Row]:
    """(threat_model, method, dataset) -> best, last (percent), log, origin, note.

    `logged` has best and last as the log says them that a row was taken from; empty without one.
    """
    rows = _read("table1.csv", ("best", "last"))
    return {tuple(row[name] for name in PLACE): row | {"logged": _logged(row)} for row in rows}


def _logged(row: Row) -> dict[str, float]:
    if not row["log"]:
        return {}
    curve = 100 * published_curve(row["log"])["test_robust_accuracy"]
    return {"best": float(curve.max()), "last": float(curve.tail(LAST_EPOCHS).mean())}


@cache
def published_table2() -> dict[str, Row]:
    """Defense -> its accuracy under each attack (percent), origin, note."""
    rows = _read("table2.csv", tuple(PAPER_COLUMNS.values()))
    return {row["defense"]: row for row in rows}


def _read(name: str, numbers: tuple[str, ...]) -> list[Row]:
    with (PUBLISHED / name).open(encoding="utf-8", newline="") as stream:
        return [
            {column: float(text) if column in numbers else text for column, text in row.items()}
            for row in csv.DictReader(stream)
        ]


@dataclass(frozen=True)
class Agreement:
    """Ours against the paper's, in percentage points; `band` is what chance allows.

    `verdict` is within, above, below or not comparable; or the status of the seed that has no
    number: missing, stale, inconsistent, collapsed, diverged.
    """

    verdict: str
    ours: float | None = None
    difference: float | None = None
    band: float | None = None
    reason: str = ""


def agreement(ours: Sequence[float], paper: float, *, num_examples: int) -> Agreement:
    """Compare the mean over seeds with a published figure (both in percent).

    Chance allows the larger of two standard deviations over seeds (known from two seeds on) and
    the binomial standard error of one evaluation on `num_examples` images.
    """
    mean = statistics.fmean(ours)
    share = mean / 100
    binomial = 100 * math.sqrt(share * (1 - share) / num_examples)
    band = max(2 * statistics.stdev(ours) if len(ours) > 1 else 0.0, binomial)
    difference = mean - paper
    # Published figures carry two decimals, so the comparison is made on two decimals.
    if round(abs(difference), 2) <= round(band, 2):
        return Agreement(WITHIN, mean, difference, band)
    return Agreement(ABOVE if difference > 0 else BELOW, mean, difference, band)


def table1_beside_paper(results: Results, table: Table) -> pd.DataFrame:
    """One row per cell of Table 1 that the paper has: paper, log, ours, difference, verdict."""
    published, rows = published_table1(), []
    by_place = records_by(table.details, *PLACE)
    for line in results.parts["table1"].lines:
        place = tuple(line.labels.values())
        paper, seeds = published.get(place), by_place[place]
        difference = difference_in_table1(line)
        held = OFFICIAL.get(line.training.data.source)
        images = held.num_test if held else 0
        for measure, ours in PAPER_MEASURES.items():
            value, log = (paper[measure], paper["logged"].get(measure)) if paper else (None, None)
            found = _verdict(seeds, ours, value, difference, images)
            rows.append(
                {**line.labels, "measure": measure, "paper": value, "log": log}
                | asdict(found)
                | _origin(paper)
            )
    return pd.DataFrame(rows)


def table2_beside_paper(results: Results, table: Table) -> pd.DataFrame:
    """One row per cell of Table 2: paper, ours, difference, verdict."""
    published, rows = published_table2(), []
    by_place = records_by(table.details, "defense", "attack")
    for line in results.parts["table2"].lines:
        paper = published.get(line.labels["defense"])
        for attack, column in results.columns.items():
            value = paper.get(column) if paper else None
            seeds = by_place[line.labels["defense"], attack]
            images = min(row["num_examples"] or 0 for row in seeds)
            difference = difference_in_table2(line, attack)
            found = _verdict(seeds, "accuracy", value, difference, images)
            rows.append(
                {**line.labels, "attack": attack, "column": column, "paper": value}
                | asdict(found)
                | _origin(paper)
            )
    return pd.DataFrame(rows)


def _verdict(
    seeds: Sequence[Row], column: str, paper: float | None, difference: str, images: int
) -> Agreement:
    """The verdict on one cell; a seed without a number decides it."""
    for row in seeds:
        if row["status"] != OK:
            return Agreement(row["status"], reason=f"seed {row['seed']}: {row['reason']}")
    values = [row[column] for row in seeds]
    if None in values:
        return Agreement(MISSING, reason=f"needs {LAST_EPOCHS} epochs")
    mean = statistics.fmean(values)
    if paper is None or difference or not images:
        return Agreement(
            NOT_COMPARABLE, ours=mean, reason=difference or "the paper has no such cell"
        )
    return agreement(values, paper, num_examples=images)


def _origin(paper: Row | None) -> Row:
    return {name: paper[name] if paper else "" for name in ("origin", "note")}
