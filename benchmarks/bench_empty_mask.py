"""What a step with an empty mask costs without the shortcut that took its look for the outer pass.

The search looks at the mask once and stops; the outer pass follows. A step that keeps the running
statistics of that look as those of the outer pass saves the latter. It needs to know on the host
whether the mask is empty, which a GPU would have to wait for, so the loop does not have it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import problem
from benchmarks.our_loop import STEP_SIZE, THREAT, OurTraining, our_training
from benchmarks.registry import Result, Setting, benchmark, measure_pair
from rwp.core import build_network, make_objective, precision_context

# The demo's: network, image size and batch.
SHAPE, SIDE, BATCH = {"blocks": (1, 1), "width": 8}, 8, 64
STEPS = 50  # timed together, as one takes milliseconds


@benchmark(order=40)
def empty_mask(setting: Setting) -> Iterator[Result]:
    """The demo's network; the reference has the shortcut, so a ratio below 1 is its price."""
    if setting.device.type != "cpu":
        return
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 1, SIDE, SIDE, generator=draw)
    labels = torch.randint(0, 10, (BATCH,), generator=draw)
    plain, short = _training(), _training()

    def ours() -> None:
        for _ in range(STEPS):
            plain.step(images, labels)

    def reference() -> None:
        for _ in range(STEPS):
            _step_with_shortcut(short, images, labels)

    seconds = measure_pair(ours, reference, setting)
    yield Result("empty_mask", *seconds, notes={"steps": STEPS, "batch": BATCH})


def _training() -> OurTraining:
    torch.manual_seed(0)
    model = build_network(
        "preact_resnet", num_classes=10, in_channels=1, mean=None, std=None, **SHAPE
    ).train()
    return our_training(
        model,
        problem.variants(model)["mask_empty"][0],
        precision="fp32",
        memory_format=torch.contiguous_format,
    )


def _step_with_shortcut(training: OurTraining, images: Tensor, labels: Tensor) -> float:
    """As `OurTraining.step` where no example is under the mask."""
    objective = make_objective("at")
    with precision_context("fp32", images.device):
        adversarial = objective.attack(
            training.model,
            images,
            labels,
            threat=THREAT,
            step_size=STEP_SIZE,
            num_steps=10,
            generator=training.generator,
            bn_mode="train",
        )
        outer = objective.losses(training.model, images, adversarial, labels)
        if (outer.criterion < problem.NO_EXAMPLE).any():
            raise RuntimeError("expected an empty mask")
        loss = outer.objective.mean()
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
    return loss.item()
