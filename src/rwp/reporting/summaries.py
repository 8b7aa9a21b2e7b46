"""The tables in short: as nested JSON for `dvc metrics`, and as a table for a terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwp.evaluation.verdict import DOUBTFUL
from rwp.files import write_json
from rwp.reporting.labels import COLUMN_LABELS
from rwp.reporting.results import MEASURES, OK, Results
from rwp.reporting.tables import (
    LABELS,
    PASSES,
    ROW_LABELS,
    STD,
    WORDS,
    Table,
    means,
    reference_rows,
    table1,
    table2,
    write_frame,
)

if TYPE_CHECKING:
    from rich.table import Table as TerminalTable

MISSING = "-"
SHORT = {"aa": "AA"}  # with it Table 2 fits into 80 columns


def metrics(results: Results) -> dict[str, Any]:
    """Both tables in percent: table2.DEFENSE.ATTACK and table1.THREAT.DATASET.METHOD.MEASURE.

    Cells without a number are left out.
    """
    first: dict[str, Any] = {}
    for row in table1(results).frame.to_dict("records"):
        place = first.setdefault(row["threat_model"], {}).setdefault(row["dataset"], {})
        place[row["method"]] = _numbers(row, MEASURES)
    columns = tuple(results.columns.values())
    second = {
        row["defense"]: _numbers(row, columns) for row in table2(results).frame.to_dict("records")
    }
    return {"table2": second, "table1": first}


def _numbers(row: dict[Any, Any], columns: tuple[str, ...]) -> dict[str, float]:
    return {name: round(row[name], 2) for name in columns if math.isfinite(row[name])}


def write_metrics(results: Results) -> list[Path]:
    """Write a suite's metrics, and its defenses' accuracies as DVC plots them, one row each.

    All suites lie in the same two folders, results/metrics and results/plots, which dvc.yaml names.
    """
    path = results.root / "results" / "metrics" / f"{results.suite_name}.json"
    write_json(path, metrics(results))
    plot = results.root / "results" / "plots" / f"{results.suite_name}.csv"
    write_frame(plot, table2(results).frame)
    return [path, plot]


def terminal_table(table: Table, *, title: str) -> TerminalTable:
    """A table for a terminal, in percent; Table 2's reference last, notes below."""
    from rich.table import Table as TerminalTable
    from rich.text import Text

    labels, numbers = _shown_labels(table), means(table)
    words = [name for name in WORDS if name in table.frame]
    grouped = "group" in table.frame
    headings = COLUMN_LABELS | SHORT if words else COLUMN_LABELS
    unit = "accuracy in percent" + ("; AA: AutoAttack" if words else "")
    notes = Text("\n".join([unit, *_notes(table)]))
    shown = TerminalTable(title=title, caption=notes, caption_justify="left", show_edge=False)
    for name in labels:
        title = name.replace("_", " ")
        shown.add_column(title, no_wrap=not grouped, min_width=16 if grouped else None)
    for name in numbers:
        shown.add_column(headings.get(name, name.replace("_", " ")), justify="right")
    for name in words:
        shown.add_column(name, no_wrap=True)
    group = None
    for row in table.frame.to_dict("records"):
        if row.get("group") != group:
            group = row["group"]
            shown.add_section()
            shown.add_row(Text(group, style="italic"))
        cells = [
            _count(row[name]) if name in PASSES else _cell(row[name], row.get(f"{name}{STD}"))
            for name in numbers
        ]
        judged = [row[name] if isinstance(row[name], str) else MISSING for name in words]
        shown.add_row(*(row[name] for name in labels), *cells, *judged)
    for defense, accuracies in reference_rows(table).items():
        shown.add_section()
        shown.add_row(f"{defense} (ref.)", *(_cell(accuracies[name]) for name in numbers))
    return shown


def _shown_labels(table: Table) -> list[str]:
    """The columns that name a row; of a table in groups, those that tell rows apart."""
    labels = [name for name in ROW_LABELS if name in table.frame and name != "group"]
    if "group" not in table.frame:
        return labels
    return [name for name in labels if name == "method" or table.frame[name].nunique() > 1]


def _count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else MISSING


def _cell(value: float, deviation: float | None = None) -> str:
    """A mean; with its deviation over seeds, one decimal less, as more would be noise."""
    if not math.isfinite(value):
        return MISSING
    if deviation is None or not math.isfinite(deviation):
        return f"{value:,.2f}"
    return f"{value:,.1f} ± {deviation:.1f}"


def _notes(table: Table) -> list[str]:
    """Why cells are empty and what looks wrong, one line each."""
    labels = [name for name in LABELS if name in table.frame]
    notes: dict[str, None] = dict.fromkeys(_seed_counts(table, labels))
    for row in table.details.to_dict("records"):
        place = f"{' '.join(row[name] for name in labels)} seed {row['seed']}"
        if row["status"] != OK:
            notes[f"{place}: {row['status']}: {row['reason']}"] = None
        if row.get("warning"):
            notes[f"{place}: {row['warning']}"] = None
        if row.get("verdict") in DOUBTFUL:
            notes[f"{place}: {row['verdict_reasons']}"] = None
    return list(notes)


def _seed_counts(table: Table, labels: list[str]) -> list[str]:
    """How many training seeds each row is a mean of, where rows differ in it."""
    named: dict[int, dict[str, None]] = {}
    for label, rows in table.details.groupby(labels, sort=False):
        name = " ".join(map(str, label))
        named.setdefault(rows["seed"].nunique(), {})[name] = None
    if len(named) < 2:
        return []
    groups = (f"{count} ({', '.join(names)})" for count, names in sorted(named.items()))
    return [f"means over as many seeds: {'; '.join(groups)}"]
