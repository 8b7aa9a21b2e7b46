"""`rwp compare-curve`: a training beside the published log of the same setting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PICTURE = "beside_published"


def compare_curve(
    run: Annotated[Path, typer.Argument(help="A run's folder: results/runs/.../seed0.")],
    setting: Annotated[
        str | None, typer.Option(help="A published log by name; default: the same setting.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help=f"Where the picture goes, without ending; default: RUN/{PICTURE}."),
    ] = None,
) -> None:
    """Name the first epoch in which a run leaves the band of the published curve, and draw both."""
    from rwp.reporting.drawing import curve_overlay, write_figure
    from rwp.reporting.published_curves import beside_published

    beside = beside_published(run, setting=setting)
    print(beside.text())
    for path in write_figure(curve_overlay(beside), beside.frame, output or run / PICTURE):
        print(path)
