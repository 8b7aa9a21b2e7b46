"""The suite `quick-jpeg` on a bare machine: its settings from a file that params.yaml wrote.

A machine with PyTorch alone cannot check params.yaml, so `python benchmarks/gpu.py
--write-settings` resolves the suite here into gpu_suite.json; a test keeps the two in step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.files import read_json, write_json
from rwp.spec import merkle
from rwp.training.jobs import train_run
from rwp.training.spec import PreActResNetSpec, TrainSpec

if TYPE_CHECKING:
    from benchmarks.gpu_slices import Bench
    from rwp.evaluation.spec import EvaluationSpec

SETTINGS = Path(__file__).with_suffix(".json")
SUITE = "quick-jpeg"
RECIPES = ("at", "at-awp", "at-rwp")
ATTACKS = ("natural", "pgd-20", "autoattack")


class NotHere(Exception):  # noqa: N818 (a later call may have what is missing)
    """Something that a slice needs is not on this machine."""


def write_settings() -> None:
    """Resolve the suite in params.yaml into the file."""
    trainings, evaluations = resolved()
    content = {
        recipe: {"train": trainings[recipe].document(), "attack": evaluations[recipe].document()}
        for recipe in RECIPES
    }
    write_json(SETTINGS, {"suite": SUITE, "recipes": content})


def resolved() -> tuple[dict[str, TrainSpec], dict[str, EvaluationSpec]]:
    """What params.yaml says of the suite."""
    from rwp.pipeline.load import load_params
    from rwp.pipeline.lookup import run_key
    from rwp.pipeline.resolve import train_spec
    from rwp.pipeline.resolve_evaluation import evaluation_spec

    params = load_params(SETTINGS.parents[1] / "params.yaml")
    suite = params.suites[SUITE]
    place = {"dataset": suite.table2.dataset, "threat": suite.table2.threat_model}
    keys = {
        recipe: run_key(params, SUITE, recipe=recipe, seed=suite.seeds[0], **place)
        for recipe in RECIPES
    }
    trainings = {recipe: train_spec(params, key) for recipe, key in keys.items()}
    evaluations = {
        recipe: evaluation_spec(params, key, attacks=ATTACKS) for recipe, key in keys.items()
    }
    return trainings, evaluations


def settings(recipe: str, *, tiny: bool) -> tuple[TrainSpec, EvaluationSpec]:
    """Those of one training and of the attacks on it, as the file has them."""
    from rwp.evaluation.spec import EvaluationSpec

    document = read_json(SETTINGS)["recipes"][recipe]
    train = TrainSpec.rebuilt(document["train"])
    attack = EvaluationSpec.rebuilt(document["attack"])
    return (
        (_smaller(train), attack.replace(num_examples=20, batch_size=10))
        if tiny
        else (
            train,
            attack,
        )
    )


def _smaller(spec: TrainSpec) -> TrainSpec:
    return spec.replace(
        architecture=PreActResNetSpec(family="preact_resnet", blocks=(1,), width=8),
        optimization=spec.optimization.replace(epochs=3, batch_size=16, decay_epochs=()),
        attack=spec.attack and spec.attack.replace(num_steps=2),
        monitor=spec.monitor and spec.monitor.replace(num_steps=1),
        perturbation=spec.perturbation and spec.perturbation.replace(num_weight_steps=2),
        held_out_fraction=0.25,
        keep_epochs=(),
    )


def units(
    bench: Bench, folder: Path, data: Path | None
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and measurement of each part, in order."""
    tiny = bench.sizes.tiny
    yield "data", partial(prepare_data, folder, data, tiny=tiny)
    for recipe in RECIPES:
        yield f"train {recipe}", partial(train, bench, folder, recipe)
        yield f"attack {recipe}", partial(attack, bench, folder, recipe)


def prepare_data(folder: Path, data: Path | None, *, tiny: bool) -> dict[str, Any]:
    """Put the images where the trainings look for them."""
    spec, _ = settings("at", tiny=tiny)
    target = folder / "data" / spec.key.dataset
    if data is not None and (data / "train.pt").exists():
        for name in ("train.pt", "test.pt"):
            ImageSet.load(data / name)
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / name, target / name)
    elif data is not None:
        from rwp.data.fetch import fetch_dataset

        fetch_dataset(spec.key.dataset, spec.data, folder / "data", origin=str(data))
    elif tiny:
        for name, count, seed in (("train", 80, 0), ("test", 40, 1)):
            _made_up(count, seed).save(target / f"{name}.pt")
    else:
        raise NotHere("the images; name a place with --data (DATA= with make)")
    return {"train": len(ImageSet.load(target / "train.pt"))}


def _made_up(count: int, seed: int) -> ImageSet:
    """Noise around a shade per class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    noise = torch.randint(-9, 10, (count, 3, 8, 8), generator=draw)
    shades = (20 + 24 * labels).view(-1, 1, 1, 1)
    return ImageSet((shades + noise).clamp(0, 255).byte(), labels, 10)


def train(bench: Bench, folder: Path, recipe: str) -> dict[str, Any]:
    """One training, from where it was stopped."""
    spec, _ = settings(recipe, tiny=bench.sizes.tiny)
    _need_data(folder, spec)
    run = train_run(
        spec, root=folder, fingerprint=merkle(spec.canonical()), device=bench.device.type
    )
    record = read_json(run / "run.json")
    if record["status"] != "finished":
        raise UserError(f"{recipe}: expected a finished training, got {record['reason']}")
    last = record["last"]
    return {
        "status": record["status"],
        "training_s": record["seconds"],
        "epochs": spec.optimization.epochs,
        **{key: value for key, value in last.items() if key.endswith("accuracy")},
        **record["performance"],
    }


def _need_data(folder: Path, spec: TrainSpec) -> None:
    if not (folder / "data" / spec.key.dataset / "train.pt").exists():
        raise NotHere("the images, which the slice `data` brings")


def attack(bench: Bench, folder: Path, recipe: str) -> dict[str, Any]:
    """The attacks on what was trained, AutoAttack's from the batch it was at."""
    train_spec, spec = settings(recipe, tiny=bench.sizes.tiny)
    if not (folder / spec.key.directory / "best.pt").exists():
        raise NotHere(f"the network of {recipe}, which the slice before trains")
    try:
        from rwp.evaluation import autoattack as module
        from rwp.evaluation.jobs import evaluate_checkpoint
    except ImportError as error:
        raise NotHere(f"{error.name}; carry it along, on PYTHONPATH") from error
    if bench.sizes.tiny:
        from benchmarks.bench_autoattack import shortened

        module.AutoAttack = shortened(bench.sizes.shorter)  # type: ignore[misc]
    fingerprint = merkle(train_spec.canonical(), spec.canonical())
    paths = evaluate_checkpoint(
        spec,
        root=folder,
        fingerprint=fingerprint,
        state=folder / ".state" / "autoattack",
        device=bench.device,
    )
    records = [read_json(path) for path in paths]
    return {
        record["attack"]["name"]: {
            "robust": record["num_robust"],
            "of": record["num_examples"],
            "seconds": record["seconds"],
        }
        for record in records
    }
