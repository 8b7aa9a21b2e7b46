"""`rwp evaluate`: attacks on one network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, Fingerprint, ParamsFile, Resolved, SuiteName
from rwp.commands.external import evaluate_elsewhere
from rwp.errors import UserError

if TYPE_CHECKING:
    from rwp.config.schema import Params
    from rwp.config.specs import EvaluationSpec


def evaluate(
    checkpoint: Annotated[
        Path | None, typer.Option(help="A run's best.pt or last.pt, or, with --arch, any weights.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Only this attack of the suite; may be repeated.")
    ] = None,
    arch: Annotated[str | None, typer.Option(help="Network that foreign weights are of.")] = None,
    layout: Annotated[
        str | None, typer.Option(help="Who wrote them: rice, awp, trades, rst or robustbench.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="package.module:factory of a model.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set for a model from elsewhere.")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder for the records of a model from elsewhere.")
    ] = Path("results/external"),
    suite: SuiteName = "demo",
    resolved: Resolved = None,
    fingerprint: Fingerprint = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Attack a network and write one record per attack.

    A run's own network is attacked as its suite in params.yaml says, and the records lie beside
    it. Published weights (--arch, --layout) and models of your own (--model) are evaluated on a
    data set of ours; clean accuracy is printed first, before hours are spent.
    """
    from rwp.config.load import load_params
    from rwp.gpu import claim

    root = Path.cwd()
    if resolved is not None and fingerprint is not None:
        from rwp.config.specs import EvaluationSpec

        spec = EvaluationSpec.parse(resolved, where="--resolved")
    else:
        params = load_params(params_file)
        if model is not None or arch is not None:
            with claim() as device:
                paths = evaluate_elsewhere(
                    params,
                    checkpoint=checkpoint,
                    arch=arch,
                    layout=layout,
                    model=model,
                    suite=suite,
                    dataset=dataset,
                    attacks=tuple(attack or ()),
                    output=output,
                    device=device,
                )
            _show(paths)
            return
        from rwp.provenance.chain import evaluation_fingerprint

        spec = spec_of(params, checkpoint, tuple(attack or ()))
        fingerprint = evaluation_fingerprint(spec, params)
    _evaluate_run(spec, root, fingerprint)


def _evaluate_run(spec: EvaluationSpec, root: Path, fingerprint: str) -> None:
    from rwp.files import read_json
    from rwp.gpu import claim
    from rwp.panels import evaluation_metrics

    with claim() as device:
        from rwp.evaluation.jobs import evaluate_checkpoint
        from rwp.tracking import log_evaluation

        paths = evaluate_checkpoint(
            spec, root=root, fingerprint=fingerprint, state=root / ".state", device=device
        )
    accuracies = _show(paths)
    metrics = evaluation_metrics(spec.checkpoint, accuracies)
    run_id = read_json(root / spec.key.directory / "run.json").get("mlflow_run_id")
    log_evaluation(run_id, metrics, root=root, suite=spec.key.suite)


def _show(paths: list[Path]) -> dict[str, float]:
    """Print the accuracy under each attack."""
    from rwp.evaluation.records import read_record

    accuracies = {}
    for path in paths:
        record = read_record(path)
        accuracies[record.attack.name] = record.robust_accuracy
        print(f"{record.attack.name:>16}  {record.robust_accuracy:7.2%}  {path}")
    return accuracies


def spec_of(params: Params, checkpoint: Path | None, attacks: tuple[str, ...]) -> EvaluationSpec:
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
            f" {checkpoint.name}; for weights from elsewhere add --arch NAME"
        )
    record = checkpoint.parent / "run.json"
    key = RunKey.parse(read_json(record).get("key"), where=str(record))
    if (Path.cwd() / key.directory).resolve() != checkpoint.parent.resolve():
        raise UserError(
            f"{checkpoint}: expected the run below {key.directory}, got another folder;"
            f" run from the project that trained it"
        )
    return evaluation_spec(params, key, checkpoint=checkpoint.stem, attacks=attacks or None)
