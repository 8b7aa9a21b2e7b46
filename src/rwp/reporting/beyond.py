"""The table `beyond`: rivals and variants that the paper does not have, with what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from rwp.config.figures import beyond_rows
from rwp.config.schema import Params
from rwp.config.specs import RunKey
from rwp.config.tables import get_suite
from rwp.errors import UserError
from rwp.reporting.cells import PAPER_COLUMNS, method_label
from rwp.reporting.measurements import OK, measure
from rwp.reporting.runs import read_run
from rwp.reporting.tables import Table, run_numbers

FROM_TRAINING = ("best", "last", "best_on_test", "robust_overfitting_gap")
COSTS = ("forward_passes", "backward_passes", "hours")


def beyond(params: Params, suite_name: str, *, root: Path | str = ".") -> Table:
    """Per row: robust accuracy while training, the attacks on the best network, and the cost.

    A cell is the mean over the suite's seeds and stays empty until each has a number.

    Raises:
        UserError: the suite has no such table.
    """
    entry = get_suite(params, suite_name).beyond
    if entry is None:
        raise UserError(
            f"params.yaml: suites.{suite_name}.beyond: expected groups of rows, got none; add some"
        )
    columns = [PAPER_COLUMNS.get(name, name) for name in entry.attacks]
    rows, details = [], []
    for group, recipe, keys in beyond_rows(params, suite_name):
        seeds = [_detail(params, key, entry.attacks, root) for key in keys]
        labels = {
            "group": group,
            "method": method_label(recipe),
            "dataset": keys[0].dataset,
            "threat_model": keys[0].threat,
            "network": keys[0].network,
        }
        details += [labels | seed for seed in seeds]
        frame = pd.DataFrame(seeds)
        means = {name: _mean(frame[name]) for name in (*FROM_TRAINING, *columns, *COSTS)}
        rows.append(labels | means)
    return Table(pd.DataFrame(rows), pd.DataFrame(details))


def _detail(
    params: Params, key: RunKey, attacks: tuple[str, ...], root: Path | str
) -> dict[str, Any]:
    run = read_run(params, key, root=root)
    numbers = run_numbers(run)
    found = [measure(params, key, run, name, root=root, checkpoint="best") for name in attacks]
    gaps = [(item.status, item.reason) for item in found if item.status != OK]
    status, reason = (run.status, run.reason) if not run.finished else (gaps or [(OK, "")])[0]
    passes = run.document.get("passes") or {}
    seconds = run.document.get("seconds")
    return {
        "seed": key.seed,
        "status": status,
        "reason": reason,
        **{name: numbers.get(name) for name in FROM_TRAINING},
        **{
            PAPER_COLUMNS.get(item.attack, item.attack): (
                None if item.accuracy is None else 100 * item.accuracy
            )
            for item in found
        },
        "forward_passes": passes.get("forward"),
        "backward_passes": passes.get("backward"),
        "hours": None if seconds is None else seconds / 3600,
        "run": run.name,
        "fingerprint": run.document.get("fingerprint"),
    }


def _mean(values: pd.Series) -> float:
    """The mean over all seeds; none as long as one of them has no number."""
    return float(values.astype(float).mean(skipna=False))
