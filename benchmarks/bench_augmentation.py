"""Augmentation on one core: ours, batched, against torchvision's transforms on PIL images.

Both start from the bytes of 32x32 RGB images in memory and end with floats in [0, 1]. Ours
includes gathering the batch; torchvision's leaves out collating it. One thread each; processor
time, best of several rounds, so that other programs on the machine count as little as they can.
On a GPU ours runs there (elapsed time) and torchvision's still on one core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.registry import Result, Setting, benchmark
from rwp.data.augmentation import augment
from rwp.data.spec import AugmentationSpec

BATCH = 128
ROUNDS = 5
TARGET = 20.0  # times torchvision's throughput on one core
# the published settings per data set (SVHN has none)
POLICIES = {
    "cifar10": AugmentationSpec(
        crop_padding=4, padding_mode="reflect", flip=True, rotation_degrees=0.0
    ),
    "cifar100": AugmentationSpec(
        crop_padding=4, padding_mode="zero", flip=True, rotation_degrees=15.0
    ),
    "trades": AugmentationSpec(
        crop_padding=4, padding_mode="zero", flip=True, rotation_degrees=0.0
    ),
}


@benchmark(order=40)
def augmentation(setting: Setting) -> Iterator[Result]:
    """Seconds for one batch of 128 under each published policy."""
    images = np.random.default_rng(0).integers(0, 256, (4 * BATCH, 32, 32, 3), dtype=np.uint8)
    cpu = torch.device("cpu")
    with _one_thread():
        for name, policy in POLICIES.items():
            ours = _best_seconds(_ours(images, policy, setting.device), 50, setting.device)
            theirs = _best_seconds(_torchvision(images, policy), 1, cpu)
            yield Result(
                "augmentation" if name == "cifar10" else f"augmentation_{name}",
                ours,
                theirs,
                target=TARGET,
                notes={"images_per_s": BATCH / ours, "torchvision_images_per_s": BATCH / theirs},
            )


def _ours(
    images: np.ndarray, policy: AugmentationSpec, device: torch.device
) -> Callable[[], object]:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    index = torch.randperm(len(pixels))[:BATCH].to(device)
    generator = torch.Generator().manual_seed(0)
    floats = torch.empty(BATCH, 3, 32, 32, device=device)

    def step() -> None:
        batch = augment(pixels.index_select(0, index), policy, generator=generator)
        torch.div(batch, 255, out=floats)

    return step


def _torchvision(images: np.ndarray, policy: AugmentationSpec) -> Callable[[], object]:
    from PIL import Image
    from torchvision import transforms

    mode = {"zero": "constant", "reflect": "reflect"}[policy.padding_mode]
    steps = [transforms.RandomCrop(32, padding=policy.crop_padding, padding_mode=mode)]
    steps += [transforms.RandomHorizontalFlip()] if policy.flip else []
    turn = policy.rotation_degrees
    steps += [transforms.RandomRotation(turn)] if turn else []
    pipeline = transforms.Compose([*steps, transforms.ToTensor()])
    return lambda: [pipeline(Image.fromarray(image)) for image in images[:BATCH]]


def _best_seconds(step: Callable[[], object], repeats: int, device: torch.device) -> float:
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    step()
    times = []
    for _ in range(ROUNDS):
        if on_gpu:
            torch.cuda.synchronize(device)
        start = clock()
        for _ in range(repeats):
            step()
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append((clock() - start) / repeats)
    return min(times)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
