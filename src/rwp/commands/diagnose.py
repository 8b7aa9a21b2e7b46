"""`rwp diagnose`: is the robustness of a network real?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwp.commands.common import (
    DEFAULT_PARAMS,
    Fingerprint,
    ParamsFile,
    Resolved,
    SuiteNamed,
    is_of_a_run,
    once_each,
    planned,
    refuse_for_own_runs,
    refuse_stale,
    spec_of,
    suite_of_external,
)
from rwp.commands.external import ExternalRequest, diagnose_request
from rwp.errors import UserError

if TYPE_CHECKING:
    from rwp.evaluation.spec import DiagnosisSpec


def diagnose(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A run's best.pt with all its records, or a lone file.")
    ] = None,
    twin: Annotated[
        Path | None,
        typer.Option(
            help="Another network to borrow adversarial images from than the suite's plain AT;"
            " `rwp verify` and the report then count the verdict as stale."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="package.module:factory of a model from elsewhere.")
    ] = None,
    arch: Annotated[str | None, typer.Option(help="Network that foreign weights are of.")] = None,
    layout: Annotated[str | None, typer.Option(help="Who wrote foreign weights.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set for a model from elsewhere.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Only this record of a model from elsewhere.")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder with the records of a model from elsewhere.")
    ] = Path("results/external"),
    suite: SuiteNamed = None,
    resolved: Resolved = None,
    fingerprint: Fingerprint = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Look for masked gradients in a network's records; attack harder where anything may resist.

    Models from elsewhere are named as for `rwp evaluate`, which makes their records. Writes
    diagnosis.json beside the records. docs/evaluation.md says what the verdicts rest on.
    """
    from rwp.evaluation.spec import DiagnosisSpec

    if model is not None or arch is not None or not is_of_a_run(checkpoint):
        from rwp.pipeline.load import load_params

        if twin is not None:
            raise UserError(
                f"--twin: expected none for a model from elsewhere, which has no twin, got {twin};"
                " leave it out"
            )
        params = load_params(params_file)
        of_suite = suite_of_external(params, suite, checkpoint, dataset)
        named = (checkpoint, arch, layout, model, of_suite)
        request = ExternalRequest(params, params_file, *named, dataset, once_each(attack), output)
        _show(diagnose_request(request))
        return
    from rwp.gpu import claim

    job = planned(DiagnosisSpec, "judge", resolved, fingerprint)
    if job is None and checkpoint is not None:
        refuse_for_own_runs(context, "suite", "dataset", "attack", "output", "layout")
    if job is None and checkpoint is None:
        raise UserError(
            "expected a run's network such as results/.../best.pt, got nothing; name one, or a "
            "model from elsewhere with --model or --arch"
        )
    spec, fingerprint = job or _by_hand(params_file, checkpoint, twin)
    with claim() as device:
        from rwp.evaluation.diagnosis import diagnose_checkpoint

        path = diagnose_checkpoint(
            spec, root=Path.cwd(), fingerprint=fingerprint, twin=twin, device=device
        )
    _show(path)


def _by_hand(
    params_file: Path, checkpoint: Path | None, twin: Path | None
) -> tuple[DiagnosisSpec, str]:
    """What params.yaml says of the verdict on a run's network, and what the verdict stands on."""
    from rwp.evaluation.spec import DiagnosisSpec
    from rwp.pipeline.load import load_params
    from rwp.pipeline.steps import Steps
    from rwp.spec import merkle

    params = load_params(params_file)
    evaluation = spec_of(params, checkpoint, ())
    step = Steps(params).judge(evaluation.key, evaluation.checkpoint)
    spec = step.settings_as(DiagnosisSpec)
    refuse_stale(step, besides=[] if twin is None else [str(spec.twin_checkpoint)])
    mark = merkle("by hand", step.fingerprint, str(twin)) if twin is not None else step.fingerprint
    return spec, mark


def _show(path: Path) -> None:
    from rwp.evaluation.diagnosis_file import read_diagnosis
    from rwp.evaluation.verdict import MEANING

    verdict = read_diagnosis(path)
    print(f"{verdict['level']} ({MEANING[verdict['level']]})  {path}")
    for reason in verdict["reasons"]:
        print(f"  {reason['level']}: {reason['text']}")
