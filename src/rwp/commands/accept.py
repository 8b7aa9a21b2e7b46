"""`rwp accept`: a change of code that moves no number makes nothing stale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile


def accept(
    step: Annotated[
        str,
        typer.Argument(help="A kind of step (train, evaluate, ...), or a file: all it stands on."),
    ],
    because: Annotated[str, typer.Option(help="Why no number changes, for the ledger.")],
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Repeat a stale step in little with old and new code; where every bit agrees, accept the new.

    The old code comes from git. What is accepted is noted in accepted.jsonl, to be committed; from
    then on Snakemake, DVC, `rwp verify`, the report and stopped trainings take old results for
    today's. Where a bit differs nothing is accepted. Of results of several older codes those of one
    can count: the one that made the named file, or else most of them.
    """
    from rwp.pipeline.accept import accept as accept_step
    from rwp.pipeline.load import load_params

    params = load_params(params_file)
    entries, told = accept_step(params, step, because=because, root=Path.cwd())
    for entry in entries:
        print(f"{entry['module']} ({entry['step']}): computes what it did at {entry['commit']}")
    print("noted in accepted.jsonl, which belongs into git", *told, sep="\n")
