"""`rwp table`: a table of the paper, from the files of runs and evaluations."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile, SuiteName, refuse_other_kind
from rwp.errors import UserError


class TableName(StrEnum):
    """The tables of the paper, the one that goes beyond it, and what DVC shows of the first two."""

    table1 = "table1"
    table2 = "table2"
    beyond = "beyond"
    metrics = "metrics"


def table(
    name: Annotated[TableName, typer.Argument(help="Which table.")] = TableName.table2,
    suite: SuiteName = "demo",
    show: Annotated[bool, typer.Option("--show", help="Only print it, write nothing.")] = False,
    output: Annotated[Path | None, typer.Option(help="Another file, for the table alone.")] = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Write a table as CSV, its details beside it, and print it; what is not built stays empty.

    With Table 2 goes comparisons.csv: its defenses in pairs, on the same images. Metrics are both
    tables in short, results/metrics/SUITE.json and results/plots/SUITE.csv, for `dvc metrics` and
    `dvc plots`.
    """
    from rich.console import Console

    from rwp.pipeline.load import load_params
    from rwp.reporting import tables
    from rwp.reporting.pairs import write_pairs
    from rwp.reporting.results import read_results
    from rwp.reporting.summaries import terminal_table, write_metrics

    if output is not None and (show or name is TableName.metrics):
        other = "--show, which writes nothing" if show else "metrics, whose places are fixed"
        raise UserError(f"--output: expected none with {other}, got {output}; leave it out")
    if show and name is TableName.metrics:
        raise UserError(
            "--show: expected a table, got metrics, which are files for DVC; `dvc metrics show`"
            " prints them"
        )
    refuse_other_kind(output, ".csv")
    params = load_params(params_file)
    if name is TableName.metrics:
        both = (TableName.table1.value, TableName.table2.value)
        for path in write_metrics(read_results(params, suite, root=Path.cwd(), parts=both)):
            print(path)
        return
    results = read_results(params, suite, root=Path.cwd(), parts=[name.value])
    build = {
        TableName.table1: tables.table1,
        TableName.table2: tables.table2,
        TableName.beyond: tables.beyond,
    }[name]
    title = f"{name.value}, suite {suite}: accuracy in percent"
    result = build(results)
    console = Console()
    console.print(terminal_table(result, title=title, width=console.width))
    if output is not None:
        tables.write_frame(output, result.frame)
        print(output)
    elif not show:
        for path in tables.write_table(result, results.folder, name.value):
            print(path)
        if name is TableName.table2:
            print(write_pairs(results))
