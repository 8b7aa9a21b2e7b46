"""Rows and cells of the report: every number with its verdict, every gap with what fills it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from rwp.reporting.compare import ABOVE, BELOW, NOT_COMPARABLE, PAPER_MEASURES, PLACE, WITHIN
from rwp.reporting.costs import duration
from rwp.reporting.measurements import OK
from rwp.reporting.metrics import averages
from rwp.reporting.tables import MEASURES, Row, Table, records, records_by
from rwp.reporting.verdicts import SEPARATOR, worst_level

SIGNS = {WITHIN: "✓", ABOVE: "▲", BELOW: "▼"}
ORIGIN_SIGNS = {"imported": "†", "unclear": "‡"}
# Tints: what chance allows, what it does not, what is not there, what cannot be true.
KINDS = {WITHIN: "within", ABOVE: "outside", BELOW: "outside"}
LEVEL_SIGNS = {"green": "✓", "weak": "○", "amber": "!", "red": "✗"}
LEVEL_KINDS = {"green": "within", "weak": "missing", "amber": "doubtful", "red": "outside"}
NO_NUMBER = "\N{EN DASH}"
BROKEN = ("inconsistent", "stale", "collapsed", "diverged")


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown; `kind` picks its tint, the notes stand below in small print."""

    text: str
    kind: str = ""
    notes: tuple[str, ...] = ()


def table1_view(table: Table, comparison: pd.DataFrame) -> list[Row]:
    """Per row its labels and a cell for each measure; the paper stands below its own two."""
    seeds = records_by(table.details, *PLACE)
    against = records_by(comparison, *PLACE, "measure")
    judged = bool(comparison["band"].notna().any())
    paper = {ours: name for name, ours in PAPER_MEASURES.items()}
    rows = []
    for row in records(table.frame):
        place = tuple(row[name] for name in PLACE)
        cells = [
            _cell(
                row[name],
                seeds[place],
                name,
                against[*place, paper[name]][0] if name in paper else None,
                judged=judged,
            )
            for name in MEASURES
        ]
        rows.append(dict(zip(PLACE, place, strict=True)) | {"cells": cells})
    return rows


def table2_view(table: Table, comparison: pd.DataFrame, columns: dict[str, str]) -> list[Row]:
    """Per row the defense and a cell for each attack; the natural reference comes last."""
    seeds = records_by(table.details, "defense", "attack")
    against = records_by(comparison, "defense", "attack")
    judged = bool(comparison["band"].notna().any())
    own = set(table.frame["defense"])
    rows = []
    for defense, numbers in averages(table).items():
        cells = [
            _cell(
                numbers[column],
                seeds[defense, attack],
                "accuracy",
                against[defense, attack][0],
                judged=judged,
            )
            for attack, column in columns.items()
        ]
        gap = numbers["pgd20"] - numbers["aa"]
        shown = Cell(f"{gap:.2f}") if math.isfinite(gap) else Cell(NO_NUMBER)
        networks = seeds[defense, next(iter(columns))]
        rows.append(
            {
                "defense": defense,
                "cells": [*cells, _all_attacks(networks), shown],
                "verdict": _verdict_cell(networks),
                "cost": cost_cell(networks),
                "reference": defense not in own,
            }
        )
    return rows


def _all_attacks(networks: Sequence[Row]) -> Cell:
    """The share of images right under every attack of the suite, image by image."""
    values = [row["all_attacks"] for row in networks]
    return Cell(NO_NUMBER) if None in values else Cell(f"{statistics.fmean(values):.2f}")


def _verdict_cell(networks: Sequence[Row]) -> Cell:
    """The worst verdict over seeds, in words, with what speaks against the numbers."""
    for row in networks:
        if row["verdict_status"] != OK:
            status = row["verdict_status"]
            return Cell(status, "broken" if status in BROKEN else "missing")
    level = worst_level([row["verdict"] for row in networks])
    if level is None:
        return Cell(NO_NUMBER, "missing")
    doubts = [
        f"seed {row['seed']}: {reason}" if len(networks) > 1 else reason
        for row in networks
        for reason in row["verdict_reasons"].split(SEPARATOR)
        if not reason.startswith("green")
    ]
    return Cell(f"{LEVEL_SIGNS[level]} {level}", LEVEL_KINDS[level], tuple(doubts))


def _cell(
    value: float | None, seeds: Sequence[Row], column: str, against: Row | None, *, judged: bool
) -> Cell:
    for row in seeds:
        if row["status"] != OK:
            return Cell(row["status"], "broken" if row["status"] in BROKEN else "missing")
    if value is None:
        return Cell(NO_NUMBER, "missing")
    notes = [spread] if (spread := _spread(seeds, column)) else []
    too_strong = any("AutoAttack leaves" in row.get("warning", "") for row in seeds)
    kind = "broken" if too_strong else ""
    if against is not None and against["verdict"] != NOT_COMPARABLE:
        kind = kind or KINDS[against["verdict"]]
        notes += _against_paper(against)
    elif against is not None and judged:
        notes.append("not comparable")
    return Cell(f"{value:.2f}", kind, tuple(notes))


def _against_paper(row: Row) -> list[str]:
    logged = f", log {row['log']:.2f}" if row.get("log") is not None else ""
    difference = round(row["difference"], 2) + 0.0  # no minus before a zero
    return [
        f"{SIGNS[row['verdict']]} {row['verdict']}",
        f"paper{ORIGIN_SIGNS.get(row['origin'], '')} {row['paper']:.2f}{logged}",
        f"{difference:+.2f} ± {row['band']:.2f}",
    ]


def _spread(seeds: Sequence[Row], column: str) -> str:
    """What chance makes of a cell: deviation over seeds, or one evaluation's interval."""
    if len(seeds) > 1:
        deviation = statistics.stdev(row[column] for row in seeds)
        return f"± {deviation:.2f} over {len(seeds)} seeds"
    if "interval_low" in seeds[0]:
        return f"{seeds[0]['interval_low']:.1f} to {seeds[0]['interval_high']:.1f}"
    return ""


def verdict_rows(table: Table) -> list[Row]:
    """One row per judged network: every reason, and what the usual gap rests on."""
    rows = {row["run"]: row for row in records(table.details) if row["verdict"] is not None}
    return [
        {
            **{name: row[name] for name in ("defense", "seed", "gap", "band_source")},
            "cell": _verdict_cell([row]),
            "reasons": list(filter(None, row["verdict_reasons"].split(SEPARATOR))),
        }
        for row in rows.values()
    ]


def comparison_rows(comparison: pd.DataFrame) -> list[Row]:
    """Pairs of defenses with what McNemar's test says about them in words."""
    return [row | {"finding": _finding(row)} for row in records(comparison)]


def _finding(row: Row) -> str:
    """Whether a difference is more than chance: by the interval, over seeds, or by the test."""
    chance = row["low"] <= 0 <= row["high"] if row["p_holm"] is None else row["p_holm"] > 0.05
    if chance:
        return "chance could do it"
    return f"{row['defense' if row['difference'] > 0 else 'against']} is better"


def cost_cell(seeds: Sequence[Row]) -> Cell:
    """Forward and backward passes of a training, and its time below; means over seeds."""
    known = [row for row in seeds if row["forward_passes"] is not None]
    if not known:
        return Cell(NO_NUMBER)
    passes = statistics.fmean(row["forward_passes"] + row["backward_passes"] for row in known)
    hours = statistics.fmean(row["training_hours"] for row in known)
    return Cell(f"{passes:,.0f}", "", (duration(hours),))
