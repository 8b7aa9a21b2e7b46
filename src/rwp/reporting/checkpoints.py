"""Records of other checkpoints than Table 2's, where someone asked for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwp.pipeline.settings import Params, get_suite
from rwp.reporting.cells import attack_columns, table2_rows
from rwp.reporting.measurements import OK, measurements
from rwp.reporting.runs import read_run

OTHERS = ("best_on_test", "last")


def other_checkpoints(
    params: Params, suite_name: str, *, root: Path | str = "."
) -> list[dict[str, Any]]:
    """One row per network of Table 2 and other checkpoint that has a record.

    `accuracies` are in percent, in the order of the attack columns; none where nothing was run.
    No table waits for these records; `snakemake RUN/evaluation/last/pgd-20.json` makes one.
    """
    attacks = list(attack_columns(get_suite(params, suite_name)))
    rows = []
    for defense, keys in table2_rows(params, suite_name):
        for key in keys:
            run = read_run(params, key, root=root)
            for checkpoint in OTHERS:
                found = measurements(params, key, run, attacks, root=root, checkpoint=checkpoint)
                if any(item.status == OK for item in found):
                    shares = [item.accuracy for item in found]
                    rows.append(
                        {
                            "defense": defense,
                            "checkpoint": checkpoint.replace("_", " "),
                            "seed": key.seed,
                            "accuracies": [
                                None if share is None else 100 * share for share in shares
                            ],
                        }
                    )
    return rows
