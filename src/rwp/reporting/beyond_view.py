"""The table beyond the paper as the report shows it: in groups, with what each row cost."""

from __future__ import annotations

from typing import Any

from rwp.reporting.averaging import STD
from rwp.reporting.beyond import FROM_TRAINING
from rwp.reporting.cells import COLUMN_LABELS
from rwp.reporting.costs import COSTS
from rwp.reporting.measurements import OK
from rwp.reporting.tables import Row, Table, records, records_by
from rwp.reporting.views import BROKEN, NO_NUMBER, Cell, cost_cell

_TRAINING_LABELS = {
    "best": "Best",
    "last": "Last",
    "best_on_test": "Best on test",
    "robust_overfitting_gap": "Gap",
}
_PLACE = ("dataset", "threat_model", "network")


def beyond_view(table: Table) -> dict[str, Any]:
    """Column labels, and per group its title, its place where rows share one, and its rows."""
    columns = [
        str(name)
        for name in table.frame
        if name not in ("group", "method", *_PLACE, *COSTS) and not str(name).endswith(STD)
    ]
    seeds = records_by(table.details, "group", "method")
    groups: dict[str, dict[str, Any]] = {}
    for row in records(table.frame):
        place = ", ".join(row[name] for name in _PLACE)
        group = groups.setdefault(row["group"], {"title": row["group"], "places": {}, "rows": []})
        group["places"][place] = None
        own = seeds[row["group"], row["method"]]
        cells = [_cell(row, name, own) for name in columns]
        group["rows"].append({"method": row["method"], "cells": cells, "cost": cost_cell(own)})
    for group in groups.values():
        group["place"] = "; ".join(group["places"])
    labels = [_TRAINING_LABELS.get(name) or COLUMN_LABELS.get(name, name) for name in columns]
    num_seeds = table.details["seed"].nunique()
    return {
        "columns": labels,
        "num_training": len(FROM_TRAINING),
        "num_seeds": num_seeds,
        "groups": list(groups.values()),
    }


def _cell(row: Row, name: str, seeds: list[Row]) -> Cell:
    """A mean with its deviation; where a seed has no number, why."""
    if row[name] is None:
        for seed in seeds:
            if seed["status"] != OK:
                return Cell(seed["status"], "broken" if seed["status"] in BROKEN else "missing")
        return Cell(NO_NUMBER, "missing")
    deviation = row.get(f"{name}{STD}")
    notes = () if deviation is None else (f"± {deviation:.2f}",)
    return Cell(f"{row[name]:.2f}", "", notes)
