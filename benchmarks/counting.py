"""Arithmetic: how much a step does, and how fast the device can do it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):
    # torch's FlopCounterMode also follows modules, which torch.autograd.grad does not allow.
    flops = 0

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        count = flop_registry.get(operator._overloadpacket)
        if count is not None:
            self.flops += count(*arguments, **(options or {}), out_val=result)
        return result


def flops_of(function: Callable[[], object]) -> int:
    """Floating-point operations of convolutions and matrix products inside."""
    with _Counter() as counter:
        function()
    return counter.flops


def forward_flops(model: nn.Module, images: torch.Tensor) -> int:
    """Those of one forward pass: the unit that steps are counted in."""
    with torch.no_grad():
        return flops_of(lambda: model(images))


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    left = torch.rand(size, size, device=device).to(dtype)
    best = 0.0
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
