"""What only a GPU shows. These need PyTorch and pytest alone, and take nothing from other tests:

    python -m pytest -o addopts= -m gpu --noconftest tests/gpu

on a machine where nothing else is installed, with benchmarks/bare at the end of PYTHONPATH; that is
how the first slice of `make bench-gpu` runs them.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from benchmarks import gpu_suite

from rwp.core import ThreatModel, pgd, precision_context
from rwp.core.batch_statistics import normalize_together
from rwp.core.process_group import ALONE, Group, Processes
from rwp.data.augmentation import augment
from rwp.data.spec import AugmentationSpec
from rwp.training.jobs import input_paths, prepare, train_run
from rwp.training.optimization import compiled
from rwp.training.spec import ObjectiveSpec, TrainSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
RECIPES = ("at", "at-awp", "at-rwp")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with made-up images."""
    folder = tmp_path_factory.mktemp("project")
    gpu_suite.prepare_data(folder, None, tiny=True)
    return folder


def spec_of(recipe: str, **changes: object) -> TrainSpec:
    """A tiny training; TRADES is AT with another objective."""
    spec, _ = gpu_suite.settings(recipe.removesuffix("-trades"), tiny=True)
    if recipe.endswith("-trades"):
        own = ObjectiveSpec(loss="trades", beta=6.0, clean_updates=2, criterion="objective")
        attack = spec.attack and spec.attack.replace(bn_mode="eval")
        spec = spec.replace(objective=own, attack=attack)
    return spec.replace(optimization=spec.optimization.replace(**changes))


@pytest.mark.parametrize("recipe", [*RECIPES, *(f"{name}-trades" for name in RECIPES)])
def test_no_step_waits_for_the_gpu(recipe: str, root: Path) -> None:
    spec = spec_of(recipe)
    training, _ = prepare(spec, input_paths(spec, root), torch.device("cuda"))
    training.model.train()
    training.progress.epoch = 1
    plan = training.batches.plan(1)
    training._step_in_precision(plan[0])  # what is set up once
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            training._step_in_precision(plan[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not [str(w.message) for w in caught if "synchroniz" in str(w.message)]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("compile_", ["off", "default", "graphs"])
def test_a_training_on_a_gpu(precision: str, compile_: str, root: Path, tmp_path: Path) -> None:
    spec = spec_of("at-rwp", precision=precision, compile=compile_)
    train_run(spec, root=root, fingerprint=precision, output=tmp_path, device="cuda")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "finished"
    performance = record["performance"]
    assert 0 < performance["peak_memory"] < 2**33
    assert performance["flops_per_second"] > 0
    assert 0 <= performance["loading_share"] < 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_stays_in_its_ball(norm: str) -> None:
    draw = torch.Generator("cuda").manual_seed(0)
    images = torch.rand(8, 3, 8, 8, device="cuda", generator=draw)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10)).cuda().eval()
    labels = model(images).argmax(dim=1)
    threat = ThreatModel(norm, 0.1)
    found = pgd(model, images, labels, threat=threat, step_size=0.03, num_steps=5, generator=draw)
    delta = (found - images).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert float(size.max()) <= 0.1 + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert bool(F.cross_entropy(model(found), labels) > F.cross_entropy(model(images), labels))


def test_augmentation_on_a_gpu_is_that_of_the_cpu() -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    policy = AugmentationSpec(crop_padding=2, padding_mode="zero", flip=True, rotation_degrees=0)
    here, there = (
        augment(images.to(device), policy, generator=torch.Generator().manual_seed(1))
        for device in ("cpu", "cuda")
    )
    assert torch.equal(here, there.cpu())


def test_what_a_recorded_pass_gave_stays_when_the_next_one_has_other_images() -> None:
    """A graph writes its logits to the same memory each time; TRADES compares two passes."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10)).cuda().eval()
    fast = compiled(model, "graphs")
    batches = [torch.rand(4, 3, 8, 8, device="cuda") for _ in range(3)]
    with torch.no_grad(), precision_context("fp32", "cuda"):
        expected = [model(images) for images in batches]
        for _ in range(3):  # until the graph is recorded
            found = [fast(images) for images in batches]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["default", "graphs"])
def test_a_compiled_network_gives_the_same_logits(how: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
    )
    model = model.cuda().eval()
    images = torch.rand(4, 3, 8, 8, device="cuda")
    fast = compiled(model, how)  # type: ignore[arg-type]
    with torch.no_grad(), precision_context("fp32", "cuda"):
        expected = model(images)
        first, second = fast(images), fast(images)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(first, second)  # and the second pass has not overwritten the first


def _normalized(group: Group) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 6, 3), torch.nn.BatchNorm2d(6)).cuda().train()
    images = torch.rand(8, 2, 5, 5, generator=torch.Generator().manual_seed(0)).cuda()
    images.requires_grad_()
    model = normalize_together(model, group)
    with precision_context("fp32", "cuda"):
        model(group.part(images)).pow(3).sum().backward()
    gradients = [images.grad, *(p.grad for p in model.parameters())]
    group.add_up_(gradients)
    return [gradient.cpu() for gradient in gradients] + [model[1].running_var.cpu()]


def _rank(rank: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}/store", rank=rank, world_size=2)
    torch.save(_normalized(Processes()), f"{meeting}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_share_batch_statistics_on_a_gpu(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    alone = _normalized(ALONE)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, alone, rtol=1e-3, atol=1e-4)
