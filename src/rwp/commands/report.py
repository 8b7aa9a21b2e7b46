"""`rwp report`: one self-contained page with everything a suite has shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile, SuiteName


def report(
    suite: SuiteName = "demo",
    output: Annotated[Path | None, typer.Option(help="Another file for the page.")] = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Write report.html of a suite; what is not built yet is marked as missing."""
    from rwp.pipeline.load import load_params
    from rwp.reporting.claims import told
    from rwp.reporting.report import write_report
    from rwp.reporting.results import read_results

    params, root = load_params(params_file), Path.cwd()
    results, judged = read_results(params, suite, root=root), told(params, suite, root=root)
    print(write_report(results, judged=judged, path=output))
