"""How fast a device can do arithmetic."""

from __future__ import annotations

import time

import torch


def matmul_rate(device: torch.device, dtype: torch.dtype, *, size: int | None = None) -> float:
    """Floating-point operations a second of a matrix product, a large one unless sized."""
    size = size or (8192 if device.type == "cuda" else 2048)
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
