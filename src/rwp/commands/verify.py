"""`rwp verify`: do the results on disk fit today's settings and code?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile
from rwp.errors import UserError

if TYPE_CHECKING:
    from rwp.pipeline.settings import Params
    from rwp.pipeline.steps import Steps


def verify(
    suite: Annotated[
        str | None, typer.Option(help="Only this suite; default: those of `build` in params.yaml.")
    ] = None,
    why: Annotated[
        Path | None,
        typer.Option(help="Say of this result what has changed since it was made."),
    ] = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Recompute every fingerprint and name the results that are stale; exit code 1 if any is.

    Needs neither Snakemake's nor DVC's memory. Results that are not built yet are counted only.
    """
    from rwp.pipeline.load import load_params
    from rwp.pipeline.state import changed_sources, incomplete_fetches, results
    from rwp.pipeline.steps import Steps, below

    if why is not None and suite is not None:
        raise UserError(
            f"--suite: expected none with --why, which looks at one result, got {suite}; leave one "
            "of them out"
        )
    params, root = load_params(params_file), Path.cwd()
    steps = Steps(params)
    if why is not None:
        _explain(params, steps, str(why), root)
        return
    suites = [suite] if suite is not None else params.build
    current, stale, missing = 0, [], 0
    needed = below(step for name in suites for step in steps.suite(name))
    stale += changed_sources(needed, root) + incomplete_fetches(needed, root)
    for result in results(needed):
        state = result.state(root)
        current, missing = current + (state == "done"), missing + (state == "to do")
        stale += [result.path] if state == "stale" else []
    for path in stale:
        print(f"stale: {path}")
    print(f"{current} results are up to date, {len(stale)} stale, {missing} not built")
    if stale:
        raise typer.Exit(1)


def _explain(params: Params, steps: Steps, path: str, root: Path) -> None:
    """Name the setting, file or code that has changed; exit code 1 if any has."""
    from rwp.files import read_object
    from rwp.pipeline.state import Result, changed_sources, incomplete_fetches, results
    from rwp.pipeline.why import reasons

    step = steps.find(path)
    for passport in incomplete_fetches([step], root):
        print(f"stale: {passport}")
        print("  the last fetch ended early: there are images, and no passport beside them")
        raise typer.Exit(1)
    if step.kind == "fetch" and changed_sources([step], root):
        place = step.outputs[-1]
        images = step.content and read_object(root / place).get("content") != step.content
        print(f"stale: {place}")
        print(f"  {'images in the folder' if images else 'settings or code of the fetch'}")
        raise typer.Exit(1)
    found = [Result(step, path)] if path in step.records else results([step])
    if not found:
        raise UserError(
            f"{path}: expected a file that a record lies beside (of a run, an attack, a verdict,"
            f" labels, a landscape), got a {step.kind}; `rwp verify` lists what it stands on"
        )
    states = {result.path: result.state(root) for result in found}
    for result in found:
        print(f"{states[result.path]}: {result.path}")
        if states[result.path] == "stale":
            for reason in reasons(params, result, root=root):
                print(f"  {reason}")
    if "stale" in states.values():
        raise typer.Exit(1)
