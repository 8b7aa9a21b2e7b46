"""Trainings of a second or two on the digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rwp.config.load import check_params
from rwp.config.lookup import run_key
from rwp.config.schema import Params
from rwp.config.specs import TrainSpec
from rwp.config.trainings import pseudo_label_spec, train_spec
from rwp.training.jobs import train_run
from rwp.training.pseudo_labels import write_pseudo_labels
from tests.conftest import tiny_settings


@pytest.fixture(scope="session")
def tiny(committed: dict[str, Any]) -> Params:
    return check_params(tiny_settings(committed))


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
    write_pseudo_labels(pseudo_label_spec(mix), root=root, fingerprint="labels")
    return root
