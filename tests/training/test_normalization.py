"""`normalize: true` normalizes: by the settings' mean and std, or by those of the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rwp.data.images import ImageSet
from rwp.data.passport import read_dataset_passport
from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.training.jobs import input_paths, prepare
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of


def network_of(params: Params, root: Path) -> dict[str, Any]:
    spec = spec_of(params, "at")
    training, network = prepare(spec, input_paths(spec, root), torch.device("cpu"))
    assert training is not None
    return network


def test_mean_and_std_are_computed_where_none_are_given(
    committed: dict[str, Any], shared_root: Path
) -> None:
    content = tiny_settings(committed)
    assert network_of(check_params(content), shared_root)["mean"] == [0.305]
    for name in ("mean", "std"):
        del content["datasets"]["digits"][name]
    network = network_of(check_params(content), shared_root)
    pixels = ImageSet.load(shared_root / "data/digits/train.pt").images.double() / 255
    assert network["mean"] == pytest.approx([float(pixels.mean())], abs=1e-6)
    assert network["std"] == pytest.approx([float(pixels.std(unbiased=False))], abs=1e-6)
    # what the passport says, for models from elsewhere
    known = read_dataset_passport(shared_root / "data/digits").normalization()
    assert tuple(map(tuple, (network["mean"], network["std"]))) == known
    content["suites"]["demo"]["training"]["normalize"] = False
    assert network_of(check_params(content), shared_root)["mean"] is None


def test_a_mean_of_another_number_of_channels(committed: dict[str, Any], shared_root: Path) -> None:
    content = tiny_settings(committed)
    content["datasets"]["digits"] = {
        "source": "image_folder", "path": "mine", "mean": [0.1] * 3, "std": [0.1] * 3
    }  # fmt: skip
    content["unlabeled"]["digits-holdout"] |= {"kind": "image_folder", "path": "mine"}
    with pytest.raises(
        UserError, match=r"digits\.mean: expected 1 numbers, one per channel, got 3"
    ):
        network_of(check_params(content), shared_root)
