"""`rwp verify`: do the results on disk stand on today's settings and code?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile


def verify(
    suite: Annotated[
        str | None, typer.Option(help="Only this suite; default: those built.")
    ] = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Recompute every fingerprint and name the results that are stale; exit code 1 if any is.

    Needs neither Snakemake's nor DVC's memory. Results that are not built yet are counted only.
    """
    from rwp.pipeline.load import load_params
    from rwp.pipeline.state import results
    from rwp.pipeline.steps import Steps, below

    params, root = load_params(params_file), Path.cwd()
    steps = Steps(params)
    reports = [steps.report(name) for name in ([suite] if suite else params.build)]
    current, stale, missing = 0, [], 0
    for result in results(below(reports)):
        state = result.state(root)
        current, missing = current + (state == "done"), missing + (state == "to do")
        stale += [result.path] if state == "stale" else []
    for path in stale:
        print(f"stale: {path}")
    print(f"{current} results are up to date, {len(stale)} stale, {missing} not built")
    if stale:
        raise typer.Exit(1)
