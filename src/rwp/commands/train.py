"""`rwp train`: train one network."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwp.commands.common import (
    DEFAULT_PARAMS,
    Fingerprint,
    ParamsFile,
    Resolved,
    SuiteNamed,
    find_run,
    names_of,
    planned,
    refuse_stale,
)
from rwp.errors import OwnCodeError, UserError, in_one_line

if TYPE_CHECKING:
    from rwp.core.process_group import Group
    from rwp.pipeline.steps import Step
    from rwp.training.spec import RunKey, TrainSpec

_ADVICE = {
    "collapsed": "try more epochs, smaller batches, another learning rate or a smaller radius",
    "diverged": "try a lower learning rate",
}


def train(
    suite: SuiteNamed = None,
    recipe: Annotated[str, typer.Option(help="Defense." + names_of("recipes"))] = "at",
    dataset: Annotated[
        str | None, typer.Option(help="Data set; default: table 2's." + names_of("datasets"))
    ] = None,
    threat: Annotated[str | None, typer.Option(help="linf or l2; default: table 2's.")] = None,
    network: Annotated[
        str | None, typer.Option(help="Network; default: the suite's." + names_of("networks"))
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.", min=0)] = 0,
    output: Annotated[Path | None, typer.Option(help="Another folder for the run.")] = None,
    gpus: Annotated[int, typer.Option(help="GPUs for this one training.", min=1)] = 1,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            envvar="RWP_DETERMINISTIC",
            help="The same bits each time on a GPU too, for some speed; recorded in run.json.",
        ),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Train a run that is done once more.")
    ] = False,
    tracking: Annotated[bool, typer.Option(help="Log to MLflow.")] = True,
    resolved: Resolved = None,
    fingerprint: Fingerprint = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Train one network, or go on with a training that was stopped.

    Writes last.pt, best.pt, history.jsonl and run.json to the run's folder below results/.
    Fetch the data first: rwp data fetch NAME. Several GPUs hold a share of each batch each.
    """
    from rwp.gpu import ask_for_determinism
    from rwp.pipeline.load import load_params
    from rwp.pipeline.steps import Steps
    from rwp.training.spec import TrainSpec

    job = planned(TrainSpec, "train", resolved, fingerprint)
    if job is None:
        params = load_params(params_file)
        key = find_run(
            params, suite, recipe, dataset=dataset, threat=threat, network=network, seed=seed
        )
        step = Steps(params).train(key)
        job = step.settings_as(TrainSpec), step.fingerprint
        if not again and output is None and _is_done(step, key, deterministic=deterministic):
            return
        refuse_stale(step)
    if output is not None:
        _refuse_other_run(output, job[0].key)
    with _place(gpus) as (group, device):
        if deterministic:
            ask_for_determinism()
        _train(*job, group, device, output=output, tracking=tracking)


def _refuse_other_run(folder: Path, key: RunKey) -> None:
    """A run that lies in the folder named by --output is not replaced by another one.

    Raises:
        UserError: one does.
    """
    from rwp.files import read_object
    from rwp.training.spec import RunKey

    record = folder / "run.json"
    if not record.exists():
        return
    found = RunKey.parse(read_object(record).get("key"), where=str(record))
    if found != key:
        raise UserError(
            f"--output: expected a folder without another run, got {folder} with {found.name}; "
            "name another folder"
        )


def _is_done(step: Step, key: RunKey, *, deterministic: bool) -> bool:
    """Whether this very training has ended; then that is said, as all records are of it."""
    from rwp.processes import launched
    from rwp.reporting.runs import read_run_folder, why_run_stale

    folder = Path(key.directory)
    try:
        run = read_run_folder(folder)
        stale = why_run_stale(step, run, Path.cwd()) if run.finished else "it has not ended"
    except UserError:  # damaged: it is made again
        return False
    whole = all((folder / name).exists() for name in ("best.pt", "last.pt"))
    begun = (Path(".state") / key.name / step.fingerprint / "checkpoint.pt").exists()
    as_asked = bool(run.document.get("deterministic")) or not deterministic
    if stale or begun or not whole or not as_asked:
        return False
    if not launched() or os.environ["RANK"] == "0":  # of torchrun's processes one tells
        print(folder)
        sys.stderr.write("this run is done; --again trains it once more\n")
    return True


def _train(
    spec: TrainSpec,
    fingerprint: str,
    group: Group,
    device: str,
    *,
    output: Path | None,
    tracking: bool,
) -> None:
    """Train, or stop as a signal asks; of several processes the leading one tells."""
    from rwp.tracking import Tracker
    from rwp.training.jobs import Interrupted, train_run
    from rwp.training.run_record import commit

    root, recorder = Path.cwd(), None
    if tracking and group.leads:
        recorder = Tracker(spec, root=root, fingerprint=fingerprint, commit=commit())
    try:
        folder = train_run(
            spec,
            root=root,
            fingerprint=fingerprint,
            recorder=recorder,
            device=device,
            group=group,
            output=output,
        )
    except Interrupted:
        if group.leads:
            sys.stderr.write("stopped as asked; the same command goes on from here\n")
        raise typer.Exit(143) from None
    if group.leads:
        print(folder)
        if words := ending(folder):
            sys.stderr.write(words + "\n")


def ending(folder: Path) -> str:
    """Why a training was stopped before its last epoch, and what may help; or why its robustness
    may be none; "" if there is nothing to say."""
    from rwp.evaluation.alarms import blind_note
    from rwp.files import read_object

    record = read_object(folder / "run.json")
    advice = _ADVICE.get(record["status"])
    if advice is None:
        note = blind_note(record.get("best") or {}) or blind_note(record.get("last") or {})
        return f"warning: {note}; `rwp diagnose` looks closer" if note else ""
    return (
        f"stopped: {record['status']}: {record['reason']}; tables leave this training out; {advice}"
    )


@contextmanager
def _place(gpus: int) -> Iterator[tuple[Group, str]]:
    """Where to train: alone, or as one of the processes that torchrun or `--gpus` started."""
    from rwp.gpu import claim
    from rwp.processes import join, launch, launched

    if launched():
        with join() as (group, device), _one_voice(group):
            yield group, device
        return
    with claim(count=gpus) as device:
        if gpus > 1 and device == "cuda":
            raise typer.Exit(launch(gpus, sys.argv[1:]))
        from rwp.core.process_group import ALONE

        yield ALONE, device


@contextmanager
def _one_voice(group: Group) -> Iterator[None]:
    """Of several processes that stop for the same reason, one on each machine says it."""
    try:
        yield
    except UserError as error:
        if group.leads or os.environ.get("LOCAL_RANK") == "0":
            raise
        if isinstance(error, OwnCodeError):  # perhaps of this share of the batch alone
            sys.stderr.write(f"error: process {group.rank} of {group.size}: {error}\n")
        raise typer.Exit(2) from None
    except Exception as error:
        from rwp.core.process_group import has_lost_others

        if not has_lost_others(error):
            raise
        if group.leads:
            sys.stderr.write(f"error: {in_one_line(error, named=False)}\n")
        raise typer.Exit(1) from None
