"""Trainings of a second or two on the digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import Params
from rwp.training.jobs import train_run
from rwp.training.pseudo_labels import write_pseudo_labels
from rwp.training.spec import TrainSpec
from tests.conftest import tiny_settings


@pytest.fixture(scope="session")
def tiny(committed: dict[str, Any]) -> Params:
    return check_params(tiny_settings(committed))


@pytest.fixture(scope="session")
def all_recipes(committed: dict[str, Any]) -> Params:
    """The tiny demo, and a recipe with what the others do not have, on ten test images."""
    content = tiny_settings(committed)
    change = {"remove_below": 0.5, "mask": "random", "flip": True, "rotation_degrees": 5}
    mine = {"objective": "trades", "perturbation": "rwp", "average_decay": 0.9, "change": change}
    content["suites"]["demo"]["recipes"]["mine"] = mine
    content["suites"]["demo"]["evaluation"]["num_examples"] = 10
    return check_params(content)


def spec_of(params: Params, recipe: str, threat: str = "linf") -> TrainSpec:
    place = {"dataset": "digits", "threat": threat, "seed": 0}
    return train_spec(params, run_key(params, "demo", recipe=recipe, **place))


@pytest.fixture(scope="session")
def shared_root(tmp_path_factory: pytest.TempPathFactory, digits: Path, tiny: Params) -> Path:
    """A project with data, teacher and pseudo-labels."""
    root = tmp_path_factory.mktemp("project")
    (root / "data").symlink_to(digits)
    teacher = spec_of(tiny, "natural")
    train_run(teacher, root=root, fingerprint="teacher")
    mix = spec_of(tiny, "rst").unlabeled
    assert mix is not None
    write_pseudo_labels(mix.labeling, root=root, fingerprint="labels")
    return root
