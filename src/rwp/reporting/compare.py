"""Ours beside the paper's: difference and verdict, cell by cell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from rwp.pipeline.settings import Params, get_suite
from rwp.reporting.cells import attack_columns, table1_rows, table2_rows
from rwp.reporting.comparable import TEST_IMAGES, table1_difference, table2_difference
from rwp.reporting.measurements import OK
from rwp.reporting.published import published_curve, published_table1, published_table2
from rwp.reporting.tables import LAST_EPOCHS, Row, Table, records_by

# What the paper calls best is chosen on the test split; its last, wherever it can be traced, is
# the mean of the final epochs.
PAPER_MEASURES = {"best": "best_on_test", "last": "last_epochs_mean"}

# What names a row of Table 1.
PLACE = ("threat_model", "method", "dataset")

WITHIN, ABOVE, BELOW = "within", "above", "below"
NOT_COMPARABLE, MISSING = "not comparable", "missing"


@dataclass(frozen=True)
class Verdict:
    """Ours against the paper's, in percentage points; `band` is what chance allows.

    `verdict` is within, above, below or not comparable; or the status of the seed that has no
    number: missing, stale, inconsistent, collapsed, diverged.
    """

    verdict: str
    ours: float | None = None
    difference: float | None = None
    band: float | None = None
    reason: str = ""


def judge(ours: Sequence[float], paper: float, *, num_examples: int) -> Verdict:
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
        return Verdict(WITHIN, mean, difference, band)
    return Verdict(ABOVE if difference > 0 else BELOW, mean, difference, band)


def compare_table1(params: Params, suite_name: str, table: Table) -> pd.DataFrame:
    """One row per cell of Table 1 that the paper has: paper, log, ours, difference, verdict."""
    published, rows = published_table1(), []
    by_place = records_by(table.details, *PLACE)
    for labels, keys in table1_rows(params, suite_name):
        paper = published.get(tuple(labels.values()))
        difference = table1_difference(params, labels, keys[0])
        seeds = by_place[tuple(labels.values())]
        images = TEST_IMAGES.get(params.datasets[keys[0].dataset].source, 0)
        for measure, ours in PAPER_MEASURES.items():
            value = paper[measure] if paper else None
            found = _verdict(seeds, ours, value, difference, images)
            rows.append(
                labels
                | {"measure": measure, "paper": value, "log": _logged(paper, measure)}
                | asdict(found)
                | _origin(paper)
            )
    return pd.DataFrame(rows)


def compare_table2(params: Params, suite_name: str, table: Table) -> pd.DataFrame:
    """One row per cell of Table 2: paper, ours, difference, verdict."""
    published, rows = published_table2(), []
    suite = get_suite(params, suite_name)
    by_place = records_by(table.details, "defense", "attack")
    for defense, keys in table2_rows(params, suite_name):
        paper = published.get(defense)
        for attack, column in attack_columns(suite).items():
            value = paper.get(column) if paper else None
            seeds = by_place[defense, attack]
            images = min(row["num_examples"] or 0 for row in seeds)
            found = _verdict(
                seeds,
                "accuracy",
                value,
                table2_difference(params, defense, keys[0], attack),
                images,
            )
            rows.append(
                {"defense": defense, "attack": attack, "column": column, "paper": value}
                | asdict(found)
                | _origin(paper)
            )
    return pd.DataFrame(rows)


def _verdict(
    seeds: Sequence[Row], column: str, paper: float | None, difference: str, images: int
) -> Verdict:
    """The verdict on one cell; a seed without a number decides it."""
    for row in seeds:
        if row["status"] != OK:
            return Verdict(row["status"], reason=f"seed {row['seed']}: {row['reason']}")
    values = [row[column] for row in seeds]
    if None in values:
        return Verdict(MISSING, reason=f"needs {LAST_EPOCHS} epochs")
    mean = statistics.fmean(values)
    if paper is None or difference or not images:
        return Verdict(NOT_COMPARABLE, ours=mean, reason=difference or "the paper has no such cell")
    return judge(values, paper, num_examples=images)


def _logged(paper: Row | None, measure: str) -> float | None:
    """What the log says that a published row was taken from."""
    if not paper or not paper["log"]:
        return None
    curve = 100 * published_curve(paper["log"])["test_robust_accuracy"]
    return float(curve.max() if measure == "best" else curve.tail(LAST_EPOCHS).mean())


def _origin(paper: Row | None) -> Row:
    return {name: paper[name] if paper else "" for name in ("origin", "note")}
