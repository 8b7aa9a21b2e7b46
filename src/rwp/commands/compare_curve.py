"""`rwp compare-curve`: a training beside the published log of the same setting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare_curve(
    run: Annotated[Path, typer.Argument(help="A run's folder: results/runs/.../seed0.")],
    setting: Annotated[
        str | None, typer.Option(help="A published log by name; default: the same setting.")
    ] = None,
) -> None:
    """Name the first epoch in which a run leaves the band of the published curve."""
    from rwp.reporting.curves import compare_curve as compare

    print(compare(run, setting=setting).text())
