"""`rwp evaluate`: attacks on one network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, Fingerprint, ParamsFile, Resolved
from rwp.errors import UserError


def evaluate(
    checkpoint: Annotated[
        Path | None, typer.Option(help="A network of a run: results/.../best.pt.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Only this attack of the suite; may be repeated.")
    ] = None,
    resolved: Resolved = None,
    fingerprint: Fingerprint = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Attack the network of a run and write one record per attack beside it.

    Settings are those of the run's suite in params.yaml. Clean accuracy is measured first.
    """
    from rwp.config.load import load_params
    from rwp.config.specs import EvaluationSpec
    from rwp.gpu import claim
    from rwp.provenance.chain import evaluation_fingerprint

    root = Path.cwd()
    if resolved is not None and fingerprint is not None:
        spec = EvaluationSpec.model_validate_json(resolved)
    else:
        params = load_params(params_file)
        spec = _spec_of(params, checkpoint, tuple(attack or ()))
        fingerprint = evaluation_fingerprint(spec, params)
    with claim() as device:
        from rwp.evaluation.jobs import evaluate_checkpoint
        from rwp.evaluation.records import read_record
        from rwp.tracking import log_evaluation

        paths = evaluate_checkpoint(
            spec, root=root, fingerprint=fingerprint, state=root / ".state", device=device
        )
    metrics = {}
    for path in paths:
        record = read_record(path)
        accuracy = record.num_robust / record.num_examples
        metrics[f"{spec.checkpoint}_{record.attack.name}"] = accuracy
        print(f"{record.attack.name:>14}  {accuracy:7.2%}  {path}")
    log_evaluation(_mlflow_run(root, spec), metrics, root=root, suite=spec.key.suite)


def _spec_of(params, checkpoint: Path | None, attacks: tuple[str, ...]):  # type: ignore[no-untyped-def]
    """The evaluation of a network that the pipeline trained, from the run.json beside it."""
    from rwp.config.evaluations import evaluation_spec
    from rwp.config.specs import RunKey
    from rwp.files import read_json

    if checkpoint is None:
        raise UserError("--checkpoint: expected a network, got none; e.g. results/.../best.pt")
    if not checkpoint.exists():
        raise UserError(f"{checkpoint}: expected a checkpoint, found no file; train it first")
    if checkpoint.name not in ("best.pt", "last.pt"):
        raise UserError(
            f"{checkpoint}: expected best.pt or last.pt in a run's folder, got"
            f" {checkpoint.name}; the name says which network of the run is meant"
        )
    key = RunKey.model_validate(read_json(checkpoint.parent / "run.json")["key"])
    if (Path.cwd() / key.directory).resolve() != checkpoint.parent.resolve():
        raise UserError(
            f"{checkpoint}: expected the run below {key.directory}, got another folder;"
            f" run from the project that trained it"
        )
    return evaluation_spec(params, key, checkpoint=checkpoint.stem, attacks=attacks or None)


def _mlflow_run(root: Path, spec) -> str | None:  # type: ignore[no-untyped-def]
    from rwp.files import read_json

    return read_json(root / spec.key.directory / "run.json").get("mlflow_run_id")
