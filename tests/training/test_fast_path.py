"""What makes steps fast changes no result beyond rounding; the GPU's part needs one."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from rwp.core.precision import autotuned_convolutions
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.training.jobs import input_paths, prepare, train_run
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of
from tests.training.outcomes import weights

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("found", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_autotuning_is_for_gpus_and_put_back(device: str, found: bool) -> None:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = found
    try:
        with autotuned_convolutions(device):
            assert torch.backends.cudnn.benchmark is (found or device == "cuda")
        assert torch.backends.cudnn.benchmark is found
    finally:
        torch.backends.cudnn.benchmark = before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_training_differs_by_rounding(
    shared_root: Path, tmp_path: Path, committed: dict[str, Any]
) -> None:
    content = tiny_settings(committed)
    # Of width 4, torch 2.15's compiled backward pass writes beyond its memory on a CPU.
    content["networks"]["small"]["width"] = 8
    # At the demo's rate a rounding that turns one sign of an attack grows to 2e-4 in eight steps.
    short = {"epochs": 2, "batch_size": 256, "decay_epochs": [], "learning_rate": 0.05}
    content["suites"]["demo"]["training"] |= short
    content["suites"]["demo"]["figures"]["fig2"]["epochs"] = [2]
    for compiled in ("off", "default", "graphs"):
        content["suites"]["demo"]["training"]["compile"] = compiled
        spec = spec_of(check_params(content), "at-rwp")
        output = tmp_path / compiled
        # In a process of its own, as the shape checks of other tests' modules cannot be compiled.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            options = {"root": shared_root, "fingerprint": compiled, "output": output}
            pool.submit(train_run, spec, **options).result()
    plain = tmp_path / "off"
    passes = json.loads((plain / "run.json").read_text())["passes"]
    for name in ("default", "graphs"):
        torch.testing.assert_close(
            weights(tmp_path / name / "last.pt"), weights(plain / "last.pt"), rtol=0, atol=1e-4
        )
        assert json.loads((tmp_path / name / "run.json").read_text())["passes"] == passes


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("recipe", ["at", "at-awp", "at-rwp", "trades-rwp", "rst-rwp", "at-ema"])
def test_no_step_waits_for_the_gpu(recipe: str, shared_root: Path, tiny: Params) -> None:
    spec = spec_of(tiny, recipe)
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cuda"))
    training.model.train()
    training.progress.epoch = 1
    plan = training.batches.plan(1)
    training._step(plan[0])  # what is set up once
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            training._step(plan[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not [str(w.message) for w in caught if "synchroniz" in str(w.message)]
