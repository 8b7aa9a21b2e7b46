"""`rwp claims`: the paper's claims, judged by a suite's runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile, SuiteName
from rwp.errors import UserError


def claims(
    names: Annotated[
        list[str] | None, typer.Argument(help="Only these, whose runs have to be there.")
    ] = None,
    suite: SuiteName = "demo",
    file: Annotated[Path, typer.Option("--claims", help="The claims.")] = Path("claims.yaml"),
    show: Annotated[bool, typer.Option("--show", help="Only print them, write nothing.")] = False,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Say of each claim whether it holds, does not hold, or was not told, and what is missing."""
    from rwp.pipeline.load import load_params
    from rwp.pipeline.resolve import choose
    from rwp.reporting.claim_verdicts import (
        ELSEWHERE,
        MISSING,
        judge_claims,
        numbers,
        sentence,
        write_claims,
    )
    from rwp.reporting.claims import read_claims, unknown_names
    from rwp.reporting.results import records

    params, root = load_params(params_file), Path.cwd()
    worded = read_claims(file)
    for line in unknown_names(params, worded):
        sys.stderr.write(f"note: {file}: {line}\n")
    for name in names or ():
        choose(worded, name, "claim", str(file))
    frame = judge_claims(params, suite, worded, root=root)  # all: Holm counts the page
    rows = [row for row in records(frame) if not names or row["claim"] in names]
    for row in rows if names else ():
        if row["outcome"] in (MISSING, ELSEWHERE):
            raise UserError(
                f"{row['claim']}: expected its runs in the suite {suite}, got "
                f"{sentence(row)}; build them, or ask for another claim or --suite"
            )
    for row in rows:
        found = numbers(row)
        print(f"{row['claim']}: {sentence(row)}{f' ({found})' if found else ''}")
    if not show:
        print(write_claims(frame, suite, root=root))
