"""AutoAttack: ours against the package's own loop, same network, images, seed and batches."""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pyautoattack import AutoAttack
from torch import nn

from benchmarks.problem import network, pictures
from benchmarks.registry import Result, Setting, benchmark
from rwp.core.attacks import pgd
from rwp.core.models import build_network
from rwp.core.threat import ThreatModel
from rwp.data.images import ImageSet
from rwp.evaluation import autoattack as our_module
from rwp.evaluation.autoattack import autoattack as our_autoattack
from rwp.evaluation.records import Flags
from rwp.training.spec import AttackSpec, ThreatSpec

# All four attacks at full length on digits like the demo's, in the package's own batches.
COUNT, BATCH, SEED, EPSILON = 500, 250, 0, "0.1"
TARGET = 1.5

# PreAct ResNet-18 on 32 x 32 images: all lengths by this factor, which keeps their proportions.
SHORTER, FEW = 50, 16


@benchmark(order=60)
def autoattack(setting: Setting) -> Iterator[Result]:
    """All cores to both: threads of one process for the package, `--workers` for ours.

    Both at 32 bits; the package gets the network as it comes. Flags must be equal. On a GPU both
    have one process.
    """
    images, model = _digits(slice(0, COUNT)), _robust_network(setting.device)
    workers = torch.get_num_threads() if setting.device.type == "cpu" else 1
    run = partial(_shared, workers=workers) if workers > 1 else _alone
    yield _compared("autoattack", run, model, images, setting, workers=workers)


@benchmark(order=61)
def autoattack_one_process(setting: Setting) -> Iterator[Result]:
    """One batch, which cannot be divided, with the same number of threads for both."""
    if setting.device.type != "cpu":
        return
    images, model = _digits(slice(0, BATCH)), _robust_network(setting.device)
    threads = torch.get_num_threads()
    yield _compared("autoattack_one_process", _alone, model, images, setting, threads=threads)
    torch.set_num_threads(1)  # as in a job of the pipeline
    try:
        yield _compared("autoattack_one_thread", _alone, model, images, setting, threads=1)
    finally:
        torch.set_num_threads(threads)


def _compared(
    name: str,
    ours: Callable[[nn.Module, ImageSet, torch.device], Flags],
    model: nn.Module,
    images: ImageSet,
    setting: Setting,
    **notes: float | str,
) -> Result:
    started = time.perf_counter()
    robust = ours(model, images, setting.device)
    ours_s = time.perf_counter() - started
    started = time.perf_counter()
    theirs = _package(model, images, setting.device)
    reference_s = time.perf_counter() - started
    found = _notes(robust, theirs)
    if found["flags_that_differ"]:
        raise RuntimeError(
            f"{name}: expected the package's flags, got {found['flags_that_differ']} others"
            f" of {found['images']}"
        )
    return Result(
        name, ours_s=ours_s, reference_s=reference_s, target=TARGET, notes={**found, **notes}
    )


def _alone(
    model: nn.Module, images: ImageSet, device: torch.device, state: Path | None = None
) -> Flags:
    spec = _standard(EPSILON)
    found = our_autoattack(
        model, images, spec, batch_size=BATCH, seed=SEED, device=device, state=state
    )
    return found.robust


def _shared(model: nn.Module, images: ImageSet, device: torch.device, *, workers: int) -> Flags:
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            arguments = model, images, device, Path(folder)
            found = [pool.submit(_alone, *arguments) for _ in range(workers)]
            return found[0].result()


@benchmark(order=62)
def autoattack_preact_resnet_18(setting: Setting) -> Iterator[Result]:
    """The network of the paper on images that survive every attack, which is the long case."""
    model = network(setting.device).eval()
    pictures_, _ = pictures(FEW)
    with torch.no_grad():
        labels = model(pictures_.to(setting.device).float() / 255).argmax(dim=1).cpu()
    images = ImageSet(pictures_, labels, 10)
    found = compare(model, images, setting.device, epsilon=0.0001, shorter=SHORTER)
    yield Result(
        "autoattack_preact_resnet_18",
        ours_s=found.pop("ours_s"),
        reference_s=found.pop("reference_s"),
        target=TARGET,
        notes=found,
    )


def compare(
    model: nn.Module, images: ImageSet, device: torch.device, *, epsilon: float, shorter: int
) -> dict[str, Any]:
    """Both on the same images, at a fraction of the usual lengths: seconds, and flags."""
    kind = shortened(shorter)
    original, our_module.AutoAttack = our_module.AutoAttack, kind
    try:
        started = time.perf_counter()
        ours = our_autoattack(
            model, images, _standard(repr(epsilon)), batch_size=BATCH, seed=SEED, device=device
        )
        ours_s = time.perf_counter() - started
    finally:
        our_module.AutoAttack = original
    started = time.perf_counter()
    theirs = _package(model, images, device, kind=kind, epsilon=epsilon)
    reference_s = time.perf_counter() - started
    return {"ours_s": ours_s, "reference_s": reference_s, **_notes(ours.robust, theirs)}


@benchmark(order=63)
def apgd(setting: Setting) -> Iterator[Result]:
    """APGD alone: images that have fallen leave the network's passes; the reference keeps them.

    At the radius that the network was trained for, and at twice that, where most images fall.
    """
    images, model = _digits(slice(0, COUNT)), _robust_network(setting.device)
    for name, epsilon in (("apgd", EPSILON), ("apgd_wide", "0.2")):
        found = {leave: _counted(model, images, epsilon, setting, leave) for leave in (True, False)}
        (ours_s, ours, _), (reference_s, theirs, counted) = found[True], found[False]
        yield Result(
            name,
            ours_s,
            reference_s,
            notes={
                **_notes(ours, theirs),
                "share_of_passes_for_the_fallen": counted.fallen / counted.passes,
                "share_of_passes_spared": found[True][2].spared / found[True][2].passes,
            },
        )


def _counted(
    model: nn.Module, images: ImageSet, epsilon: str, setting: Setting, leave: bool
) -> tuple[float, Flags, our_module.StandingModel]:
    counting: list[our_module.StandingModel] = []
    original = our_module.StandingModel

    def standing(model: nn.Module, **_: bool) -> our_module.StandingModel:
        counting.append(original(model, leave=leave))
        return counting[-1]

    spec = _standard(epsilon).replace(version="lite")
    our_module.StandingModel = standing
    try:
        started = time.perf_counter()
        found = our_autoattack(
            model, images, spec, batch_size=BATCH, seed=SEED, device=setting.device
        )
        return time.perf_counter() - started, found.robust, counting[-1]
    finally:
        our_module.StandingModel = original


def _notes(ours: Flags, theirs: Flags) -> dict[str, float | str]:
    differ = int((ours != theirs).sum())
    return {"images": len(ours), "robust": int(ours.sum()), "flags_that_differ": differ}


def _standard(epsilon: str) -> AttackSpec:
    threat = ThreatSpec(norm="linf", epsilon=epsilon)
    return AttackSpec(name="autoattack", kind="autoattack", threat=threat, version="standard")


def shortened(factor: int) -> type[AutoAttack]:
    """All four attacks at a fraction of their length."""

    class ShortAutoAttack(AutoAttack):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            for attack in (self.apgd, self.apgd_targeted, self.fab):
                attack.n_iter //= factor
            self.square.n_queries //= factor

    return ShortAutoAttack


def _package(
    model: nn.Module,
    images: ImageSet,
    device: torch.device,
    *,
    kind: type[AutoAttack] = AutoAttack,
    epsilon: float = float(EPSILON),
) -> Flags:
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    pixels, labels = images.images.to(device).float() / 255, images.labels.to(device)
    attack = kind(model, norm="Linf", eps=epsilon, version="standard", seed=SEED, device=device)
    _, found = attack.run_standard_evaluation(pixels, labels, batch_size=BATCH)
    return (found == labels).cpu().numpy()


def _digits(part: slice) -> ImageSet:
    from sklearn.datasets import load_digits  # not on every machine with a GPU

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
