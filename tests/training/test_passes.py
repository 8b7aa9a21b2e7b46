"""The passes that a plan promises are those that trainings count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rwp.data.images import ImageSet
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.reporting.costs import training_passes
from rwp.training.jobs import input_paths, prepare
from rwp.training.spec import TrainSpec
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of


def short(committed: dict[str, Any], **rwp: Any) -> Params:
    """Trainings of one epoch that perturb the weights from the start."""
    content = tiny_settings(committed)
    demo = content["suites"]["demo"]
    demo["training"] |= {"epochs": 1, "decay_epochs": []}
    demo["figures"]["fig2"]["epochs"] = [1]
    for perturbation in demo["perturbations"].values():
        perturbation["warmup_epochs"] = 0
    demo["perturbations"]["rwp"] |= rwp
    return check_params(content)


def one_epoch(spec: TrainSpec, root: Path) -> dict[str, int]:
    """The passes that a training counts in one epoch."""
    training, _ = prepare(spec, input_paths(spec, root), torch.device("cpu"))
    training.run_epoch(lambda: None)
    training.finish_epoch()
    return training.progress.passes


@pytest.mark.parametrize("recipe", ["natural", "at", "at-awp", "trades-awp", "rst", "at-rwp"])
def test_passes_are_those_that_a_training_counts(
    recipe: str,
    shared_root: Path,
    committed: dict[str, Any],
) -> None:
    # At this c_min no example is ever left out, so the upper bound is met.
    spec = spec_of(short(committed, c_min={"digits": 1000.0}), recipe)
    num_train = len(ImageSet.load(shared_root / "data" / "digits" / "train.pt"))
    promised = training_passes(spec, num_train=num_train)
    found = one_epoch(spec, shared_root)
    assert found == {"forward": promised.forward, "backward": promised.backward}


def test_an_early_stop_stays_below_the_bound(
    shared_root: Path,
    committed: dict[str, Any],
) -> None:
    spec = spec_of(short(committed, c_min={"digits": 0.01}), "at-rwp")
    num_train = len(ImageSet.load(shared_root / "data" / "digits" / "train.pt"))
    promised, found = training_passes(spec, num_train=num_train), one_epoch(spec, shared_root)
    assert found["backward"] < promised.backward
    assert found["forward"] <= promised.forward
