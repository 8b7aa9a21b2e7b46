"""`rwp track`: MLflow's copy of the histories."""

from __future__ import annotations

import json
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

    The history.jsonl of each run is the truth; MLflow is its mirror.
    """
    from rwp.config.specs import TrainSpec
    from rwp.errors import UserError
    from rwp.files import read_json
    from rwp.tracking import Tracker

    records = sorted(folder.rglob("run.json"))
    if not records:
        raise UserError(f"{folder}: expected runs below it, found none; train one first")
    for path in records:
        record = read_json(path)
        spec = TrainSpec.parse(record.get("spec"), where=str(path))
        tracker = Tracker(
            spec, root=Path.cwd(), fingerprint=record["fingerprint"], commit=record["commit"]
        )
        history = path.with_name("history.jsonl").read_text(encoding="utf-8").splitlines()
        count = tracker.sync([json.loads(line) for line in history], record["status"])
        print(f"{count:4d} epochs uploaded  {spec.key.name}")
