"""A whole epoch with its measurements, in 32 bits on both sides; every step perturbs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from benchmarks import reference_loop
from benchmarks.our_loop import our_training
from benchmarks.problem import network, pictures, variants
from benchmarks.registry import Result, Setting, benchmark, measure_pair

# Training and test images in the proportion of CIFAR-10, and the batch size.
SIZES = {"cpu": (32, 6, 16), "cuda": (6400, 1280, 128)}
NAMES = {"epoch": "all_perturbed", "epoch_at_awp": "at_awp", "epoch_at": "at"}


@benchmark(order=20)
def epochs(setting: Setting) -> Iterator[Result]:
    """The reference of AT-RWP also attacks its whole training set, as published."""
    for name, variant in NAMES.items():
        sides = _sides(setting.device, variant, precision="fp32")
        once = Setting(setting.device, 1)
        yield Result(name, *measure_pair(*sides, once, warm_up=False), target=2.0)


def _sides(device: torch.device, variant: str, *, precision: str, compile_it: bool = False):
    num_train, num_test, size = SIZES[device.type]
    train, test = pictures(num_train), pictures(num_test)
    model, theirs = network(device), network(device)
    ours = our_training(
        model,
        variants(model)[variant][0],
        precision=precision,
        memory_format=torch.channels_last,
        transform=torch.compile if compile_it else lambda model: model,
    )
    on_device = [tuple(part.to(device) for part in split) for split in (train, test)]
    perturbation = variants(theirs)[variant][1]
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    # Two loading processes as published, where there are cores for them.
    workers = 2 if device.type == "cuda" else 0
    loaders = [
        DataLoader(
            reference_loop.SlowImages(*split, augment=augment),
            batch_size=size,
            shuffle=augment,
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
        for split, augment in ((train, True), (test, False))
    ]

    def reference() -> None:
        reference_loop.epoch(theirs, optimizer, perturbation, *loaders, device)

    return (lambda: ours.epoch(*on_device, size)), reference


@benchmark(order=30)
def fast_epochs(setting: Setting) -> Iterator[Result]:
    """The fast settings of a GPU against the published loop as it is; nothing on a CPU."""
    if setting.device.type != "cuda":
        return
    for name, variant in NAMES.items():
        ours, reference = _sides(setting.device, variant, precision="bf16", compile_it=True)
        ours()  # compiles
        memory = [_peak_memory(side, setting.device) for side in (ours, reference)]
        seconds = measure_pair(ours, reference, Setting(setting.device, 1), warm_up=False)
        yield Result(
            f"{name}_bf16_compiled",
            *seconds,
            target=5.0,
            notes={"peak_gib_ours": memory[0], "peak_gib_reference": memory[1]},
        )


def _peak_memory(function, device: torch.device) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    function()
    return torch.cuda.max_memory_allocated(device) / 2**30
