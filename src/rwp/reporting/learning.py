"""Tidy frames of the learning curves and costs that trainings wrote down themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rwp.pipeline.settings import Params, get_suite
from rwp.reporting.cells import method_label, table1_rows
from rwp.reporting.runs import read_run
from rwp.training.spec import RunKey

SPLITS = {
    "test": "test_robust_accuracy",
    "held-out": "held_out_robust_accuracy",
    "train": "train_robust_accuracy",
}


def curve_frame(
    params: Params, keys: Sequence[RunKey], *, root: Path | str, splits: Sequence[str]
) -> pd.DataFrame:
    """method, split, seed, epoch (from 0), accuracy (percent) of all epochs done so far.

    A run whose numbers no longer fit its settings is left out.
    """
    rows: list[dict[str, Any]] = []
    for key in keys:
        run = read_run(params, key, root=root)
        if run.status in ("stale", "inconsistent"):
            continue
        rows += [
            {
                "method": method_label(key.recipe),
                "split": split,
                "seed": key.seed,
                "epoch": row["epoch"],
                "accuracy": 100 * row[SPLITS[split]],
            }
            for row in run.history
            for split in splits
            if SPLITS[split] in row
        ]
    return pd.DataFrame(rows, columns=["method", "split", "seed", "epoch", "accuracy"])


def table1_curve_keys(
    params: Params,
    suite_name: str,
    *,
    threat: str | None = None,
    dataset: str | None = None,
    recipes: Sequence[str] | None = None,
) -> list[RunKey]:
    """The runs of Table 1 under one threat model on one data set.

    Those named; otherwise Table 2's data set where Table 1 has it, else the last one.
    """
    suite = get_suite(params, suite_name)
    threats, datasets = suite.table1.threat_models, suite.table1.datasets
    threat = threat or threats[0]
    usual = suite.table2.dataset
    dataset = dataset or (usual if usual in datasets else datasets[-1])
    return [
        key
        for _, keys in table1_rows(params, suite_name)
        for key in keys
        if (key.threat, key.dataset) == (threat, dataset)
        and (recipes is None or key.recipe in recipes)
    ]
