"""The tables in short: as nested JSON for `dvc metrics`, and as a table for a terminal."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rwp.evaluation.verdict import DOUBTFUL
from rwp.files import write_json
from rwp.reporting.labels import COLUMN_LABELS
from rwp.reporting.results import MEASURES, Results
from rwp.reporting.runs import OK
from rwp.reporting.tables import (
    HOURS,
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
    from rich.console import Group

MISSING = "-"
PLOTTED = "aa"  # the column that dvc.yaml plots
SHORT = {"aa": "AA"}  # with it Table 2 fits into 80 columns
_HEADING = 9  # letters in a line of a heading, where words allow it
_NAME = 28  # characters in a line of what names a row
_BETWEEN = 3  # characters from one column to the next


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
    frame = table2(results).frame
    write_frame(plot, frame if PLOTTED in frame else frame.assign(**{PLOTTED: math.nan}))
    return [path, plot]


def terminal_table(table: Table, *, title: str, width: int = 80) -> Group:
    """A table for a terminal, in percent; Table 2's reference last, notes below.

    Where its columns do not fit into `width` characters, it goes on below with the others, so
    that no heading and no number is cut.
    """
    from rich.console import Group
    from rich.table import Table as TerminalTable
    from rich.text import Text

    rows = _terminal_rows(table)
    labels, words = _shown_labels(table), [name for name in WORDS if name in table.frame]
    names = {**_headings(table), **{name: name for name in words}}
    parts = _parts(_widths(rows, names), width + 1 - _label_width(rows, labels))
    shown = []
    for number, part in enumerate(parts):
        more = f" ({number + 1} of {len(parts)})" if len(parts) > 1 else ""
        found = TerminalTable(title=title + more, show_edge=False)
        for name in labels:
            found.add_column(name.replace("_", " "), overflow="fold", max_width=_NAME)
        for name in part:
            justify: Literal["left", "right"] = "left" if name in words else "right"
            found.add_column(names[name], justify=justify, no_wrap=True)
        for row in rows:
            if row is None:
                found.add_section()
                continue
            style = "italic" if set(row) == {labels[0]} else ""
            found.add_row(*(Text(row.get(name, ""), style) for name in (*labels, *part)))
        shown.append(found)
    unit = "accuracy in percent" + ("; AA: AutoAttack" if words else "")
    return Group(*shown, Text("\n".join([unit, *_notes(table)]), style="table.caption"))


def _terminal_rows(table: Table) -> list[dict[str, str] | None]:
    """The cells of each row by column; none where a line is drawn."""
    labels, numbers = _shown_labels(table), means(table)
    rows: list[dict[str, str] | None] = []
    group = None
    for row in table.frame.to_dict("records"):
        if row.get("group") != group:
            group = row["group"]
            rows += [None, {labels[0]: group}]
        cells = {name: str(row[name]) for name in labels}
        for name in numbers:
            if name in PASSES:
                cells[name] = _count(row[name])
            elif name == HOURS:
                cells[name] = f"{row[name]:.4g}" if math.isfinite(row[name]) else MISSING
            else:
                cells[name] = _cell(row[name], row.get(f"{name}{STD}"))
        for name in WORDS:
            if name in table.frame:
                cells[name] = row[name] if isinstance(row[name], str) else MISSING
        rows.append(cells)
    for defense, accuracies in reference_rows(table).items():
        cells = {name: _cell(accuracies[name]) for name in numbers if name in accuracies}
        rows += [None, {labels[0]: f"{defense} (ref.)"} | cells]
    return rows


def _headings(table: Table) -> dict[str, str]:
    """The columns of numbers by name: as they are headed, in lines of a few letters."""
    judged = any(name in table.frame for name in WORDS)
    known = COLUMN_LABELS | SHORT if judged else COLUMN_LABELS
    found = {}
    for name in means(table):
        text = known.get(name, name.replace("_", " "))
        text = text.replace("autoattack", SHORT["aa"]) if judged else text
        found[name] = "\n".join(textwrap.wrap(text, _HEADING, break_long_words=False))
    return found


def _widths(rows: list[dict[str, str] | None], names: dict[str, str]) -> dict[str, int]:
    cells = {name: [row[name] for row in rows if row and name in row] for name in names}
    return {
        name: max(map(len, [*names[name].split("\n"), *cells[name]])) + _BETWEEN for name in names
    }


def _label_width(rows: list[dict[str, str] | None], labels: list[str]) -> int:
    """What the columns that name a row take; long names and titles of groups wrap."""
    named = [row for row in rows if row and set(row) != {labels[0]}]
    longest = (max(map(len, [name, *(row.get(name, "") for row in named)])) for name in labels)
    return sum(min(length, _NAME) + _BETWEEN for length in longest)


def _parts(widths: dict[str, int], room: int) -> list[list[str]]:
    """The columns in as few tables as they fit into, in their order."""
    parts: list[list[str]] = [[]]
    for name, width in widths.items():
        if parts[-1] and sum(widths[other] for other in parts[-1]) + width > room:
            parts.append([])
        parts[-1].append(name)
    return parts


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
    notes: dict[str, None] = dict.fromkeys([*_seed_counts(table, labels), *_image_counts(table)])
    for row in table.details.to_dict("records"):
        place = f"{' '.join(row[name] for name in labels)} seed {row['seed']}"
        if row["status"] != OK:
            notes[f"{place}: {row['status']}: {row['reason']}"] = None
        if row.get("warning"):
            notes[f"{place}: {row['warning']}"] = None
        if row.get("verdict") in DOUBTFUL:
            notes[f"{place}: {row['verdict_reasons']}"] = None
    return list(notes)


def _image_counts(table: Table) -> list[str]:
    """How many test images each attack saw, where attacks differ in it."""
    if "num_examples" not in table.details:
        return []
    seen: dict[int, dict[str, None]] = {}
    for row in table.details.dropna(subset="num_examples").to_dict("records"):
        seen.setdefault(int(row["num_examples"]), {})[row["attack"]] = None
    if len(seen) < 2:
        return []
    groups = (f"{count:,} ({', '.join(names)})" for count, names in sorted(seen.items()))
    return [f"attacks saw different numbers of test images: {'; '.join(groups)}"]


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
