"""`rwp rates`: what a GPU was measured to do, into rates and docs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def rates(
    archive: Annotated[Path, typer.Argument(help="bench-gpu.tar.gz, as make bench-gpu wrote it.")],
    output: Annotated[
        Path | None, typer.Option(help="A file of rates; default: those that `rwp plan` reads.")
    ] = None,
    docs: Annotated[
        Path | None, typer.Option(help="A page that gets the tables, such as docs/benchmarks.md.")
    ] = None,
) -> None:
    """Read the archive of make bench-gpu: rates for `rwp plan`, tables to print or for a page."""
    from rwp.reporting.gpu_bench import (
        document,
        merge_document,
        merge_rates,
        rate_rows,
        read_archive,
    )
    from rwp.reporting.rates import SHIPPED

    content = read_archive(archive)
    rows = rate_rows(content)
    target = output or SHIPPED
    if rows:
        merge_rates(target, rows)
        print(f"{target}: {len(rows)} networks on {content['device']}")
    if docs is None:
        print(document(content))
    else:
        merge_document(docs, content)
        print(docs)
