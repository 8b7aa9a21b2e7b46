"""AutoAttack: ours against the package's own loop, same network, images, seed and batches."""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pyautoattack import AutoAttack
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.problem import network, pictures
from benchmarks.registry import Result, Setting, benchmark
from rwp.config.specs import AttackSpec, ThreatSpec
from rwp.core.attacks import pgd
from rwp.core.models import build_network
from rwp.core.threat import ThreatModel
from rwp.data.images import ImageSet
from rwp.evaluation import autoattack as our_module
from rwp.evaluation.autoattack import autoattack as our_autoattack
from rwp.evaluation.records import Flags

# All four attacks at full length on the digits of the demo.
COUNT, BATCH, SEED, EPSILON = 256, 256, 0, "0.1"
TARGET = 1.5
SHARED_BATCH = 64  # so that there is something to share

# PreAct ResNet-18 on 32 x 32 images: all lengths by this factor, which keeps their proportions.
SHORTER, FEW = 50, 16


@benchmark(order=60)
def autoattack(setting: Setting) -> Iterator[Result]:
    """Both at 32 bits; the package gets the network as it comes. Flags must be equal."""
    images = _digits(slice(0, COUNT))
    model = _robust_network(setting.device)
    spec = _standard(EPSILON)
    started = time.perf_counter()
    ours = our_autoattack(model, images, spec, batch_size=BATCH, seed=SEED, device=setting.device)
    ours_s = time.perf_counter() - started
    started = time.perf_counter()
    theirs = _package(model, images, setting.device)
    reference_s = time.perf_counter() - started
    yield Result(
        "autoattack",
        ours_s=ours_s,
        reference_s=reference_s,
        target=TARGET,
        notes=_notes(ours.robust, theirs),
    )


@benchmark(order=61)
def autoattack_all_cores(setting: Setting) -> Iterator[Result]:
    """All cores to both: to the package as threads, to ours as workers that share the batches."""
    if setting.device.type != "cpu":
        return
    images, model = _digits(slice(0, COUNT)), _robust_network(setting.device)
    workers = torch.get_num_threads()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            found = [pool.submit(_share, model, images, Path(folder)) for _ in range(workers)]
            robust = found[0].result()
    ours_s = time.perf_counter() - started
    started = time.perf_counter()
    theirs = _package(model, images, setting.device, batch_size=SHARED_BATCH)
    yield Result(
        "autoattack_all_cores",
        ours_s=ours_s,
        reference_s=time.perf_counter() - started,
        notes={**_notes(robust, theirs), "workers": workers},
    )


def _share(model: nn.Module, images: ImageSet, state: Path) -> Flags:
    torch.set_num_threads(1)
    found = our_autoattack(
        model,
        images,
        _standard(EPSILON),
        batch_size=SHARED_BATCH,
        seed=SEED,
        device="cpu",
        state=state,
    )
    return found.robust


@benchmark(order=62)
def autoattack_preact_resnet_18(setting: Setting) -> Iterator[Result]:
    """The network of the paper on images that survive every attack, which is the long case."""
    model = network(setting.device).eval()
    pictures_, _ = pictures(FEW)
    with torch.no_grad():
        labels = model(pictures_.to(setting.device).float() / 255).argmax(dim=1).cpu()
    images = ImageSet(pictures_, labels, 10)
    spec = _standard("0.0001")
    original, our_module.AutoAttack = our_module.AutoAttack, ShortAutoAttack
    try:
        started = time.perf_counter()
        ours = our_autoattack(model, images, spec, batch_size=FEW, seed=SEED, device=setting.device)
        ours_s = time.perf_counter() - started
    finally:
        our_module.AutoAttack = original
    started = time.perf_counter()
    theirs = _package(model, images, setting.device, kind=ShortAutoAttack, epsilon=0.0001)
    yield Result(
        "autoattack_preact_resnet_18",
        ours_s=ours_s,
        reference_s=time.perf_counter() - started,
        notes=_notes(ours.robust, theirs),
    )


def _notes(ours: Flags, theirs: Flags) -> dict[str, float | str]:
    differ = int((ours != theirs).sum())
    return {"images": len(ours), "robust": int(ours.sum()), "flags_that_differ": differ}


def _standard(epsilon: str) -> AttackSpec:
    threat = ThreatSpec(norm="linf", epsilon=epsilon)
    return AttackSpec(name="autoattack", kind="autoattack", threat=threat, version="standard")


class ShortAutoAttack(AutoAttack):
    """All four attacks at a fraction of their length."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for attack in (self.apgd, self.apgd_targeted, self.fab):
            attack.n_iter //= SHORTER
        self.square.n_queries //= SHORTER


def _package(
    model: nn.Module,
    images: ImageSet,
    device: torch.device,
    *,
    kind: type[AutoAttack] = AutoAttack,
    epsilon: float = float(EPSILON),
    batch_size: int = BATCH,
) -> Flags:
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    pixels, labels = images.images.to(device).float() / 255, images.labels.to(device)
    attack = kind(model, norm="Linf", eps=epsilon, version="standard", seed=SEED, device=device)
    _, found = attack.run_standard_evaluation(pixels, labels, batch_size=batch_size)
    return (found == labels).cpu().numpy()


def _digits(part: slice) -> ImageSet:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))[part]
    pixels = torch.tensor(found.images[order] * 15).round().to(torch.uint8)
    return ImageSet(pixels.unsqueeze(1), torch.tensor(found.target[order]), 10)


def _robust_network(device: torch.device) -> nn.Module:
    """A small PreAct ResNet after a few epochs of adversarial training."""
    training, draw = _digits(slice(COUNT, None)), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = build_network(
        "preact_resnet",
        num_classes=10,
        in_channels=1,
        mean=None,
        std=None,
        blocks=(1, 1),
        width=16,
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch in range(8):
        optimizer.param_groups[0]["lr"] = 0.1 if epoch < 6 else 0.01
        for index in torch.randperm(len(training), generator=draw).split(128):
            images = training.images[index].to(device).float() / 255
            labels = training.labels[index].to(device)
            adversarial = pgd(
                model,
                images,
                labels,
                threat=ThreatModel("linf", float(EPSILON)),
                step_size=0.03,
                num_steps=5,
                generator=draw,
            )
            loss = F.cross_entropy(model.train()(adversarial), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()
