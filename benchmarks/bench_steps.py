"""One training step: AT, AT-AWP, and AT-RWP with every example and with none under the mask."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks import reference_loop
from benchmarks.counting import matmul_rate
from benchmarks.our_loop import OurTraining, our_training
from benchmarks.problem import NUM_WEIGHT_STEPS, network, pictures, variants
from benchmarks.registry import Result, Setting, benchmark, measure_pair
from rwp.training.flops import flops_of, forward_flops

# The published batch is 128; 2 CPU cores would need minutes for one step of it.
BATCH = {"cpu": 16, "cuda": 128}
TARGETS = {"all_perturbed": 1.3, "mask_empty": 2.5}
# In units of one forward pass: 10 attack steps of forward and input gradient, weight steps of
# forward, input and weight gradient, and the outer pass likewise.
WEIGHT_STEPS = {"at": 0, "at_awp": 1, "all_perturbed": NUM_WEIGHT_STEPS, "mask_empty": 0}


@benchmark(order=10)
def steps(setting: Setting) -> Iterator[Result]:
    """Equal precision (32 bits) on both sides."""
    device = setting.device
    pixels, labels = (part.to(device) for part in pictures(BATCH[device.type]))
    images = pixels.float() / 255
    peak = matmul_rate(device, torch.float32)
    for name in WEIGHT_STEPS:
        ours = _ours(name, device)
        theirs = network(device)
        perturbation = variants(theirs)[name][1]
        optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

        def reference(model=theirs, optimizer=optimizer, perturbation=perturbation):
            reference_loop.training_step(model, optimizer, perturbation, images, labels)

        # One warm-up serves all four: they run the same kernels.
        seconds = measure_pair(
            lambda ours=ours: ours.step(images, labels), reference, setting, warm_up=name == "at"
        )
        units = _units(ours, images[:2], labels[:2], theirs, optimizer, perturbation)
        work = units["units_ours"] * forward_flops(theirs, images[:2]) * len(images)
        yield Result(
            f"step_fp32_{name}",
            *seconds,
            target=TARGETS.get(name),
            notes={
                **units,
                "units_floor": 20 + 3 * WEIGHT_STEPS[name] + 3,
                "gflops": work / seconds[0] / 1e9,
                "share_of_matmul_rate": work / seconds[0] / peak,
                "batch": len(images),
            },
        )


def _ours(name: str, device: torch.device) -> OurTraining:
    model = network(device)
    return our_training(
        model,
        variants(model)[name][0],
        precision="fp32",
        memory_format=torch.channels_last,
    )


def _units(ours, images, labels, theirs, optimizer, perturbation) -> dict[str, float]:
    """Forward and backward work of a step, in forward passes, counted on two images."""
    unit = forward_flops(theirs, images) * len(images)
    return {
        "units_ours": flops_of(lambda: ours.step(images, labels)) / unit,
        "units_reference": flops_of(
            lambda: reference_loop.training_step(theirs, optimizer, perturbation, images, labels)
        )
        / unit,
    }
