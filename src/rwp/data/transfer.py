"""Copy tensors to a GPU, in the layout that is fast there, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; a copy from ordinary memory would wait for all earlier work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def images_of(pixels: Tensor, device: torch.device) -> Tensor:
    """Bytes (batch, channels, height, width) as images in [0, 1] on `device`.

    A GPU gets the layout in which its convolutions are fastest; the numbers are the same.
    """
    images = pixels.to(device).float() / 255
    if device.type == "cuda":
        return images.contiguous(memory_format=torch.channels_last)
    return images
