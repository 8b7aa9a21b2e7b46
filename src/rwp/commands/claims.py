"""`rwp claims`: the paper's claims, judged by a suite's runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile, SuiteName


def claims(
    suite: SuiteName = "demo",
    file: Annotated[Path, typer.Option("--claims", help="The claims.")] = Path("claims.yaml"),
    show: Annotated[bool, typer.Option("--show", help="Only print them, write nothing.")] = False,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Say of each claim whether it holds, does not hold, or was not told, and what is missing."""
    from rwp.pipeline.load import load_params
    from rwp.reporting import claims as judge

    params, root = load_params(params_file), Path.cwd()
    frame = judge.claims(params, suite, judge.read_claims(file), root=root)
    for row in judge.rows_of(frame):
        numbers = judge.numbers(row)
        print(f"{row['claim']}: {judge.sentence(row)}{f' ({numbers})' if numbers else ''}")
    if not show:
        print(judge.write_claims(frame, suite, root=root))
