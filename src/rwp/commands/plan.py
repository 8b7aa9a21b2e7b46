"""`rwp plan`: what a target would run, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile


def plan(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files that the workflow makes, such as results/table2.csv; default: all of the"
            " suites that params.yaml builds."
        ),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="All of this suite, besides targets.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Give hours on this device, by its name or a part of it."),
    ] = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
    detail: Annotated[bool, typer.Option("--detail", help="One line per result.")] = False,
) -> None:
    """Say what targets need: results done, stale and to do, passes, and hours on a device.

    Nothing is started. Hours come from rates that were measured: by finished trainings of this
    project on that device, or by the benchmarks that ship with it. Without a rate there are none.
    """
    from rwp.pipeline.load import load_params
    from rwp.pipeline.state import results
    from rwp.pipeline.steps import Steps, below
    from rwp.reporting.costs import plan_jobs, plan_lines

    params, root = load_params(params_file), Path.cwd()
    suites = [suite] if suite else [] if targets else list(params.build)
    graph = Steps(params)
    steps = [graph.find(target) for target in targets or ()]
    steps += [graph.report(name) for name in suites]
    jobs, origin = plan_jobs(params, results(below(steps)), root=root, device=device)
    if detail:
        for job in jobs:
            print(f"{job.state:>6}  {job.result.path}")
    for line in plan_lines(jobs, device=device, origin=origin):
        print(line)
