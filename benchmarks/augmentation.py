"""Augmentation on one core: ours, batched, against torchvision's transforms on PIL images.

Both start from the bytes of 32x32 RGB images in memory and end with floats in [0, 1]. Ours
includes gathering the batch; torchvision's leaves out collating it. One thread each; times are
the best of several rounds, because on a shared machine only delays are random.
On a GPU, `device="cuda"` measures ours there, with torchvision still on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from rwp.data.augmentation import Augmentation, augment

BATCH = 128
ROUNDS = 5
TARGET = 20.0  # times torchvision's throughput on one core
# the published settings per data set (SVHN has none)
POLICIES = {
    "cifar10": Augmentation(4, "reflect", flip=True, rotation_degrees=0.0),
    "cifar100": Augmentation(4, "zero", flip=True, rotation_degrees=15.0),
    "trades": Augmentation(4, "zero", flip=True, rotation_degrees=0.0),
}


def run(device: str = "cpu") -> list[dict[str, Any]]:
    """Images per second of both, for each policy, and their ratio."""
    images = np.random.default_rng(0).integers(0, 256, (4 * BATCH, 32, 32, 3), dtype=np.uint8)
    rows = []
    with _one_thread():
        for name, policy in POLICIES.items():
            ours = BATCH / _best_seconds(_ours(images, policy, device), repeats=20)
            theirs = BATCH / _best_seconds(_torchvision(images, policy), repeats=1)
            rows.append(
                {
                    "policy": name,
                    "device": device,
                    "images_per_second": round(ours),
                    "torchvision_images_per_second": round(theirs),
                    "speedup": round(ours / theirs, 1),
                    "target": TARGET,
                }
            )
    return rows


def _ours(images: np.ndarray, policy: Augmentation, device: str) -> Callable[[], object]:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    index = torch.randperm(len(pixels))[:BATCH].to(device)
    generator = torch.Generator().manual_seed(0)
    return lambda: augment(pixels[index], policy, generator=generator).float() / 255


def _torchvision(images: np.ndarray, policy: Augmentation) -> Callable[[], object]:
    from PIL import Image
    from torchvision import transforms

    mode = {"zero": "constant", "reflect": "reflect"}[policy.padding_mode]
    steps = [transforms.RandomCrop(32, padding=policy.crop_padding, padding_mode=mode)]
    steps += [transforms.RandomHorizontalFlip()] if policy.flip else []
    turn = policy.rotation_degrees
    steps += [transforms.RandomRotation(turn)] if turn else []
    pipeline = transforms.Compose([*steps, transforms.ToTensor()])
    return lambda: [pipeline(Image.fromarray(image)) for image in images[:BATCH]]


def _best_seconds(step: Callable[[], object], *, repeats: int) -> float:
    step()
    times = []
    for _ in range(ROUNDS):
        _finish()
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        _finish()
        times.append((time.perf_counter() - start) / repeats)
    return min(times)


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Print one line per policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    for row in run(parser.parse_args().device):
        print(
            f"{row['policy']:9} {row['device']:5} {row['images_per_second']:>11,} images/s  "
            f"torchvision {row['torchvision_images_per_second']:>7,}  {row['speedup']}x"
        )


if __name__ == "__main__":
    main()
