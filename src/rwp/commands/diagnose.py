"""`rwp diagnose`: is the robustness of a network real?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, Fingerprint, ParamsFile, Resolved, spec_of


def diagnose(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A run's best.pt with all its records.")
    ] = None,
    twin: Annotated[
        Path | None,
        typer.Option(
            help="Another network to borrow adversarial images from than the suite's plain AT;"
            " `rwp verify` then counts the verdict as stale."
        ),
    ] = None,
    resolved: Resolved = None,
    fingerprint: Fingerprint = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Look for masked gradients in a network's records; attack harder unless all is green.

    Writes diagnosis.json beside the records. docs/evaluation.md says what the verdicts rest on.
    """
    from rwp.evaluation.spec import DiagnosisSpec
    from rwp.gpu import claim

    if resolved is not None and fingerprint is not None:
        spec = DiagnosisSpec.parse(resolved, where="--resolved")
    else:
        from rwp.pipeline.load import load_params
        from rwp.pipeline.steps import Steps
        from rwp.pipeline.suites import diagnosis_spec
        from rwp.spec import merkle

        params = load_params(params_file)
        evaluation = spec_of(params, checkpoint, ())
        spec = diagnosis_spec(params, evaluation.key, checkpoint=evaluation.checkpoint)
        fingerprint = Steps(params).judge(evaluation.key, evaluation.checkpoint).fingerprint
        if twin is not None:
            fingerprint = merkle("by hand", fingerprint, str(twin))
    with claim() as device:
        from rwp.evaluation.diagnosis import diagnose_checkpoint, read_diagnosis

        path = diagnose_checkpoint(
            spec, root=Path.cwd(), fingerprint=fingerprint, twin=twin, device=device
        )
    verdict = read_diagnosis(path)
    print(f"{verdict['level']}  {path}")
    for reason in verdict["reasons"]:
        print(f"  {reason['level']}: {reason['text']}")
