"""`rwp plan`: what a target would run, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile
from rwp.errors import UserError

ANY_DEVICE = ""


class PlanCommand(TyperCommand):
    """`--device` may stand without a name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Fill in the name that is missing, at the end or before the next option."""
        for place, word in enumerate(args):
            if word == "--device" and (place + 1 == len(args) or args[place + 1].startswith("--")):
                args = [*args[:place], f"--device={ANY_DEVICE}", *args[place + 1 :]]
        return super().parse_args(ctx, args)


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
        typer.Option(
            help="Give hours on this device, by its name or a part of it; without a name, list the"
            " devices that are known."
        ),
    ] = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
    detail: Annotated[
        bool, typer.Option("--detail", help="One line per result, with what it costs.")
    ] = False,
) -> None:
    """Say what targets need: results done, stale and to do, passes, and hours on a device.

    Nothing is started; a factory of your own is tried once on a tiny batch. Hours come from rates
    that were measured: by finished trainings of this project on that device, or by the benchmarks
    that ship with it. Those of a GPU that was never measured are estimated from its published
    peak, and are called so.
    """
    from rwp.pipeline.load import load_params
    from rwp.pipeline.own_trials import try_factories
    from rwp.pipeline.state import results
    from rwp.pipeline.steps import Steps, below
    from rwp.reporting.plan import detail_line, plan_jobs, plan_lines
    from rwp.reporting.rates import all_rates, device_lines

    if device == ANY_DEVICE and (targets or suite is not None or detail):
        raise UserError(
            "--device: expected a name beside targets, --suite and --detail, got none, which lists "
            "the devices alone; name one, or leave these out"
        )
    params, root = load_params(params_file), Path.cwd()
    if device == ANY_DEVICE:
        for line in device_lines(all_rates(params, root)):
            print(line)
        return
    suites = [suite] if suite is not None else [] if targets else list(params.build)
    graph = Steps(params)
    steps = [graph.find(target) for target in targets or ()]
    steps += [step for name in suites for step in graph.suite(name)]
    needed = list(below(steps))
    try_factories(needed)
    jobs, origin = plan_jobs(params, results(needed), root=root, device=device)
    if detail:
        for job in jobs:
            print(detail_line(job))
    for line in plan_lines(jobs, device=device, origin=origin):
        print(line)
