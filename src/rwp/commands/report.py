"""`rwp report`: one self-contained page with all results of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import (
    DEFAULT_PARAMS,
    Gathered,
    ParamsFile,
    SuiteName,
    refuse_other_kind,
    refuse_with_from,
)


def report(
    context: typer.Context,
    suite: SuiteName = "demo",
    output: Annotated[Path | None, typer.Option(help="Another file for the page.")] = None,
    source: Gathered = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Write report.html of a suite; what is not built yet is marked as missing.

    From gathered results it needs no data, trainings or state, and no settings but theirs.
    """
    from rwp.pipeline.load import load_params
    from rwp.reporting.claim_verdicts import told
    from rwp.reporting.report import write_report
    from rwp.reporting.results import read_results

    refuse_other_kind(output, ".html")
    if source is not None:
        from rwp.reporting.gathered import opened

        refuse_with_from(context, "suite", "params_file")
        with opened(source) as place:
            found = read_results(place.params, place.suite, root=place.root)
            judged = told(place.params, place.suite, root=place.root)
            print(write_report(found, judged=judged, path=output or source / "report.html"))
        return
    params, root = load_params(params_file), Path.cwd()
    results, judged = read_results(params, suite, root=root), told(params, suite, root=root)
    print(write_report(results, judged=judged, path=output))
