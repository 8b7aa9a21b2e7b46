"""`rwp evaluate` for models from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rwp.commands.workers import helpers
from rwp.errors import UserError

if TYPE_CHECKING:
    from rwp.evaluation.external import ExternalModel
    from rwp.pipeline.settings import Params
    from rwp.training.spec import AttackSpec


def evaluate_elsewhere(
    params: Params,
    *,
    checkpoint: Path | None,
    arch: str | None,
    layout: str | None,
    model: str | None,
    suite: str,
    dataset: str | None,
    attacks: tuple[str, ...],
    output: Path,
    workers: int = 1,
) -> list[Path]:
    """Evaluate published weights or a factory's model on a data set of ours."""
    from rwp.gpu import claim
    from rwp.pipeline.settings import choose

    if model is None and checkpoint is None:
        raise UserError(
            "evaluate: expected --checkpoint FILE or --model MODULE:FACTORY, got neither; name one"
        )
    if model is not None and (checkpoint, arch, layout) != (None, None, None):
        raise UserError(
            "evaluate: expected either --model or --checkpoint, --arch and --layout, got both; "
            "leave one out"
        )
    entry = choose(params.suites, suite, "suite", "--suite")
    name = dataset or entry.table2.dataset
    choose(params.datasets, name, "data set", "--dataset")
    chosen = _attacks(params, suite, name, arch or "external", attacks)
    data = Path("data") / name / "test.pt"
    if not data.exists():
        raise UserError(
            f"{data}: expected the test images, found none; run `rwp data fetch {name}`"
        )
    slow = [attack.name for attack in chosen if attack.kind == "autoattack"]
    given = {
        "--checkpoint": checkpoint,
        "--arch": arch,
        "--layout": layout,
        "--model": model,
        "--dataset": name,
        "--suite": suite,
        "--output": output,
    }
    words = ["evaluate", *(f"{key}={value}" for key, value in given.items() if value is not None)]
    words += [f"--attack={attack}" for attack in slow]
    with helpers(workers - 1 if slow else 0, words), claim() as device:
        from rwp.evaluation.external import evaluate_external

        return evaluate_external(
            _load(params, checkpoint, arch, layout, model, name, data, device),
            data=data,
            attacks=chosen,
            out=output,
            state=Path(".state"),
            batch_size=entry.evaluation.batch_size,
            seed=entry.evaluation.seed,
            num_examples=entry.evaluation.num_examples,
            first_examples=entry.evaluation.first_examples,
            part_seed=entry.evaluation.part_seed,
            device=device,
            on_clean=lambda accuracy: print(f"clean accuracy {accuracy:.2%}", flush=True),
        )


def _load(
    params: Params,
    checkpoint: Path | None,
    arch: str | None,
    layout: str | None,
    model: str | None,
    dataset: str,
    data: Path,
    device: str,
) -> ExternalModel:
    from rwp.data.images import ImageSet
    from rwp.data.passport import normalization
    from rwp.evaluation.external import load_checkpoint, load_factory
    from rwp.pipeline.settings import choose

    if model is not None:
        return load_factory(model, device=device)
    images, definition = ImageSet.load(data), params.datasets[dataset]
    given = (definition.mean, definition.std)
    mean, std = normalization(data.parent) if arch and None in given else given
    return load_checkpoint(
        checkpoint or Path(),
        architecture=choose(params.networks, arch, "network", "--arch") if arch else None,
        layout=layout,
        num_classes=images.num_classes,
        in_channels=images.shape[0],
        mean=mean,
        std=std,
        device=device,
    )


def _attacks(
    params: Params, suite: str, dataset: str, network: str, names: tuple[str, ...]
) -> list[AttackSpec]:
    """The suite's attacks under the threat model of its Table 2."""
    from rwp.pipeline.resolve import attack_spec
    from rwp.pipeline.settings import choose
    from rwp.training.spec import RunKey

    entry = params.suites[suite]
    threat = entry.table2.threat_model
    place = {"suite": suite, "dataset": dataset, "threat": threat, "network": network}
    key = RunKey(**place, recipe="external", seed=0)
    table = entry.evaluation.attacks
    chosen = {name: choose(table, name, "attack", "--attack") for name in names or table}
    return [attack_spec(entry, key, name, attack, threat) for name, attack in chosen.items()]
