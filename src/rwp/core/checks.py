"""What the attacks refuse, each with what was expected, what was found and what to do."""

from typing import cast

import torch
from torch import Tensor

# Interpolating between pixels (rotation, resizing) overshoots by this much at most.
_ROUNDING = 1e-6


def check_examples(images: Tensor, labels: Tensor) -> int:
    """Refuse images that are not finite in [0, 1] and labels that cannot be class indices.

    One transfer from the device, whatever the size.

    Returns:
        The largest label, to be compared with the number of classes once it is known.

    Raises:
        ValueError: an empty batch, another count of labels than images, pixels that are not
            finite or lie outside [0, 1], negative labels.
    """
    if images.shape[0] == 0 or labels.shape[0] != images.shape[0]:
        raise ValueError(
            f"labels: expected one per image and at least one image, got {labels.shape[0]} "
            f"for {images.shape[0]}; pass both of one batch"
        )
    extremes = torch.stack([*images.detach().aminmax(), *labels.aminmax()])
    low, high, first, last = cast(list[float], extremes.tolist())
    if not (low >= -_ROUNDING and high <= 1.0 + _ROUNDING):
        _refuse_images(images, low, high)
    if first < 0:
        raise ValueError(
            f"labels: expected class indices from 0, got {int(first)}; drop or relabel them"
        )
    return int(last)


def _refuse_images(images: Tensor, low: float, high: float) -> None:
    if not bool(images.isfinite().all()):
        raise ValueError(
            "images: expected finite pixels, got NaN or infinity; look at how they were loaded"
        )
    raise ValueError(
        f"images: expected pixels in [0, 1], got [{low:g}, {high:g}]; "
        "divide 0..255 pixels by 255, and leave normalization to the model"
    )


def check_label_range(largest: int, num_classes: int) -> None:
    """Refuse labels that the model has no logit for."""
    if largest >= num_classes:
        raise ValueError(
            f"labels: expected class indices below {num_classes}, the model's number of classes, "
            f"got {largest}; build the model with more classes or fix the labels"
        )


def check_start(start: Tensor, images: Tensor) -> None:
    """Refuse a given start of another shape than the images, or one that is not finite."""
    if start.shape != images.shape:
        raise ValueError(
            f"start: expected the images' shape {tuple(images.shape)}, got {tuple(start.shape)}; "
            "pass one start per image"
        )
    if not bool(start.isfinite().all()):
        raise ValueError("start: expected finite pixels, got NaN or infinity; pass a valid start")


def check_count(name: str, value: int) -> None:
    """Refuse a count below one."""
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}; name a positive count")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is none of `choices`."""
    if value not in choices:
        expected = ", ".join(choices)
        raise ValueError(f"{name}: expected one of {expected}, got {value!r}; name one of them")
