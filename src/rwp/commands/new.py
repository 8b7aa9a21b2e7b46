"""`rwp new`: a study of one's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile


def new(
    name: Annotated[str, typer.Argument(help="Of the study; it becomes results/NAME.")],
    images: Annotated[
        Path | None,
        typer.Option(help="A folder or archive: train/<class>/*.png and test/<class>/*.png."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Instead: a data set of params.yaml, fetched before.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=8,
            help="Resize to so many pixels; several sizes become 32, or fewer where one has fewer.",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="A network of params.yaml, or package.module:factory of your own."),
    ] = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Write studies/NAME.yaml: data set, threat model, network, recipes, attacks, in 40 lines.

    Mean and std are computed, attacks are those that the number of classes allows, c_min is 74 %
    of log(classes). All of it is yours to change; Snakemake, DVC and `rwp` read the file.
    """
    from rwp.errors import UserError
    from rwp.pipeline.new_study import write_study
    from rwp.spec import is_name
    from rwp.strict_yaml import parse_yaml

    if not is_name(name):
        raise UserError(
            f"NAME: expected lower-case letters, digits, '.', '_' and '-', got {name!r}; rename it"
        )
    try:
        is_text = isinstance(parse_yaml(name, where="NAME"), str)
    except UserError:  # 010, 2026-13-45, no
        is_text = False
    if not is_text:
        raise UserError(f"NAME: expected a name that YAML reads as a text, got {name}; add letters")
    path = write_study(
        name, images=images, dataset=dataset, size=size, network=network, params_file=params_file
    )
    print(path)
    print(f"next: snakemake --cores 2 results/{name}/table2.csv")
    print(f"how long it takes: rwp plan results/{name}/table2.csv")
