"""Images that are handed over as floats in [0, 1]; those on disk are bytes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from rwp.data.images import ImageSet
from rwp.errors import UserError

_CHANNELS = (1, 3)
_GRAY_LEVEL = 1 / 255 + 1e-6


@dataclass(frozen=True, eq=False)
class FloatImages(ImageSet):
    """Images that are no bytes: floats in [0, 1], (n, 1 or 3, height, width).

    Raises:
        UserError: another shape, or a label outside the classes.
    """

    def __post_init__(self) -> None:
        images = self.images
        if images.ndim != 4 or images.shape[1] not in _CHANNELS:
            raise UserError(
                "images: expected floats in [0, 1] or bytes, (n, 1 or 3, height, width), got "
                f"{images.dtype} {tuple(images.shape)}; convert them first"
            )
        # the rest as for bytes
        ImageSet(images[:, :, :1, :1].byte(), self.labels, self.num_classes)

    def select(self, index: Int[Tensor, " k"]) -> ImageSet:
        """The images at `index`, in that order."""
        return FloatImages(self.images[index], self.labels[index], self.num_classes)


def check_range(images: Tensor) -> None:
    """Look at floats as they were handed over; a part of them may be darker than all.

    Raises:
        UserError: they are not in [0, 1], not finite, or were divided by 255 twice.
    """
    low, high = (float(value) for value in images.aminmax())
    if not bool(images.isfinite().all()):
        raise UserError(
            "images: expected finite pixels, got NaN or infinity; look at how they were loaded"
        )
    if not (low >= 0.0 and high <= 1.0):
        raise UserError(
            f"images: expected pixels in [0, 1], got [{low:.8g}, {high:.8g}]; divide 0..255 "
            "pixels by 255, and leave normalization to the model"
        )
    if 0 < high <= _GRAY_LEVEL:
        raise UserError(
            f"images: expected pixels up to 1, got none above {high:.4g}, one gray level; "
            "divide them by 255 only once"
        )
