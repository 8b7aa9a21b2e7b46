"""The network and the images that the benchmarks share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.reference_loop import ProxyPerturbation
from rwp.core import WeightPerturbation, build_network

GAMMA, NUM_WEIGHT_STEPS = 0.01, 10
EVERY_EXAMPLE, NO_EXAMPLE = 1e9, 0.0


def network(device: torch.device, **shape: Any) -> nn.Module:
    """PreAct ResNet-18 for CIFAR-10 unless of another shape, the same weights every time."""
    torch.manual_seed(0)
    model = build_network(
        "preact_resnet",
        num_classes=10,
        in_channels=3,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2471, 0.2435, 0.2616),
        **shape,
    )
    return model.to(device).train()


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Random uint8 pictures and labels on the CPU; speed does not depend on what they show."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=draw)


def variants(model: nn.Module) -> dict[str, tuple[WeightPerturbation, ProxyPerturbation | None]]:
    """Ours and the published perturbation, by the name of the step."""

    def rwp(c_min: float) -> tuple[WeightPerturbation, ProxyPerturbation]:
        ours = WeightPerturbation.rwp(gamma=GAMMA, c_min=c_min, num_weight_steps=NUM_WEIGHT_STEPS)
        return ours, ProxyPerturbation(model, gamma=GAMMA, c_min=c_min)

    return {
        "at": (WeightPerturbation.none(), None),
        "at_awp": (
            WeightPerturbation.awp(gamma=GAMMA),
            ProxyPerturbation(model, gamma=GAMMA, c_min=None),
        ),
        "all_perturbed": rwp(EVERY_EXAMPLE),
        "mask_empty": rwp(NO_EXAMPLE),
    }
