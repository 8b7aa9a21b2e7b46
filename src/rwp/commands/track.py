"""`rwp track`: upload what MLflow lacks of the histories."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `sync` a word of its own."""


@app.command()
def sync(
    folder: Annotated[Path, typer.Argument(help="A run, or a folder above it.")] = Path("results"),
) -> None:
    """Upload epochs that MLflow lacks, e.g. after its server was away.

    MLflow shows what each run's history.jsonl holds.
    """
    from rwp.errors import UserError
    from rwp.reporting.runs import read_run_folder
    from rwp.tracking import Tracker
    from rwp.training.spec import TrainSpec

    records = sorted(folder.rglob("run.json"))
    if not records:
        raise UserError(f"{folder}: expected runs below it, found none; train one first")
    unreadable = 0
    for path in records:
        try:
            run = read_run_folder(path.parent)
            spec = TrainSpec.parse(run.document.get("spec"), where=str(path))
            if run.status == "inconsistent":
                raise UserError(f"{path}: {run.reason}; train this run again")
        except UserError as error:  # of another version, say; the others are not to wait for it
            unreadable += 1
            sys.stderr.write(f"error: {error}\n")
            continue
        fingerprint, commit = (str(run.document.get(name)) for name in ("fingerprint", "commit"))
        tracker = Tracker(spec, root=Path.cwd(), fingerprint=fingerprint, commit=commit)
        count = tracker.sync(run.history, str(run.document["status"]))
        print(f"{count:4d} epochs uploaded  {spec.key.name}")
    if unreadable:
        raise typer.Exit(2)
