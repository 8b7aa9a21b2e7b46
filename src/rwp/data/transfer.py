"""Copy tensors to a GPU without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; a copy from ordinary memory would wait for all earlier work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def images_of(
    pixels: Tensor,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Bytes (batch, channels, height, width) as images in [0, 1] on `device`, in a layout."""
    return (pixels.to(device).float() / 255).contiguous(memory_format=memory_format)
