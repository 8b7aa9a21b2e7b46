"""`rwp pseudo-label`: labels for RST's unlabeled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import (
    DEFAULT_PARAMS,
    Fingerprint,
    ParamsFile,
    Resolved,
    SuiteNamed,
    find_run,
    planned,
    refuse_stale,
    refuse_to_replace,
)
from rwp.errors import UserError
from rwp.files import read_object


def pseudo_label(
    suite: SuiteNamed = None,
    recipe: Annotated[str, typer.Option(help="The recipe that will use the labels.")] = "rst",
    dataset: Annotated[str | None, typer.Option(help="Data set; default: table 2's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the teacher's run.", min=0)] = 0,
    output: Annotated[Path | None, typer.Option(help="Another file for the labels.")] = None,
    resolved: Resolved = None,
    fingerprint: Fingerprint = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Let the naturally trained teacher label the unlabeled images.

    Needs the teacher (rwp train --recipe natural) and the images (rwp data fetch NAME).
    Prints the teacher's test accuracy and, where the source ships labels, the agreement.
    """
    from rwp.gpu import claim
    from rwp.pipeline.load import load_params
    from rwp.pipeline.steps import Steps
    from rwp.training.spec import PseudoLabelSpec, TrainSpec

    refuse_to_replace(output, ".pt", "rwp.pseudo_labels/1")
    job = planned(PseudoLabelSpec, "label", resolved, fingerprint)
    if job is None:
        params = load_params(params_file)
        key = find_run(params, suite, recipe, dataset=dataset, threat=None, network=None, seed=seed)
        steps = Steps(params)
        mix = steps.train(key).settings_as(TrainSpec).unlabeled
        if mix is None:
            raise UserError(
                f"--recipe: expected one with unlabeled data, got {recipe!r}; try --recipe rst"
            )
        step = steps.label(mix.labeling)
        refuse_stale(step)
        job = mix.labeling, step.fingerprint
    spec, fingerprint = job
    _refuse_unfinished(Path(str(spec.teacher.directory), "run.json"))
    with claim() as device:
        from rwp.training.pseudo_labels import write_pseudo_labels

        summary = write_pseudo_labels(
            spec, root=Path.cwd(), fingerprint=fingerprint, device=device, output=output
        )
    agreement = summary["agreement_with_shipped_labels"]
    print(
        f"{summary['num_images']} images labeled; teacher's test accuracy"
        f" {summary['teacher_test_accuracy']:.2%}"
        + ("" if agreement is None else f"; agreement with shipped labels {agreement:.2%}")
    )


def _refuse_unfinished(teacher: Path) -> None:
    """A training that diverged or collapsed ends, too, and leaves a network."""
    run = read_object(teacher) if teacher.exists() else {}
    status = run.get("status", "finished")
    if status != "finished":
        raise UserError(
            f"{teacher}: expected a teacher whose training finished, got {status} "
            f"({run.get('reason') or 'no reason'}); change its settings and train it again"
        )
