"""Smaller images: each new pixel is the mean of the area that it covers. Imports no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def box_average(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Square images at `size` x `size`, by area averages, halves rounded up.

    The same picture gives the same bytes, whichever file it came from and on any machine: all
    sums are whole numbers below 2^53.

    Args:
        pixels: (..., side, side), bytes.
        size: at most `side`.

    Raises:
        ValueError: the images are not square, or smaller.
    """
    height, width = pixels.shape[-2:]
    if height != width or size > height:
        raise ValueError(f"expected squares of at least {size} pixels, got {height}x{width}")
    if size == height:
        return pixels
    weights = _overlaps(height, size)
    sums = weights @ pixels.astype(np.float64) @ weights.T
    area = height * height
    averages: NDArray[np.uint8] = ((sums.astype(np.int64) + area // 2) // area).astype(np.uint8)
    return averages


def _overlaps(side: int, size: int) -> NDArray[np.float64]:
    """How much of each old pixel (column) lies in each new one (row), in units of 1 / size."""
    old, new = np.arange(side) * size, np.arange(size) * side
    ends = np.minimum(old[None] + size, new[:, None] + side)
    starts = np.maximum(old[None], new[:, None])
    return np.clip(ends - starts, 0, None).astype(np.float64)
