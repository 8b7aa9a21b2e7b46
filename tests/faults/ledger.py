"""Counts what was tried and what was survived, over all test processes, and makes the table.

Each attempt appends a line to one file; `make test-faults` prints the table at its end and leaves
it in .state/faults.json and, to be read, in .state/faults.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VARIABLE = "RWP_FAULTS_LEDGER"
HEADINGS = ("fault", "times tried", "times survived", "data lost")


class Attempt:
    """One or more tries of a fault; `lost` is told what is gone, if anything is."""

    def __init__(self, tries: int) -> None:
        self.tries, self.lost_words = tries, ""

    def lost(self, words: str) -> None:
        """Name what is lost though the fault was survived, e.g. work since a checkpoint."""
        self.lost_words = words


@contextmanager
def attempt(fault: str, tries: int = 1) -> Iterator[Attempt]:
    """Count `tries` tries of `fault`; they are survived unless the block raises."""
    found = Attempt(tries)
    try:
        yield found
    except BaseException:
        _append(fault, found, survived=0)
        raise
    _append(fault, found, survived=found.tries)


def _append(fault: str, found: Attempt, *, survived: int) -> None:
    place = os.environ.get(VARIABLE)
    if place is None:
        return
    line = {"fault": fault, "tried": found.tries, "survived": survived, "lost": found.lost_words}
    with open(place, "a", encoding="utf-8") as stream:  # one short write: whole lines
        stream.write(json.dumps(line) + "\n")


def summary(ledger: Path) -> list[dict[str, Any]]:
    """One row per fault, in the order of their first try."""
    rows: dict[str, dict[str, Any]] = {}
    for line in ledger.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        row = rows.setdefault(
            entry["fault"], {"fault": entry["fault"], "tried": 0, "survived": 0, "lost": []}
        )
        row["tried"] += entry["tried"]
        row["survived"] += entry["survived"]
        if entry["lost"] and entry["lost"] not in row["lost"]:
            row["lost"].append(entry["lost"])
    return sorted(rows.values(), key=lambda row: row["fault"])


def cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """A row as people read it."""
    lost = "; ".join(row["lost"]) or "none"
    if row["survived"] < row["tried"]:
        lost = f"{row['tried'] - row['survived']} times not survived; {lost}"
    return row["fault"], str(row["tried"]), str(row["survived"]), lost


def text_table(rows: list[dict[str, Any]]) -> str:
    """For a terminal."""
    table = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(3)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), line[1].rjust(widths[1]), line[2].rjust(widths[2])])
        + f"  {line[3]}"
        for line in table
    )


def page(content: dict[str, Any]) -> str:
    """What a run of the faults leaves to be read: .state/faults.md."""
    rows = content["rows"]
    tried, survived = (sum(row[name] for row in rows) for name in ("tried", "survived"))
    lines = [
        "# What was tried",
        "",
        f"{tried} tries of {len(rows)} faults, {survived} survived, in {content['seconds']} s;"
        f" {content['selection']}.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|---|---:|---:|---|",
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"
