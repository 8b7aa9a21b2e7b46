"""`rwp gather`: a suite's results without weights, to commit and to read elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile, SuiteName


def gather(
    suite: SuiteName = "demo",
    output: Annotated[
        Path | None, typer.Option(help="The folder to fill; default: docs/results/SUITE.")
    ] = None,
    networks: Annotated[
        bool, typer.Option(help="With best and last of Table 1's recipes, of one seed.")
    ] = True,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Copy what is there of a suite, finished or not: histories, records, tables, figures, claims.

    `rwp report --from FOLDER` builds the report of it without data, trainings or state.
    """
    from rwp.reporting.gathered import gather as collect
    from rwp.studies import read_settings

    target = output or Path("docs/results") / suite
    found = collect(
        read_settings(params_file), suite, root=Path.cwd(), target=target, networks=networks
    )
    for reason in found.left_out:
        print(f"left out: {reason}")
    print(f"{len(found.runs)} runs, {len(found.networks)} networks: {target}")
