"""`rwp plan`: what a target would run, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile, SuiteName

KINDS = {"run.json": "training", "diagnosis.json": "verdict"}


def plan(
    suite: SuiteName = "demo",
    params_file: ParamsFile = DEFAULT_PARAMS,
    detail: Annotated[bool, typer.Option("--detail", help="One line per result.")] = False,
) -> None:
    """Say how many trainings, records and verdicts of a suite are done, stale or to do."""
    from rwp.commands.verify import expected_fingerprints
    from rwp.config.load import load_params
    from rwp.files import read_json

    params, root = load_params(params_file), Path.cwd()
    counts: dict[tuple[str, str], int] = {}
    for path, fingerprint in dict(expected_fingerprints(params, suite)).items():
        kind = KINDS.get(path.rpartition("/")[2], "record")
        state = "to do"
        if (root / path).exists():
            state = "done" if read_json(root / path).get("fingerprint") == fingerprint else "stale"
        counts[kind, state] = counts.get((kind, state), 0) + 1
        if detail:
            print(f"{state:>6}  {path}")
    for (kind, state), count in sorted(counts.items()):
        print(f"{count:4d} {kind}{'s' if count != 1 else ''} {state}")
