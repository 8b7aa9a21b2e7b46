"""`rwp landscape`: the loss around a run's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import (
    DEFAULT_PARAMS,
    Fingerprint,
    ParamsFile,
    Resolved,
    SuiteName,
    planned,
    refuse_stale,
    refuse_to_replace,
)


def landscape(
    figure: Annotated[
        str, typer.Argument(help="A landscape among the suite's figures in params.yaml.")
    ] = "fig2",
    suite: SuiteName = "demo",
    output: Annotated[Path | None, typer.Option(help="Another CSV file for the losses.")] = None,
    resolved: Resolved = None,
    fingerprint: Fingerprint = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Measure the loss of attacked training images at weights moved along random directions.

    The run must have kept its checkpoints: train it after the figure stands in params.yaml.
    """
    from rwp.errors import UserError
    from rwp.evaluation.spec import LandscapeSpec
    from rwp.gpu import claim
    from rwp.pipeline.load import load_params
    from rwp.pipeline.lookup import choose, get_suite
    from rwp.pipeline.steps import Steps

    refuse_to_replace(output, ".csv", "rwp.landscape/1")
    job = planned(LandscapeSpec, "landscape", resolved, fingerprint)
    if job is None:
        params = load_params(params_file)
        figures = get_suite(params, suite).figures
        around = {name: one for name, one in figures.items() if one.kind == "landscape"}
        if figure in figures and figure not in around:
            kind = figures[figure].kind
            raise UserError(f"{figure}: expected a landscape, got {kind}; see `rwp figure`")
        choose(around, figure, "landscape", f"params.yaml: suites.{suite}.figures")
        step = Steps(params).landscape(suite, figure)
        refuse_stale(step)
        job = step.settings_as(LandscapeSpec), step.fingerprint
    spec, fingerprint = job
    root = Path.cwd()
    with claim() as device:
        from rwp.evaluation.landscape import measure_landscape

        path = measure_landscape(
            spec,
            root=root,
            fingerprint=fingerprint,
            output=output or root / spec.result(figure),
            device=device,
        )
    print(path)
