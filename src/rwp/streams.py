"""Torch's own streams of random numbers, which code of somebody else's may draw from."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def kept_streams(device: torch.device, *, enabled: bool = True) -> AbstractContextManager[None]:
    """Afterwards torch's own streams, the CPU's and those of GPUs in use, are as they were before.

    A seed for torch is one for all devices: work on a CPU reaches the caller's GPUs, too.
    """
    in_use = device.type == "cuda" or torch.cuda.is_initialized()
    gpus = range(torch.cuda.device_count() if in_use else 0)
    return torch.random.fork_rng(gpus, enabled=enabled)
