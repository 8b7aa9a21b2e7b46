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
from rwp.reporting.lines import Line
from rwp.reporting.published_curves import PUBLISHED, published_curve
from rwp.reporting.results import Results, Row, records_by
from rwp.reporting.runs import LAST_EPOCHS, OK
from rwp.reporting.tables import Table

# What the paper calls best is chosen on the test split; its last, wherever it can be traced, is
# the mean of the final epochs.
PAPER_MEASURES = {"best": "best_on_test", "last": "last_epochs_mean"}

# What names a row of Table 1.
PLACE = ("threat_model", "method", "dataset")

# The unlabeled images of the paper's RST rows.
PAPER_UNLABELED = "tinyimages-500k"

WITHIN, ABOVE, BELOW = "within", "above", "below"
NOT_COMPARABLE, MISSING = "not comparable", "missing"
_NO_SETTINGS = "the paper's settings are not among those that this page was made with"


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
        difference = _difference_in_table1(results, line)
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
            difference = _difference_in_table2(results, line, attack)
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


# Whether a run of some suite repeats what the paper measured, and if not, what is different


def _difference_in_table1(results: Results, line: Line) -> str:
    """How a row's training differs from the paper's, or an empty text."""
    if not results.paper:
        return _NO_SETTINGS
    theirs = _alike(results.paper["table1"], line)
    return _training_difference(line, theirs) if theirs else f"other data ({line.dataset})"


def _difference_in_table2(results: Results, line: Line, attack: str) -> str:
    """How a cell's training or evaluation differs from the paper's, or an empty text."""
    if not results.paper:
        return _NO_SETTINGS
    paper = _alike(results.paper["table2"], line)
    if paper is None:
        return "the paper has no such row"
    found = _training_difference(line, paper)
    if found:
        return found
    ours, theirs = line.attacked.get(attack), paper.attacked.get(attack)
    if ours is None or theirs is None:
        return "the paper has no such attack"
    if ours.attacks != theirs.attacks:
        return "other settings of the attack"
    parts = [(spec.num_examples, spec.first_examples) for spec in (ours, theirs)]
    return "" if parts[0] == parts[1] else "another part of the test images"


def _alike(lines: Sequence[Line], line: Line) -> Line | None:
    return next((other for other in lines if other.labels == line.labels), None)


# Names, files that a training keeps beside, and what is looked at part by part.
_MAKE_NO_NUMBER = ("key", "unlabeled", "keep_epochs", "keep_starts", "keep_losses")


def _training_difference(line: Line, paper: Line) -> str:
    ours, theirs = line.training, paper.training
    if ours.data.source != theirs.data.source:
        return f"other data ({line.dataset})"
    mix, other = ours.unlabeled, theirs.unlabeled
    if (mix is None) != (other is None):
        return f"other unlabeled images ({mix.source if mix else 'none'})"
    fields = [name for name in ours.differing(theirs) if name not in _MAKE_NO_NUMBER]
    if mix is not None and other is not None:
        if mix.definition.kind != PAPER_UNLABELED:
            return f"other unlabeled images ({mix.source})"
        # A teacher's key also names its suite and seed, which say nothing about its settings.
        alike = ("recipe", "network")
        teacher = [n for n in alike if getattr(mix.teacher, n) != getattr(other.teacher, n)]
        same = {"source": mix.source, "definition": mix.definition, "teacher": mix.teacher}
        fields += [f"unlabeled.{name}" for name in mix.differing(other.replace(**same))]
        fields += [f"teacher's {name}" for name in teacher]
    return f"other settings ({', '.join(fields)})" if fields else ""
