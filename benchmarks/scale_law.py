"""Does a training step cost what its passes cost? Measured over widths, batches and recipes.

    python benchmarks/scale_law.py [--widths 16 32 64] [--batches 16 64] [--seconds S]

One CPU thread and the process's own time, as in scale_rates.py; PreAct ResNet-18 throughout.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from torch import nn

from benchmarks.our_loop import our_training
from benchmarks.problem import pictures, variants
from benchmarks.scale_rates import pass_seconds
from rwp.core import build_network, flush_denormals
from rwp.training.flops import forward_flops

CPU = torch.device("cpu")
ATTACK_STEPS = 10
# Passes to the weights in one step: that of the optimizer, and those of the weight perturbation.
WEIGHT_PASSES = {"at": 1, "at_awp": 2, "all_perturbed": 11}


def network(width: int) -> nn.Module:
    """PreAct ResNet-18 of a width; 64 is the paper's."""
    torch.manual_seed(0)
    model = build_network(
        "preact_resnet", num_classes=10, in_channels=3, mean=None, std=None, width=width
    )
    return model.train()


def step_seconds(width: int, batch: int, recipe: str, repetitions: int) -> float:
    """Of one training step; the shortest of several."""
    model = network(width)
    training = our_training(
        model,
        variants(model)[recipe][0],
        precision="fp32",
        memory_format=torch.contiguous_format,
        transform=lambda model: model,
    )
    images, labels = pictures(batch)
    pixels = images.float() / 255
    best = float("inf")
    for _ in range(repetitions):
        start = time.process_time()
        training.step(pixels, labels)
        best = min(best, time.process_time() - start)
    return best


def measure(width: int, batch: int, recipes: list[str], seconds: float) -> None:
    """One line per recipe."""
    images, labels = pictures(batch)
    pixels = images.float() / 255
    model = network(width)
    flops = forward_flops(model, pixels[:1])
    forward, to_weights, to_images = pass_seconds(model, pixels, labels, seconds=seconds)
    print(
        f"width {width:3} batch {batch:3}: forward {flops / 1e9:6.3f} GFLOP,"
        f" {1000 * forward:7.3f} ms an image, {flops / forward / 1e9:5.0f} GFLOP/s;"
        f" backward {to_weights / forward:.2f} and {to_images / forward:.2f} forward passes",
        flush=True,
    )
    for recipe in recipes:
        weights = WEIGHT_PASSES[recipe]
        law = ATTACK_STEPS * (forward + to_images) + weights * (forward + to_weights)
        found = step_seconds(width, batch, recipe, 3) / batch
        print(
            f"    {recipe:14} {1000 * found:8.2f} ms an image, by its passes {1000 * law:8.2f}"
            f" ({found / law:.2f})",
            flush=True,
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--widths", type=int, nargs="*", default=[16, 32, 64])
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--seconds", type=float, default=10, help="at least, per set of passes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    flush_denormals()
    for width in options.widths:
        measure(width, options.batches[0], list(WEIGHT_PASSES), options.seconds)
    for batch in options.batches[1:]:
        measure(options.widths[-1], batch, ["at"], options.seconds)


if __name__ == "__main__":
    main()
