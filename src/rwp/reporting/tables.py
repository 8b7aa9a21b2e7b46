"""Table 1, Table 2 and the table beyond the paper: in percent, and where each number comes from."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from rwp.evaluation.spec import PAPER_COLUMNS
from rwp.files import atomic_write
from rwp.pipeline.settings import Suite
from rwp.pipeline.suites import BEYOND
from rwp.reporting.results import (
    MEASURES,
    OTHER_CHECKPOINTS,
    Results,
    Row,
    joint_accuracy,
    records,
    worst_level,
)
from rwp.reporting.runs import OK
from rwp.training.spec import RunKey

STD = "_std"  # what the column of a deviation adds to that of its mean
SEPARATOR = " | "  # between the reasons in a cell of a CSV file

WORST_CASE = "worst_case"  # over all threat models of a suite's attacks
LABELS = ("threat_model", "method", "dataset", "defense")
ROW_LABELS = ("group", *LABELS, "network")  # of any table
WORDS = ("verdict",)  # columns of Table 2 that are no numbers
EPOCHS = ("best_epoch", "best_on_test_epoch", "num_epochs")
COUNTS = ("num_examples", "num_robust")
PASSES = ("forward_passes", "backward_passes")
HOURS = "training_hours"
COSTS = (*PASSES, HOURS)
FROM_TRAINING = ("best", "last", "best_on_test", "robust_overfitting_gap")  # in the table beyond
BEYOND_LABELS = ("group", "method", "dataset", "threat_model", "network")
NUM_SEEDS = "num_seeds"  # that the numbers of a row stand on


@dataclass(frozen=True)
class Table:
    """What is printed and, row by row, what it was made of."""

    frame: pd.DataFrame  # percent; an empty cell where a seed's number is missing
    details: pd.DataFrame  # one row per seed (and attack): numbers, status, reason, origin

    @cached_property
    def rows(self) -> list[Row]:
        """What is printed; a missing number is none."""
        return records(self.frame)

    @cached_property
    def seeds(self) -> list[Row]:
        """The details, likewise."""
        return records(self.details)


# Table 1


def table1(results: Results) -> Table:
    """Robust accuracy at the selected and at the final epoch, by threat model, data set, recipe.

    A cell is the mean over the suite's seeds and stays empty until each has a number; with
    several seeds, their standard deviation stands beside it (`best_std`).
    """
    rows, details = [], []
    for line in results.parts["table1"].lines:
        seeds = [{**line.labels, **_training_detail(results, key)} for key in line.keys]
        details += seeds
        counted = {NUM_SEEDS: len(line.keys)}
        rows.append({**line.labels, **counted, **_average_rows(seeds, MEASURES)})
    return Table(_numeric(rows, (*LABELS, NUM_SEEDS)), _details(details, (*EPOCHS, *PASSES)))


def _training_detail(results: Results, key: RunKey) -> Row:
    """The numbers of one run, in percent, as its training measured them."""
    run = results.runs[key]
    detail: Row = {
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
        **run.costs,
        "run": run.name,
    }
    return detail | run.numbers


# Table 2


def table2(results: Results) -> Table:
    """Accuracy of the best checkpoints under each attack, as in the paper's Table 2.

    A cell is the mean over the suite's seeds and stays empty until each has a number; the verdict
    is the worst of them. Where the suite attacks under several threat models, `worst_case` counts
    the images that are right under all of them. The details also hold the suite's naturally trained
    reference, which the frame leaves out, and what a network's records say together: the accuracy
    under all attacks of its own threat model at once, and the verdict with its reasons.
    """
    columns = results.columns
    rows, details = [], []
    for line in results.parts["table2"].lines:
        seeds = [
            {**line.labels, **detail}
            for key in line.keys
            for detail in _attack_details(results, key, columns)
        ]
        details += seeds
        if line.recipe in results.suite.table2.recipes:
            by_attack: dict[str, list[float | None]] = {
                column: [row["accuracy"] for row in seeds if row["attack"] == attack]
                for attack, column in columns.items()
            }
            if has_several_threats(results.suite):
                first = next(iter(columns))
                alike = [row for row in seeds if row["attack"] == first]
                by_attack[WORST_CASE] = [row[WORST_CASE] for row in alike]
            verdict = worst_level([row["verdict"] for row in seeds])
            counted = {NUM_SEEDS: len(line.keys)}
            rows.append({**line.labels, **counted, **_averaged(by_attack), "verdict": verdict})
    labels = (*LABELS, NUM_SEEDS, "verdict")
    return Table(_numeric(rows, labels), _details(details, (*COUNTS, *PASSES)))


def has_several_threats(suite: Suite) -> bool:
    """Whether the suite attacks under other threat models than a network's own."""
    return any(entry.has_other_threat for entry in suite.evaluation.attacks.values())


def _attack_details(results: Results, key: RunKey, attacks: Iterable[str]) -> list[Row]:
    """One row per attack on the best network of a run, with what its records say together."""
    run, judged = results.runs[key], results.verdicts[key]
    found = [row for row in results.outcomes(key) if row["attack"] in attacks]
    together = {
        "all_attacks": joint_accuracy(
            [row for row in found if row["under_network_threat"] is not False]
        ),
        WORST_CASE: joint_accuracy(found, several_threats=True),
        "gap": judged.gap,
        "verdict": judged.level,
        "verdict_status": judged.status,
        "verdict_reasons": SEPARATOR.join(judged.reasons) or judged.reason,
        "band_source": judged.band_source,
        "diagnosis": judged.path,
    }
    measured = ("accuracy", "interval_low", "interval_high")
    numbers = ("attack", "norm", "epsilon", "seed", *COUNTS, *measured)
    return [
        {name: row[name] for name in (*numbers, "status", "reason", "warning", "fingerprint")}
        | {"commit": run.document.get("commit"), "seconds": row["seconds"]}
        | run.costs
        | {"checkpoint": row["checkpoint"], "run": row["run"], "record": row["record"]}
        | together
        for row in found
    ]


def other_checkpoints(results: Results) -> list[Row]:
    """One row per network of Table 2 and other checkpoint that has a record.

    `accuracies` are in percent, in the order of the attack columns; none where nothing was run.
    No table waits for these records; `snakemake RUN/evaluation/last/pgd-20.json` makes one.
    """
    rows = []
    for line in results.parts["table2"].lines:
        for key, checkpoint in product(line.keys, OTHER_CHECKPOINTS):
            found = {row["attack"]: row for row in results.outcomes(key, checkpoint)}
            if any(row["status"] == OK for row in found.values()):
                rows.append(
                    {
                        **line.labels,
                        "checkpoint": checkpoint.replace("_", " "),
                        "seed": key.seed,
                        "accuracies": [found[name]["accuracy"] for name in results.columns],
                    }
                )
    return rows


# Beyond the paper


def beyond(results: Results) -> Table:
    """Rivals and variants that the paper does not have, with what they cost.

    Per row: robust accuracy while training, the attacks on the best network, and the cost. A cell
    is the mean over the suite's seeds and stays empty until each has a number; with several seeds,
    their standard deviation stands beside it, but for costs.
    """
    attacks = results.suite.beyond.attacks if results.suite.beyond else ()
    columns = [PAPER_COLUMNS.get(name, name) for name in attacks]
    rows, details = [], []
    for line in results.parts[BEYOND].lines:
        seeds = [_beyond_detail(results, key, attacks) for key in line.keys]
        details += [{**line.labels, **seed} for seed in seeds]
        means = _average_rows(seeds, (*FROM_TRAINING, *columns))
        costs = {name: _averaged({name: [row[name] for row in seeds]})[name] for name in COSTS}
        rows.append({**line.labels, NUM_SEEDS: len(line.keys), **means, **costs})
    return Table(_numeric(rows, (*BEYOND_LABELS, NUM_SEEDS)), _details(details, PASSES))


def _beyond_detail(results: Results, key: RunKey, attacks: Sequence[str]) -> Row:
    run = results.runs[key]
    by_attack = {row["attack"]: row for row in results.outcomes(key)}
    found = [by_attack[attack] for attack in attacks]
    gaps = [(row["status"], row["reason"]) for row in found if row["status"] != OK]
    status, reason = (run.status, run.reason) if not run.finished else (gaps or [(OK, "")])[0]
    return {
        "seed": key.seed,
        "status": status,
        "reason": reason,
        **{name: run.numbers.get(name) for name in FROM_TRAINING},
        **{PAPER_COLUMNS.get(row["attack"], row["attack"]): row["accuracy"] for row in found},
        **run.costs,
        "run": run.name,
        "commit": run.document.get("commit"),
        "fingerprint": run.document.get("fingerprint"),
        "evaluation_seconds": sum(row["seconds"] or 0 for row in found),
        "records": " ".join(row["record"] for row in found),
    }


# Means over seeds


def _averaged(columns: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
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


def _average_rows(seeds: Sequence[Row], names: Iterable[str]) -> dict[str, Any]:
    """`_averaged` for some columns of the rows of a run's seeds."""
    return _averaged({name: [row.get(name) for row in seeds] for name in names})


def _numeric(rows: Sequence[Row], labels: Iterable[str]) -> pd.DataFrame:
    """A frame whose number columns are numbers even where all of them are missing."""
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys(frame.columns.difference(list(labels)), float))


def _details(rows: Sequence[Row], counts: Iterable[str]) -> pd.DataFrame:
    """A frame whose counts stay whole numbers where some are missing."""
    return pd.DataFrame(rows).astype(dict.fromkeys(counts, "Int64"))


# Table 2 in short


def reference_rows(table: Table) -> dict[str, dict[str, float]]:
    """Defense -> column -> percent, for the rows of the details that the frame leaves out."""
    rows: dict[str, dict[str, float]] = {}
    if "defense" not in table.frame:
        return rows
    extra = table.details[~table.details["defense"].isin(table.frame["defense"])]
    for (defense, attack), seeds in extra.groupby(["defense", "attack"], sort=False):
        # A seed without a number leaves the whole cell without one, as in the frame.
        mean = seeds["accuracy"].astype(float).mean(skipna=False)
        rows.setdefault(str(defense), {})[PAPER_COLUMNS.get(str(attack), str(attack))] = mean
    return rows


def averages(table: Table) -> dict[str, dict[str, float]]:
    """Defense -> column -> percent, of Table 2 and, last, of its reference."""
    rows = {
        row["defense"]: {name: row[name] for name in means(table)}
        for row in table.frame.to_dict("records")
    }
    return rows | reference_rows(table)


def means(table: Table) -> list[str]:
    """The columns of numbers, without those of their spread."""
    names = [str(name) for name in table.frame if name not in (*ROW_LABELS, *WORDS, NUM_SEEDS)]
    return [name for name in names if not name.endswith(STD)]


# Files


def write_table(table: Table, folder: Path, name: str) -> list[Path]:
    """Write NAME.csv and NAME_details.csv into the suite's folder."""
    paths = [folder / f"{name}.csv", folder / f"{name}_details.csv"]
    for path, frame in zip(paths, (table.frame, table.details), strict=True):
        if HOURS in frame:
            hours = frame[HOURS].astype(float).map("{:.4g}".format, na_action="ignore")
            frame = frame.assign(**{HOURS: hours})
        write_frame(path, frame)
    return paths


def write_frame(path: Path, frame: pd.DataFrame, *, float_format: str = "%.2f") -> None:
    """Write a frame as CSV; no number is a zero with a minus."""

    def text(number: object) -> str:
        shown = float_format % number
        return shown if float(shown) else shown.lstrip("-")

    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=text, lineterminator="\n")
