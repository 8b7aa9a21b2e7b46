"""`rwp figure`: a figure of the paper, as data and picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile, SuiteName


def figure(
    name: Annotated[str, typer.Argument(help="One of the suite's figures: fig1a, fig2, ...")],
    suite: SuiteName = "demo",
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Draw a figure from what is there: NAME.csv (its data), NAME.svg and NAME.png."""
    from rwp.pipeline.load import load_params
    from rwp.reporting.figures import write_suite_figure
    from rwp.reporting.results import read_results

    results = read_results(load_params(params_file), suite, root=Path.cwd(), parts=[name])
    for path in write_suite_figure(results, name):
        print(path)
