"""Tables 1 and 2 of a suite: frames in percent, and beside them where each number comes from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rwp.files import atomic_write
from rwp.pipeline.settings import Params, get_suite
from rwp.reporting.averaging import average_rows, averaged, numeric
from rwp.reporting.cells import attack_columns, table1_rows, table2_rows
from rwp.reporting.costs import run_costs
from rwp.reporting.measurements import OK, Measurement, measurements
from rwp.reporting.runs import Run, read_run
from rwp.reporting.verdicts import SEPARATOR, joint_accuracy, read_judged, worst_level
from rwp.training.spec import RunKey, suite_directory

# The paper's "last" is the mean over this many final epochs wherever it can be traced to a log.
LAST_EPOCHS = 6

MEASURES = (
    "best",
    "last",
    "best_on_test",
    "selection_optimism",
    "last_epochs_mean",
    "robust_overfitting_gap",
)
Row = dict[Any, Any]

LABELS = ("threat_model", "method", "dataset", "defense")
EPOCHS = ("best_epoch", "best_on_test_epoch", "num_epochs")
COUNTS = ("num_examples", "num_robust")
PASSES = ("forward_passes", "backward_passes")


@dataclass(frozen=True)
class Table:
    """What is printed and, row by row, what it was made of."""

    frame: pd.DataFrame  # percent; an empty cell where a seed's number is missing
    details: pd.DataFrame  # one row per seed (and attack): numbers, status, reason, origin


def table1(params: Params, suite_name: str, *, root: Path | str = ".") -> Table:
    """Robust accuracy at the selected and at the final epoch, by threat model, data set, recipe.

    A cell is the mean over the suite's seeds and stays empty until each has a number; with
    several seeds, their standard deviation stands beside it (`best_std`).
    """
    rows, details = [], []
    for labels, keys in table1_rows(params, suite_name):
        seeds = [labels | _table1_detail(key, read_run(params, key, root=root)) for key in keys]
        details += seeds
        rows.append(labels | average_rows(seeds, MEASURES))
    return Table(numeric(rows, LABELS), _details(details, (*EPOCHS, *PASSES)))


def _table1_detail(key: RunKey, run: Run) -> dict[str, Any]:
    """The numbers of one run, in percent, as its training measured them."""
    detail: dict[str, Any] = {
        "seed": key.seed,
        **dict.fromkeys(MEASURES),
        "best_epoch": None,
        "best_on_test_epoch": None,
        "num_epochs": len(run.history),
        "status": run.status,
        "reason": run.reason,
        "fingerprint": run.document.get("fingerprint"),
        "commit": run.document.get("commit"),
        "seconds": run.document.get("seconds"),
        **run_costs(run),
        "run": run.name,
    }
    return detail | run_numbers(run)


def run_numbers(run: Run) -> dict[str, Any]:
    """What a finished run measured by itself, in percent, or why it has no numbers."""
    if not run.finished:
        return {}
    percent = [
        100 * row["test_robust_accuracy"] for row in run.history if "test_robust_accuracy" in row
    ]
    if len(percent) < len(run.history):
        reason = "the test split was not measured in each epoch (test_curve)"
        return {"status": "missing", "reason": reason}
    top = max(range(len(percent)), key=percent.__getitem__)
    best, last = percent[run.best_epoch], percent[-1]
    tail = percent[-LAST_EPOCHS:]
    return {
        "status": OK,
        "best": best,
        "last": last,
        "best_on_test": percent[top],
        "selection_optimism": percent[top] - best,
        "last_epochs_mean": sum(tail) / LAST_EPOCHS if len(tail) == LAST_EPOCHS else None,
        "robust_overfitting_gap": best - last,
        "best_epoch": run.best_epoch,
        "best_on_test_epoch": top,
    }


def table2(params: Params, suite_name: str, *, root: Path | str = ".") -> Table:
    """Accuracy of the best checkpoints under each attack, as in the paper's Table 2.

    A cell is the mean over the suite's seeds and stays empty until each has a number; the verdict
    is the worst of them. The details also hold the suite's naturally trained reference, which the
    frame leaves out, and what a network's records say together: the accuracy under all attacks
    at once, and the verdict with its reasons.
    """
    suite = get_suite(params, suite_name)
    columns = attack_columns(suite)
    rows, details = [], []
    for defense, keys in table2_rows(params, suite_name):
        seeds = [
            {"defense": defense} | detail
            for key in keys
            for detail in _table2_details(params, key, list(columns), root)
        ]
        details += seeds
        if keys[0].recipe in suite.table2.recipes:
            by_attack = {
                column: [row["accuracy"] for row in seeds if row["attack"] == attack]
                for attack, column in columns.items()
            }
            verdict = worst_level([row["verdict"] for row in seeds])
            rows.append({"defense": defense} | averaged(by_attack) | {"verdict": verdict})
    return Table(numeric(rows, (*LABELS, "verdict")), _details(details, (*COUNTS, *PASSES)))


def _table2_details(
    params: Params, key: RunKey, attacks: Sequence[str], root: Path | str
) -> list[dict[str, Any]]:
    run = read_run(params, key, root=root)
    found = measurements(params, key, run, attacks, root=root, checkpoint="best")
    judged = read_judged(params, key, run, found, root=root)
    together = {
        "all_attacks": joint_accuracy(found),
        "gap": judged.gap,
        "verdict": judged.level,
        "verdict_status": judged.status,
        "verdict_reasons": SEPARATOR.join(judged.reasons) or judged.reason,
        "band_source": judged.band_source,
        "diagnosis": judged.path,
    }
    return [
        _table2_detail(item, run, _stronger_than_expected(item, found)) | together for item in found
    ]


def _table2_detail(item: Measurement, run: Run, warning: str) -> dict[str, Any]:
    record, (low, high) = item.record, item.interval or (None, None)
    warnings = [*(record.warnings if record else ()), *([warning] if warning else [])]
    if record and record.num_nan:
        warnings.append(f"{record.num_nan} pixels of the adversarial images are NaN")
    return {
        "attack": item.attack,
        "seed": item.key.seed,
        "num_examples": record.num_examples if record else None,
        "num_robust": record.num_robust if record else None,
        "accuracy": _percent(item.accuracy),
        "interval_low": _percent(low),
        "interval_high": _percent(high),
        "status": item.status,
        "reason": item.reason,
        "warning": "; ".join(warnings),
        "fingerprint": record.fingerprint if record else None,
        "commit": run.document.get("commit"),
        "seconds": record.seconds if record else None,
        **run_costs(run),
        "checkpoint": "best",
        "run": run.name,
        "record": item.path,
    }


def _stronger_than_expected(item: Measurement, found: Sequence[Measurement]) -> str:
    """AutoAttack that leaves more images standing than a weaker attack points to a fault."""
    if item.attack != "autoattack" or item.record is None:
        return ""
    margins = {
        other.attack: item.record.num_robust - other.record.num_robust
        for other in found
        if other.record and other.record.num_examples == item.record.num_examples
    }
    weaker = max(margins, key=margins.__getitem__)
    if margins[weaker] <= 0:
        return ""
    return f"AutoAttack leaves {margins[weaker]} more images correct than {weaker}"


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _details(rows: list[dict[str, Any]], counts: Iterable[str]) -> pd.DataFrame:
    """A frame whose counts stay whole numbers where some are missing."""
    return pd.DataFrame(rows).astype(dict.fromkeys(counts, "Int64"))


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame; a missing value is none."""
    rows = frame.astype(object).where(frame.notna(), None)
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.to_numpy()]


def records_by(frame: pd.DataFrame, *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    """The rows of a frame by the values of some columns."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in records(frame):
        found.setdefault(tuple(row[name] for name in columns), []).append(row)
    return found


def write_table1(params: Params, suite_name: str, *, root: Path | str = ".") -> list[Path]:
    """Write table1.csv and table1_details.csv into the suite's folder."""
    return write_table(table1(params, suite_name, root=root), suite_name, "table1", root)


def write_table2(params: Params, suite_name: str, *, root: Path | str = ".") -> list[Path]:
    """Write table2.csv and table2_details.csv into the suite's folder."""
    return write_table(table2(params, suite_name, root=root), suite_name, "table2", root)


def write_table(table: Table, suite_name: str, name: str, root: Path | str) -> list[Path]:
    """Write NAME.csv and NAME_details.csv into the suite's folder."""
    folder = Path(root) / suite_directory(suite_name)
    paths = [folder / f"{name}.csv", folder / f"{name}_details.csv"]
    for path, frame in zip(paths, (table.frame, table.details), strict=True):
        write_frame(path, frame)
    return paths


def write_frame(path: Path, frame: pd.DataFrame, *, float_format: str = "%.2f") -> None:
    """Write a frame as CSV."""
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=float_format, lineterminator="\n")
