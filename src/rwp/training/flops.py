"""The operations that a training takes, and how fast the machine does them."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from rwp.core.modes import evaluation_mode
from rwp.core.weight_perturbation import PerturbedWeights


@dataclass
class Work:
    """Counts of one epoch so far, in this and any earlier process: part of a checkpoint.

    Attributes:
        seconds: in steps.
        loading_seconds: of these, until the images of a step lay ready (on a GPU: were asked for).
        flops: multiplications and additions of convolutions and linear layers, those of all
            processes together.
    """

    seconds: float = 0.0
    loading_seconds: float = 0.0
    flops: float = 0.0

    def row(self, num_images: float, device: torch.device) -> dict[str, float]:
        """The epoch's rates, and the most memory that this process has held, in bytes."""
        seconds = max(self.seconds, 1e-9)
        return {
            "seconds": round(self.seconds, 3),
            "images_per_second": round(num_images / seconds, 1),
            "flops_per_second": round(self.flops / seconds),
            "loading_share": round(self.loading_seconds / seconds, 4),
            "peak_memory": peak_memory(device),
        }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The rates of a whole training, each epoch counted by its time, and its peak memory.

    Of no epoch, where it diverged within the first one, all are 0.
    """
    seconds = sum(row["seconds"] for row in rows) or 1.0
    rates = {
        name: sum(row[name] * row["seconds"] for row in rows) / seconds
        for name in ("images_per_second", "flops_per_second", "loading_share")
    }
    rounded = {name: round(rate, 4) for name, rate in rates.items()}
    return rounded | {"peak_memory": max((row["peak_memory"] for row in rows), default=0)}


@contextmanager
def timed(work: Work, name: str) -> Iterator[None]:
    """Add the time spent inside to a field of `work`."""
    started = time.monotonic()
    try:
        yield
    finally:
        setattr(work, name, getattr(work, name) + time.monotonic() - started)


class PassCounter:
    """Counts the passes through a model in a step and their images, and from that its FLOPs.

    A gradient of the images costs what the forward pass does, one of the weights twice as much.
    """

    def __init__(self, model: nn.Module, flops_per_image: float) -> None:
        self.flops_per_image = flops_per_image
        self.start()
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def start(self) -> None:
        """Forget what has passed, between steps: measuring is not training."""
        self.forward = self.attacked = self.learned = 0

    def _count(self, module: nn.Module, inputs: Any, named: Mapping[str, Any]) -> None:
        if not torch.is_grad_enabled():
            return
        self.forward += 1
        images = (*inputs, *named.values())[0]  # own code may name them
        if images.requires_grad:  # an attack asks for the gradient of the images
            self.attacked += len(images)
        else:
            self.learned += len(images)

    def take(self, perturbed: PerturbedWeights | None) -> float:
        """The FLOPs of the step that ends here, with its weight perturbation if it had one."""
        passes = backward = 1
        if perturbed is not None:
            backward += perturbed.diagnostics.backward_passes
            passes += perturbed.diagnostics.forward_passes
        units = 2 * self.attacked + self.learned * (1 + 2 * backward / passes)
        return units * self.flops_per_image


class _Counter(TorchDispatchMode):
    # torch's FlopCounterMode also follows modules, which torch.autograd.grad does not allow.
    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


def flops_of(function: Callable[[], object]) -> int:
    """FLOPs of all convolutions and matrix products inside, by torch's own formulas."""
    with _Counter() as counter:
        function()
    return counter.flops


@torch.no_grad()
def forward_flops(model: nn.Module, images: Tensor) -> float:
    """FLOPs of the forward pass of one image, in convolutions and linear layers."""
    with evaluation_mode(model):
        return flops_of(lambda: model(images)) / len(images)


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was given; a CPU does it at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has held: of the GPU, or else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
