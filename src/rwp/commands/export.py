"""`rwp export`: a network as an entry of a leaderboard elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run's best.pt, evaluated by AutoAttack.")],
    name: Annotated[str, typer.Option(help="The entry's name, e.g. Yu2022RobustWeight.")],
    output: Annotated[Path, typer.Option(help="Folder for the files.")],
    title: Annotated[str, typer.Option(help="Title of the paper.")] = "",
    authors: Annotated[str, typer.Option(help="Its authors.")] = "",
    link: Annotated[str, typer.Option(help="Its address.")] = "",
    venue: Annotated[str, typer.Option(help="Where it appeared.")] = "",
    additional_data: Annotated[
        bool | None,
        typer.Option(help="Trained with images of other data sets; as its run.json says."),
    ] = None,
) -> None:
    """Write a network as a RobustBench entry: weights, class, model_info and AutoAttack log."""
    from rwp.errors import UserError
    from rwp.evaluation.export import Submission, export_robustbench
    from rwp.evaluation.records import read_record
    from rwp.evaluation.spec import record_path

    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: expected a run's best.pt, found no file; check the path")
    record = record_path(checkpoint.parent, checkpoint.stem, "autoattack")
    submission = Submission(
        name=name,
        title=title,
        authors=authors,
        link=link,
        venue=venue,
        additional_data=additional_data,
    )
    for path in export_robustbench(checkpoint, read_record(record), submission, folder=output):
        print(path)
