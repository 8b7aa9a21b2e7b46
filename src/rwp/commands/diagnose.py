"""`rwp diagnose`: is the robustness of a network real?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile
from rwp.commands.evaluate import spec_of


def diagnose(
    checkpoint: Annotated[Path, typer.Argument(help="A run's best.pt with all its records.")],
    twin: Annotated[
        Path | None, typer.Option(help="A network to borrow adversarial images from: plain AT's.")
    ] = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Look for masked gradients in a network's records; attack harder unless all is green.

    Writes diagnosis.json beside the records. docs/evaluation.md says what the verdicts rest on.
    """
    from rwp.config.load import load_params
    from rwp.config.trainings import train_spec
    from rwp.gpu import claim
    from rwp.provenance.chain import evaluation_fingerprint

    params = load_params(params_file)
    spec = spec_of(params, checkpoint, ())
    with claim() as device:
        from rwp.evaluation.diagnosis import diagnose_checkpoint, read_diagnosis

        path = diagnose_checkpoint(
            spec,
            objective=train_spec(params, spec.key).objective.loss,
            root=Path.cwd(),
            fingerprint=evaluation_fingerprint(spec, params),
            twin=twin,
            device=device,
        )
    verdict = read_diagnosis(path)
    print(f"{verdict['level']}  {path}")
    for reason in verdict["reasons"]:
        print(f"  {reason['level']}: {reason['text']}")
