"""`rwp figure`: a figure of the paper, as data and picture."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile, SuiteName


class FigureName(StrEnum):
    """Figures that this version draws."""

    fig1b = "fig1b"
    fig3c = "fig3c"


def figure(
    name: Annotated[
        FigureName, typer.Argument(help="fig1b: AT, train and test; fig3c: AT, AWP, RWP.")
    ],
    suite: SuiteName = "demo",
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Draw learning curves of a suite's trainings: NAME.csv, NAME.svg and NAME.png."""
    from rwp.config.load import load_params
    from rwp.reporting.learning import write_learning_curves

    params = load_params(params_file)
    recipes, splits = {
        FigureName.fig1b: (("at",), ("test", "train")),
        FigureName.fig3c: (None, ("test", "held-out")),
    }[name]
    paths = write_learning_curves(
        params, suite, name.value, root=Path.cwd(), recipes=recipes, splits=splits
    )
    for path in paths:
        print(path)
