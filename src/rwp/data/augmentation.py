"""Random crop, flip and rotation of whole batches, where the images are.

The distribution is that of torchvision's RandomCrop, RandomHorizontalFlip and
RandomRotation (nearest pixel, zero fill) in this order. Pixels are only moved, never mixed,
so bytes and floats give the same result; bytes are the faster.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor

from rwp.data.spec import AugmentationSpec
from rwp.data.transfer import send
from rwp.errors import UserError


def augment(
    images: Num[Tensor, "batch c h w"], policy: AugmentationSpec, *, generator: torch.Generator
) -> Num[Tensor, "batch c h w"]:
    """Augment each image independently; type and device stay.

    The few random numbers are drawn on the generator's device and moved to the images', so a
    CPU generator gives the same augmentation everywhere.

    Raises:
        UserError: reflection padding as large as the image.
    """
    batch, _, height, width = images.shape
    if policy.changes_nothing or batch == 0:
        return images
    padding, origin = policy.crop_padding, generator.device
    if policy.padding_mode == "reflect" and padding >= min(height, width):
        raise UserError(
            f"crop_padding: expected less than the image side {min(height, width)} when "
            f"reflecting, got {padding}; lower it"
        )
    if padding or policy.flip:
        corners = torch.randint(2 * padding + 1, (2, batch), generator=generator, device=origin)
        flips = torch.zeros(batch, dtype=torch.int64, device=origin)
        if policy.flip:
            flips = torch.randint(2, (batch,), generator=generator, device=origin)
        choices = send(torch.stack([*corners, flips]), images.device)
        images = _crop(images, choices, padding, policy.padding_mode)
    if policy.rotation_degrees:
        unit = send(torch.rand(batch, generator=generator, device=origin), images.device)
        images = _rotate(images, (2 * unit - 1) * math.radians(policy.rotation_degrees))
    return images


def _crop(
    images: Num[Tensor, "batch c h w"], choices: Int[Tensor, "3 batch"], padding: int, mode: str
) -> Num[Tensor, "batch c h w"]:
    """Crop the padded images at the chosen rows and columns; choices[2] = 1 mirrors first.

    A row of a crop is a run of bytes in memory. Selecting runs copies whole rows, several
    times as fast as picking single pixels. Mirrored images are runs of a mirrored copy; rows
    above and below an image are its own rows again, or the run of zeros at the end.
    """
    batch, channels, height, width = images.shape
    stride, size = width + 2 * padding, images.element_size()
    memory = _wide_rows(images, padding, mode)
    last_run = memory.numel() - width
    top, left, mirrored = choices.view(3, batch, 1, 1)
    row = torch.arange(height, device=images.device) + (top - padding)
    inside = (row >= 0) & (row < height)
    row = row.abs()
    row = torch.where(row < height, row, 2 * (height - 1) - row)
    offset = (row + mirrored * (batch * channels * height)) * stride + left
    if mode == "zero":
        offset = torch.where(inside, offset, last_run)
    plane = torch.arange(batch * channels, device=images.device).view(batch, channels, 1)
    start = (plane * (height * stride) + offset).clamp_(max=last_run)
    runs = memory.view(torch.uint8).as_strided(
        (memory.numel() - width + 1, width * size), (size, 1)
    )
    return runs.index_select(0, start.flatten()).view(images.dtype).view_as(images)


def _wide_rows(images: Num[Tensor, "batch c h w"], padding: int, mode: str) -> Num[Tensor, " n"]:
    """In one run of memory: the rows padded left and right, the same mirrored, a row of zeros."""
    width = images.shape[3]
    rows = images.numel() // width
    stride = width + 2 * padding
    memory = images.new_zeros(2 * rows * stride + width)
    plain, mirrored = memory[: 2 * rows * stride].view(2, rows, stride)
    flat = images.reshape(rows, width)
    plain[:, padding : padding + width] = flat
    if padding and mode == "reflect":
        plain[:, :padding] = flat[:, 1 : padding + 1].flip(1)
        plain[:, padding + width :] = flat[:, width - padding - 1 : width - 1].flip(1)
    mirrored.copy_(plain.flip(1))
    return memory


def _rotate(
    images: Num[Tensor, "batch c h w"], angles: Float[Tensor, " batch"]
) -> Num[Tensor, "batch c h w"]:
    """Rotate counter-clockwise about the center, by radians; nearest pixel, zero fill."""
    batch, channels, height, width = images.shape
    bordered = F.pad(images, (1, 1, 1, 1))  # whatever lies outside lands on this frame
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    cos, sin = torch.cos(angles).unsqueeze(1), torch.sin(angles).unsqueeze(1)
    # the pixel (counted with the frame) whose cell holds the back-rotated center
    row = (cos * y).unsqueeze(2) + (sin * x + (height / 2 + 1)).unsqueeze(1)
    column = (cos * x).unsqueeze(1) - (sin * y - (width / 2 + 1)).unsqueeze(2)
    row = row.floor_().clamp_(0, height + 1)
    column = column.floor_().clamp_(0, width + 1)
    source = row.mul_(width + 2).add_(column).long().view(batch, 1, -1)
    flat = bordered.flatten(2)
    return flat.gather(2, source.expand(-1, channels, -1)).view_as(images)
