"""What a training draws and measures: images by seed, a part of the test split, cheap selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import Params
from rwp.reporting.runs import read_history
from rwp.training import loop
from rwp.training.jobs import input_paths, prepare, train_run
from rwp.training.loop import Training
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of


def drawing(committed: dict[str, Any], **changes: Any) -> Params:
    content = tiny_settings(committed)
    content["datasets"]["digits"]["per_class"] = 12
    content["suites"]["demo"] |= changes
    return check_params(content)


def training_of(params: Params, recipe: str, seed: int, root: Path) -> Training:
    place = {"dataset": "digits", "threat": "linf", "seed": seed}
    spec = train_spec(params, run_key(params, "demo", recipe=recipe, **place))
    training, _ = prepare(spec, input_paths(spec, root), torch.device("cpu"))
    return training


def images_of(params: Params, recipe: str, seed: int, root: Path) -> torch.Tensor:
    return training_of(params, recipe, seed, root).batches.images


def test_recipes_of_a_seed_share_their_images(committed, shared_root: Path):
    params = drawing(committed)
    first = images_of(params, "at", 0, shared_root)
    assert len(first) == 120
    assert first.equal(images_of(params, "trades-awp", 0, shared_root))
    assert first.equal(images_of(params, "natural", 0, shared_root))
    assert not first.equal(images_of(params, "at", 1, shared_root))


def test_all_seeds_are_measured_on_the_same_part_of_the_test_split(committed, shared_root: Path):
    params = drawing(committed, curve_examples=50)
    first, second = (training_of(params, "at", seed, shared_root) for seed in (0, 1))
    assert len(first.splits["test"]) == 50
    assert first.splits["test"].images.equal(second.splits["test"].images)
    assert not first.batches.images.equal(second.batches.images)


def test_the_held_out_images_may_be_measured_more_cheaply_and_not_in_each_epoch(
    committed, shared_root: Path, tmp_path: Path
):
    settings = {
        "curve_examples": 50,
        "selection_num_steps": 1,
        "selection_step_size": 0.12,
        "selection_every": 2,
    }
    content = tiny_settings(committed)
    content["suites"]["demo"] |= settings
    content["suites"]["demo"]["training"]["epochs"] = 4
    spec = spec_of(check_params(content), "at")
    assert spec.monitor is not None
    assert spec.selection_monitor is not None
    assert (spec.selection_monitor.num_steps, spec.selection_monitor.step) == (1, 0.12)
    assert spec.monitor.num_steps == 2
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    assert len(training.splits["test"]) == 50
    assert min(training.splits["test"].class_counts()) == 5
    folder = train_run(spec, root=shared_root, fingerprint="cheap", output=tmp_path / "run")
    rows = read_history(folder / "history.jsonl")
    measured = [row["epoch"] for row in rows if "held_out_robust_accuracy" in row]
    assert measured == [0, 2, 3]
    assert all("test_robust_accuracy" in row for row in rows)
    from rwp.files import read_object

    best = read_object(folder / "run.json")["best"]
    values = {
        row["epoch"]: row["held_out_robust_accuracy"] for row in rows if row["epoch"] in measured
    }
    assert values[best["epoch"]] == max(values.values())


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("curve_examples", None),
        ("selection_num_steps", None),
        ("selection_step_size", None),
        ("selection_every", 1),
    ],
)
def test_the_defaults_change_no_settings(committed, name: str, default: int | None):
    content = tiny_settings(committed)
    before = spec_of(check_params(content), "at").canonical()
    content["suites"]["demo"][name] = default
    assert spec_of(check_params(content), "at").canonical() == before


def test_no_default_is_among_the_settings(committed):
    spec = spec_of(check_params(tiny_settings(committed)), "at")
    for field in ("curve_examples", "selection_monitor", "selection_every", "per_class"):
        assert field not in spec.canonical()


def test_the_cheap_attack_is_for_the_held_out_images_alone(
    committed, shared_root: Path, monkeypatch: pytest.MonkeyPatch
):
    params = drawing(committed, selection_num_steps=1, selection_step_size=0.12)
    training = training_of(params, "at", 0, shared_root)
    seen = {}

    def measure(_, split, attack, **options):
        seen[next(name for name, other in training.splits.items() if other is split)] = attack
        return {"clean_accuracy": 1.0, "robust_accuracy": 1.0}

    monkeypatch.setattr(loop, "measure", measure)
    training.finish_epoch()
    spec = training.spec
    assert seen == {"held_out": spec.selection_monitor, "test": spec.monitor}
    assert spec.selection_monitor != spec.monitor
