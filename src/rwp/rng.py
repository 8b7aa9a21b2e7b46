"""Randomness without state: every draw is a function of the seed and of what it is for.

A run that stops after any step can go on from that step without a saved generator,
and a change in one consumer (a longer attack, say) does not shift the draws of another.
"""

from __future__ import annotations

import hashlib

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
