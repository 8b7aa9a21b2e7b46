"""`rwp evaluate` for models from elsewhere, and `rwp export` for leaderboards elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwp.errors import UserError

if TYPE_CHECKING:
    from rwp.config.schema import Params
    from rwp.config.specs import AttackSpec


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
    device: str,
) -> list[Path]:
    """Evaluate published weights or a factory's model on a data set of ours."""
    from rwp.config.lookup import choose
    from rwp.data.images import ImageSet
    from rwp.evaluation.external import evaluate_external, load_checkpoint, load_factory

    entry = choose(params.suites, suite, "suite", "--suite")
    name = dataset or entry.table2.dataset
    definition = choose(params.datasets, name, "data set", "--dataset")
    data = Path("data") / name / "test.pt"
    if model is not None:
        external = load_factory(model, device=device)
    elif checkpoint is not None:
        images = ImageSet.load(data)
        external = load_checkpoint(
            checkpoint,
            architecture=choose(params.networks, arch, "network", "--arch") if arch else None,
            layout=layout,
            num_classes=images.num_classes,
            in_channels=images.shape[0],
            mean=definition.mean,
            std=definition.std,
            device=device,
        )
    else:
        raise UserError("expected --checkpoint FILE or --model MODULE:FACTORY, got neither")
    return evaluate_external(
        external,
        data=data,
        attacks=_attacks(params, suite, name, arch or "external", attacks),
        out=output,
        state=Path(".state"),
        batch_size=entry.evaluation.batch_size,
        seed=entry.evaluation.seed,
        num_examples=entry.evaluation.num_examples,
        device=device,
        on_clean=lambda accuracy: print(f"clean accuracy {accuracy:.2%}", flush=True),
    )


def _attacks(
    params: Params, suite: str, dataset: str, network: str, names: tuple[str, ...]
) -> list[AttackSpec]:
    """The suite's attacks under the threat model of its Table 2."""
    from rwp.config.evaluations import attack_spec
    from rwp.config.lookup import choose
    from rwp.config.specs import RunKey

    entry = params.suites[suite]
    threat = entry.table2.threat_model
    place = {"suite": suite, "dataset": dataset, "threat": threat, "network": network}
    key = RunKey(**place, recipe="external", seed=0)
    table = entry.evaluation.attacks
    chosen = {name: choose(table, name, "attack", "--attack") for name in names or table}
    return [attack_spec(entry, key, name, attack, threat) for name, attack in chosen.items()]


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run's best.pt, evaluated by AutoAttack.")],
    name: Annotated[str, typer.Option(help="The entry's name, e.g. Yu2022RobustWeight.")],
    output: Annotated[Path, typer.Option(help="Folder for the files.")],
    title: Annotated[str, typer.Option(help="Title of the paper.")] = "",
    authors: Annotated[str, typer.Option(help="Its authors.")] = "",
    link: Annotated[str, typer.Option(help="Its address.")] = "",
    venue: Annotated[str, typer.Option(help="Where it appeared.")] = "",
    additional_data: Annotated[bool, typer.Option(help="Trained with extra data.")] = False,
) -> None:
    """Write a network as a RobustBench entry: weights, class, model_info and AutoAttack log."""
    from rwp.evaluation.export import Submission, export_robustbench
    from rwp.evaluation.records import read_record

    record = checkpoint.parent / "evaluation" / checkpoint.stem / "autoattack.json"
    submission = Submission(
        name=name,
        title=title,
        authors=authors,
        link=link,
        venue=venue,
        additional_data=additional_data,
    )
    for path in export_robustbench(checkpoint, read_record(record), submission, folder=output):
        print(path)
