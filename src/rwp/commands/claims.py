"""`rwp claims`: the paper's claims, judged by a suite's runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwp.commands.common import (
    DEFAULT_PARAMS,
    Gathered,
    ParamsFile,
    SuiteName,
    refuse_with_from,
)
from rwp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from rwp.pipeline.settings import Params


def claims(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="Only these, whose runs have to be there.")
    ] = None,
    suite: SuiteName = "demo",
    source: Gathered = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--claims",
            help="Other claims than claims.yaml, or than the folder's; nothing is written.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Only print them, write nothing.")] = False,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Say of each claim whether it holds, does not hold, or was not told, and what is missing.

    From gathered results it judges anew by their runs, and writes nothing.
    """
    from rwp.pipeline.load import load_params
    from rwp.reporting.claim_verdicts import write_claims
    from rwp.reporting.claims import FILE
    from rwp.reporting.gathered import opened

    if source is not None:
        refuse_with_from(context, "suite", "params_file")
        with opened(source) as place:
            worded, shown = file or place.root / FILE, str(file or source / FILE)
            _print(place.params, place.suite, place.root, worded, names or (), shown=shown)
        return
    params, root = load_params(params_file), Path.cwd()
    frame = _print(params, suite, root, file or Path(FILE), names or ())
    if not show and file is None:  # claims.csv is of the project's own claims
        print(write_claims(frame, suite, root=root))


def _print(
    params: Params, suite: str, root: Path, file: Path, names: Sequence[str], *, shown: str = ""
) -> pd.DataFrame:
    """Judge all claims, as Holm counts the page, and print those that are asked for.

    `shown` is where a person finds the file, if it is a gathered folder's.
    """
    from rwp.pipeline.lookup import choose
    from rwp.reporting.claim_verdicts import MISSING, OTHER_SUITE, judge_claims, numbers, sentence
    from rwp.reporting.claims import read_claims, unknown_names
    from rwp.reporting.results import records

    worded = read_claims(file)
    for name in names:
        choose(worded, name, "claim", str(file))
    asked = {name: claim for name, claim in worded.items() if name in (names or worded)}
    # A gathered folder has its own suite alone, where the names of others are no slips.
    for line in () if shown else unknown_names(params, asked):
        sys.stderr.write(f"note: {file}: {line}\n")
    frame = judge_claims(params, suite, worded, root=root)
    rows = [row for row in records(frame) if not names or row["claim"] in names]
    for row in rows if names else ():
        if row["outcome"] in (MISSING, OTHER_SUITE):
            raise UserError(
                f"{row['claim']}: expected its runs in the suite {suite}, got "
                f"{sentence(row)}; {'' if shown else 'build them, or '}ask for another claim"
            )
    for row in rows:
        found = numbers(row)
        print(f"{row['claim']}: {sentence(row)}{f' ({found})' if found else ''}")
    return frame
