"""`rwp evaluate`: attacks on one network."""

from __future__ import annotations

import re
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
    kept_by,
    names_of,
    once_each,
    planned,
    refuse_for_own_runs,
    refuse_stale,
    spec_of,
    suite_of_external,
)
from rwp.commands.external import ExternalRequest, evaluate_request, show_verdict
from rwp.commands.workers import helpers
from rwp.errors import UserError
from rwp.spec import refuse_equal_radii

if TYPE_CHECKING:
    from rwp.evaluation.spec import EvaluationSpec


def evaluate(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="A run's network (best.pt, best_on_test.pt, last.pt or one below checkpoints), "
            "or any other file: of ours as it is, of others with --arch and --layout."
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="Only this attack of the suite; may be repeated." + names_of("attacks")),
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
        Path, typer.Option(help="Folder for the records of --model, --arch and --epsilons.")
    ] = Path("results/external"),
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that divide AutoAttack, e.g. one per GPU.")
    ] = 1,
    epsilons: Annotated[
        str | None,
        typer.Option(help="Attack at these radii and draw curves, e.g. 1/255,2/255,4/255,8/255."),
    ] = None,
    suite: SuiteNamed = None,
    resolved: Resolved = None,
    fingerprint: Fingerprint = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Attack a network and write one record per attack.

    A run's own network is attacked as its suite in params.yaml says, and the records lie beside
    it; with --epsilons at these radii, and the records lie in --output. A network in a gathered
    folder (docs/results) is attacked as that folder's settings say, and compared with its record
    image by image. Published weights (--arch, --layout) and models of your own (--model) are
    evaluated on a data set of ours; clean accuracy is printed first, before hours are spent. The
    same command on several machines that share the project's folder divides AutoAttack between
    them.
    """
    from rwp.evaluation.spec import EvaluationSpec
    from rwp.pipeline.load import load_params

    if job := planned(EvaluationSpec, "evaluate", resolved, fingerprint):
        _evaluate_run(*job, workers)
        return
    attacks = once_each(attack)
    gathered = _gathered_folder(checkpoint)
    if model is None and arch is None and checkpoint is not None and gathered is not None:
        decided = ("suite", "dataset", "output", "layout", "epsilons", "workers", "params_file")
        refuse_for_own_runs(context, *decided)
        _attack_again(gathered, checkpoint, attacks)
        return
    params = load_params(params_file)
    if model is None and arch is None and is_of_a_run(checkpoint):
        refused = ("suite", "dataset", "layout") + (("output",) if epsilons is None else ())
        if checkpoint is not None:
            refuse_for_own_runs(context, *refused)
        spec = spec_of(params, checkpoint, attacks)
        if epsilons is not None:
            own = ExternalRequest.of_run(params, params_file, checkpoint, spec.key, attacks, output)
            _evaluate_external(own, epsilons, workers)
            return
        from rwp.pipeline.steps import Steps

        _refuse_vain_workers(workers, [entry.kind for entry in spec.attacks])
        step = Steps(params).evaluate(spec.key, spec.checkpoint, spec.attacks[0].name)
        refuse_stale(step)
        _evaluate_run(spec, step.fingerprint, workers)
        return
    if model is None and arch is None and (key := kept_by(params, checkpoint)):
        refuse_for_own_runs(context, "suite", "dataset", "layout")
        own = ExternalRequest.of_run(params, params_file, checkpoint, key, attacks, output)
        _evaluate_external(own, epsilons, workers)
        return
    of_suite = suite_of_external(params, suite, checkpoint, dataset)
    request = ExternalRequest(
        *(params, params_file, checkpoint, arch, layout, model, of_suite, dataset, attacks, output)
    )
    _evaluate_external(request, epsilons, workers)


def _refuse_vain_workers(workers: int, kinds: list[str]) -> None:
    """Processes that would find nothing to do."""
    if workers > 1 and "autoattack" not in kinds:
        raise UserError(
            f"--workers: expected 1 without AutoAttack, which alone is divided, got {workers}; "
            "leave it out"
        )


def _radii(epsilons: str) -> tuple[str, ...]:
    """Of "2/255, 4 / 255"; what is no radius is told by whoever uses it."""
    return tuple(re.sub(r"\s*/\s*", "/", part.strip()) for part in epsilons.split(","))


def _evaluate_external(request: ExternalRequest, epsilons: str | None, workers: int) -> None:
    """Show the records and the verdict, at each radius that was asked for."""
    radii = () if epsilons is None else _radii(epsilons)
    if not all(radii):
        raise UserError(
            f"--epsilons: expected radii such as 2/255,4/255, got {epsilons!r} with an empty one; "
            "remove a comma"
        )
    refuse_equal_radii("--epsilons", radii)
    _refuse_vain_workers(workers, [entry.kind for entry in request.specs()])
    found = evaluate_request(request, workers=workers, epsilons=radii)
    for epsilon, paths in found.items():
        if epsilon:
            print(f"radius {epsilon}")
        _show(paths)
        show_verdict(paths, request)
    if radii:
        from rwp.reporting.radii import draw_radii, read_radii

        names = [path.name for path in found[radii[0]]]
        for path in draw_radii(read_radii(request.output, names), request.output / "radii"):
            print(path)


def _gathered_folder(checkpoint: Path | None) -> Path | None:
    """The gathered folder that a network lies in, if there is one."""
    from rwp.files import RESULTS_MANIFEST

    folders = [] if checkpoint is None or not checkpoint.exists() else checkpoint.absolute().parents
    return next((folder for folder in folders if (folder / RESULTS_MANIFEST).exists()), None)


def _attack_again(folder: Path, checkpoint: Path, attacks: tuple[str, ...]) -> None:
    """A committed network: its records stay, and are compared with what comes out now."""
    from rwp.gpu import claim
    from rwp.progress import EvaluationProgress

    with claim() as device:
        from rwp.reporting.attack_again import attack_again

        with EvaluationProgress(str(checkpoint)):
            found = attack_again(folder, checkpoint, attacks, root=Path.cwd(), device=device)
    for again in found:
        accuracy = again.record.robust_accuracy
        print(f"{again.record.attack.name:>16}  {accuracy:7.2%}  {again.told}")


def _evaluate_run(spec: EvaluationSpec, fingerprint: str, workers: int) -> None:
    from rwp.files import read_object
    from rwp.gpu import claim
    from rwp.metric_names import evaluation_metrics
    from rwp.progress import EvaluationProgress

    root = Path.cwd()
    slow = tuple(attack for attack in spec.attacks if attack.kind == "autoattack")
    shared = spec.replace(attacks=slow).canonical()
    words = ["evaluate", "--resolved", shared, "--fingerprint", fingerprint]
    with helpers(workers - 1 if slow else 0, words), claim() as device:
        from rwp.evaluation.jobs import evaluate_checkpoint
        from rwp.tracking import log_evaluation

        with EvaluationProgress(f"{spec.key.name}/{spec.checkpoint}"):
            paths = evaluate_checkpoint(
                spec, root=root, fingerprint=fingerprint, state=root / ".state", device=device
            )
    accuracies = _show(paths)
    metrics = evaluation_metrics(spec.checkpoint, accuracies)
    run_id = read_object(root / spec.key.directory / "run.json").get("mlflow_run_id")
    log_evaluation(run_id, metrics, root=root, suite=spec.key.suite)


def _show(paths: list[Path]) -> dict[str, float]:
    """Print the accuracy under each attack with its interval, and what is odd about the network."""
    from rwp.evaluation.records import read_record
    from rwp.evaluation.statistics import interval

    accuracies = {}
    warnings: dict[str, None] = {}
    for path in paths:
        record = read_record(path)
        accuracies[record.attack.name] = record.robust_accuracy
        sure = interval(record.num_robust, record.num_examples)
        limits = f"[{100 * sure.low:.2f}, {100 * sure.high:.2f}]"
        print(f"{record.attack.name:>16}  {record.robust_accuracy:7.2%}  {limits:>16}  {path}")
        warnings |= dict.fromkeys(record.warnings)
    for warning in warnings:
        print(f"warning: {warning}")
    return accuracies
