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
    from rwp.pipeline.lookup import choose, get_suite
    from rwp.reporting.figures import write_suite_figure
    from rwp.reporting.results import read_results

    params = load_params(params_file)
    choose(get_suite(params, suite).figures, name, "figure", f"suites.{suite}.figures")
    results = read_results(params, suite, root=Path.cwd(), parts=[name])
    for path in write_suite_figure(results, name):
        print(path)
