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
    from rwp.reporting.suite_figures import write_suite_figure

    params = load_params(params_file)
    for path in write_suite_figure(params, suite, name, root=Path.cwd()):
        print(path)
