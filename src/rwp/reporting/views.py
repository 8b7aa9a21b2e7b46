"""Rows and cells of the report: every number with its verdict, every gap with what fills it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rwp.reporting.compare import ABOVE, BELOW, NOT_COMPARABLE, PAPER_MEASURES, WITHIN
from rwp.reporting.measurements import OK
from rwp.reporting.metrics import reference_rows
from rwp.reporting.tables import MEASURES, Table

SIGNS = {WITHIN: "✓", ABOVE: "▲", BELOW: "▼"}
ORIGIN_SIGNS = {"imported": "†", "unclear": "‡"}
# Tints: what chance allows, what it does not, what is not there, what cannot be true.
KINDS = {WITHIN: "within", ABOVE: "outside", BELOW: "outside"}
BROKEN = ("inconsistent", "stale", "collapsed", "diverged")


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown; `kind` picks its tint, `note` stands below in small print."""

    text: str
    kind: str = ""
    note: str = ""


@dataclass(frozen=True)
class Gap:
    """Cells without a number that share a reason, and the command that fills them."""

    where: str
    status: str
    reason: str
    command: str


def table1_view(table: Table, comparison: pd.DataFrame) -> list[dict[str, Any]]:
    """Per row its labels and a cell for each measure; the paper stands below its own two."""
    labels = ["threat_model", "method", "dataset"]
    rows = []
    for row in table.frame.to_dict("records"):
        place = {name: row[name] for name in labels}
        seeds = _select(table.details, place)
        cells = {}
        for measure in MEASURES:
            paper = [name for name, ours in PAPER_MEASURES.items() if ours == measure]
            against = _select(comparison, place | {"measure": paper[0]}) if paper else None
            cells[measure] = _cell(row[measure], seeds, measure, against)
        rows.append(place | {"cells": [cells[name] for name in MEASURES]})
    return rows


def table2_view(table: Table, comparison: pd.DataFrame, columns: dict[str, str]) -> list[Any]:
    """Per row the defense and a cell for each attack; the natural reference comes last."""
    averages = {
        row["defense"]: {name: row[name] for name in columns.values()}
        for row in table.frame.to_dict("records")
    }
    rows = []
    for defense, numbers in (averages | reference_rows(table)).items():
        cells = []
        for attack, column in columns.items():
            place = {"defense": defense, "attack": attack}
            seeds = _select(table.details, place)
            cells.append(_cell(numbers[column], seeds, "accuracy", _select(comparison, place)))
        gap = numbers["pgd20"] - numbers["aa"]
        shown = Cell(f"{gap:.2f}") if math.isfinite(gap) else Cell("–")
        rows.append(
            {"defense": defense, "cells": [*cells, shown], "reference": defense not in averages}
        )
    return rows


def _cell(value: float, seeds: pd.DataFrame, column: str, against: pd.DataFrame | None) -> Cell:
    for row in seeds[seeds["status"] != OK].to_dict("records"):
        kind = "broken" if row["status"] in BROKEN else "missing"
        return Cell(row["status"], kind)
    if not math.isfinite(value):
        return Cell("–", "missing")
    notes = [spread] if (spread := _spread(seeds, column)) else []
    warnings = seeds["warning"] if "warning" in seeds else pd.Series(dtype=str)
    kind = "broken" if any(warnings.str.startswith("AutoAttack leaves")) else ""
    for row in against.to_dict("records") if against is not None else ():
        if row["verdict"] != NOT_COMPARABLE:
            kind = kind or KINDS[row["verdict"]]
            notes.append(_against_paper(row))
    return Cell(f"{value:.2f}", kind, "; ".join(notes))


def _against_paper(row: dict[Any, Any]) -> str:
    log = row.get("log")
    logged = f", log {log:.2f}" if log is not None and math.isfinite(log) else ""
    return (
        f"{SIGNS[row['verdict']]} {row['verdict']}: paper{ORIGIN_SIGNS.get(row['origin'], '')}"
        f" {row['paper']:.2f}{logged}, {row['difference']:+.2f} ± {row['band']:.2f}"
    )


def _spread(seeds: pd.DataFrame, column: str) -> str:
    """What chance makes of a cell: deviation over seeds, or one evaluation's interval."""
    values = seeds[column].astype(float)
    if len(values) > 1:
        return f"± {values.std(ddof=1):.2f} over {len(values)} seeds"
    if "interval_low" in seeds:
        low, high = float(seeds["interval_low"].iloc[0]), float(seeds["interval_high"].iloc[0])
        return f"{low:.1f} to {high:.1f}"
    return ""


def _select(frame: pd.DataFrame, values: dict[str, Any]) -> pd.DataFrame:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return frame


def gaps(table1: Table, table2: Table) -> list[Gap]:
    """All cells without a number, grouped by run and reason."""
    found = []
    for row in table1.details.to_dict("records"):
        if row["status"] != OK:
            where = f"Table 1: {row['method']}, {row['dataset']}, {row['threat_model']}"
            command = _command([f"{row['run']}/run.json"], row["status"])
            found.append(_gap(where, row, command))
    open_cells = table2.details[table2.details["status"] != OK]
    for _, cells in open_cells.groupby(["run", "status", "reason"], sort=False):
        rows = cells.to_dict("records")
        names = ", ".join(row["attack"] for row in rows)
        command = _command([row["record"] for row in rows if row["record"]], rows[0]["status"])
        found.append(_gap(f"Table 2: {rows[0]['defense']}: {names}", rows[0], command))
    return found


def _gap(where: str, row: dict[Any, Any], command: str) -> Gap:
    return Gap(f"{where}, seed {row['seed']}", row["status"], row["reason"], command)


def _command(targets: Sequence[str], status: str) -> str:
    """What builds the files, in the braces of a shell where they lie side by side."""
    if not targets or status in ("collapsed", "diverged"):
        return ""
    folder, _, first = targets[0].rpartition("/")
    stems = [target.rpartition("/")[2].removesuffix(".json") for target in targets]
    short = f"{folder}/{{{','.join(stems)}}}.json" if len(stems) > 1 else f"{folder}/{first}"
    force = " --force" if status in ("inconsistent", "stale") else ""
    return f"snakemake --cores all{force} {short}"
