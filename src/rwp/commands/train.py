"""`rwp train`: one run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import (
    DEFAULT_PARAMS,
    Fingerprint,
    ParamsFile,
    Resolved,
    SuiteName,
    find_run,
)


def train(
    suite: SuiteName = "demo",
    recipe: Annotated[str, typer.Option(help="Defense: at, at-awp, at-rwp, trades, ...")] = "at",
    dataset: Annotated[str | None, typer.Option(help="Data set; default: table 2's.")] = None,
    threat: Annotated[str | None, typer.Option(help="linf or l2; default: table 2's.")] = None,
    network: Annotated[str | None, typer.Option(help="Network; default: the suite's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.", min=0)] = 0,
    output: Annotated[Path | None, typer.Option(help="Another folder for the run.")] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            envvar="RWP_DETERMINISTIC",
            help="The same bits each time on a GPU too, for some speed; recorded in run.json.",
        ),
    ] = False,
    tracking: Annotated[bool, typer.Option(help="Log to MLflow.")] = True,
    resolved: Resolved = None,
    fingerprint: Fingerprint = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Train one network, or go on with a training that was stopped.

    Writes last.pt, best.pt, history.jsonl and run.json to the run's folder below results/.
    Fetch the data first: rwp data fetch NAME.
    """
    from rwp.config.load import load_params
    from rwp.config.specs import TrainSpec
    from rwp.config.trainings import train_spec
    from rwp.gpu import ask_for_determinism, claim
    from rwp.provenance.chain import training_fingerprint

    root = Path.cwd()
    if resolved is not None and fingerprint is not None:
        spec = TrainSpec.parse(resolved, where="--resolved")
    else:
        params = load_params(params_file)
        key = find_run(
            params, suite, recipe, dataset=dataset, threat=threat, network=network, seed=seed
        )
        spec = train_spec(params, key)
        fingerprint = training_fingerprint(spec, params)
    with claim() as device:
        if deterministic:
            ask_for_determinism()
        from rwp.tracking import Tracker
        from rwp.training.jobs import Interrupted, train_run
        from rwp.training.run_record import commit

        recorder = None
        if tracking:
            recorder = Tracker(spec, root=root, fingerprint=fingerprint, commit=commit())
        try:
            folder = train_run(
                spec,
                root=root,
                fingerprint=fingerprint,
                recorder=recorder,
                device=device,
                output=output,
            )
        except Interrupted:
            sys.stderr.write("stopped as asked; the same command goes on from here\n")
            raise typer.Exit(143) from None
    print(folder)
