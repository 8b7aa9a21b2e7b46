"""`rwp compare`: a recipe of one's own against gathered results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile, SuiteName, names_of


def compare(
    recipe: Annotated[str, typer.Argument(help="Which recipe." + names_of("recipes"))],
    baselines: Annotated[
        Path, typer.Option("--with", help="Gathered results, such as docs/results/mini-jpeg.")
    ],
    suite: SuiteName = "demo",
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Compare a recipe with gathered AT, AWP and RWP, image by image and seed by seed.

    Of the gathered ones nothing is trained or attacked again.
    """
    from rwp.pipeline.load import load_params
    from rwp.reporting.against import against, sentences, trained_otherwise, write_against

    params = load_params(params_file)
    frame, left_out = against(params, suite, recipe, baselines, root=Path.cwd())
    for line in sentences(frame):
        print(line)
    for line in (*left_out, *trained_otherwise(params, suite, recipe, baselines)):
        print(f"note: {line}")
    print(write_against(frame, suite, recipe, root=Path.cwd()))
