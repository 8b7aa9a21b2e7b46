"""The table `beyond`: rivals and variants that the paper does not have, with what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from rwp.errors import UserError
from rwp.pipeline.settings import Params, get_suite
from rwp.pipeline.suites import beyond_rows
from rwp.reporting.averaging import average_rows, averaged, numeric
from rwp.reporting.cells import PAPER_COLUMNS, recipe_label
from rwp.reporting.costs import COSTS, run_costs
from rwp.reporting.measurements import OK, measurements
from rwp.reporting.runs import read_run
from rwp.reporting.tables import PASSES, Table, run_numbers
from rwp.training.spec import RunKey

FROM_TRAINING = ("best", "last", "best_on_test", "robust_overfitting_gap")
LABELS = ("group", "method", "dataset", "threat_model", "network")


def beyond(params: Params, suite_name: str, *, root: Path | str = ".") -> Table:
    """Per row: robust accuracy while training, the attacks on the best network, and the cost.

    A cell is the mean over the suite's seeds and stays empty until each has a number; with
    several seeds, their standard deviation stands beside it, but for costs.

    Raises:
        UserError: the suite has no such table.
    """
    suite = get_suite(params, suite_name)
    entry = suite.beyond
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
            "method": recipe_label(suite, recipe),
            "dataset": keys[0].dataset,
            "threat_model": keys[0].threat,
            "network": keys[0].network,
        }
        details += [labels | seed for seed in seeds]
        means = average_rows(seeds, (*FROM_TRAINING, *columns))
        costs = {name: averaged({name: [row[name] for row in seeds]})[name] for name in COSTS}
        rows.append(labels | means | costs)
    return Table(
        numeric(rows, LABELS), pd.DataFrame(details).astype(dict.fromkeys(PASSES, "Int64"))
    )


def _detail(
    params: Params, key: RunKey, attacks: tuple[str, ...], root: Path | str
) -> dict[str, Any]:
    run = read_run(params, key, root=root)
    numbers = run_numbers(run)
    found = measurements(params, key, run, attacks, root=root, checkpoint="best")
    gaps = [(item.status, item.reason) for item in found if item.status != OK]
    status, reason = (run.status, run.reason) if not run.finished else (gaps or [(OK, "")])[0]
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
        **run_costs(run),
        "run": run.name,
        "commit": run.document.get("commit"),
        "fingerprint": run.document.get("fingerprint"),
        "evaluation_seconds": sum(item.record.seconds for item in found if item.record),
        "records": " ".join(item.path for item in found),
    }
