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
import torch.distributed as dist

from rwp.core.batch_statistics import normalize_together
from rwp.core.group import ALONE, Group, Processes
from rwp.core.precision import autotuned_convolutions
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.training.jobs import input_paths, prepare, train_run
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.pt", weights_only=True)["weights"]


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
        torch.testing.assert_close(weights(tmp_path / name), weights(plain), rtol=0, atol=1e-4)
        assert json.loads((tmp_path / name / "run.json").read_text())["passes"] == passes


@pytest.mark.gpu
@needs_gpu
def test_a_training_on_a_gpu(shared_root: Path, tmp_path: Path, tiny: Params) -> None:
    spec = spec_of(tiny, "at-rwp")
    train_run(spec, root=shared_root, fingerprint="gpu", output=tmp_path, device="cuda")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "finished"
    performance = record["performance"]
    assert 0 < performance["peak_memory"] < 2**33
    assert performance["flops_per_second"] > 0
    assert 0 <= performance["loading_share"] < 1


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


def _normalized(group: Group) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 6, 3), torch.nn.BatchNorm2d(6)).cuda().train()
    images = torch.rand(8, 2, 5, 5, generator=torch.Generator().manual_seed(0)).cuda()
    images.requires_grad_()
    model = normalize_together(model, group)
    model(group.part(images)).pow(3).sum().backward()
    gradients = [images.grad, *(p.grad for p in model.parameters())]
    group.add_up_(gradients)
    return [gradient.cpu() for gradient in gradients] + [model[1].running_var.cpu()]


def _rank(rank: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}/store", rank=rank, world_size=2)
    torch.save(_normalized(Processes()), f"{meeting}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.gpu
@needs_gpu
def test_two_processes_share_batch_statistics_on_a_gpu(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    alone = _normalized(ALONE)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, alone, rtol=1e-3, atol=1e-4)
