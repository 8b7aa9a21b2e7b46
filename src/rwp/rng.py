"""Randomness without state: every draw is a function of the seed and of what it is for.

A run that stops after any step can go on from that step without a saved generator,
and a change in one consumer (a longer attack, say) does not shift the draws of another.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import torch


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derived_seed(0, "attack", epoch, step)`."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(
    seed: int, *purpose: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator on `device` for one purpose."""
    return torch.Generator(device=device).manual_seed(derived_seed(seed, *purpose))


def kept_streams(device: torch.device, *, enabled: bool = True) -> AbstractContextManager[None]:
    """Afterwards torch's own streams, the CPU's and those of GPUs in use, are as they were before.

    A seed for torch is one for all devices: work on a CPU reaches the caller's GPUs, too.
    """
    in_use = device.type == "cuda" or torch.cuda.is_initialized()
    gpus = range(torch.cuda.device_count() if in_use else 0)
    return torch.random.fork_rng(gpus, enabled=enabled)
