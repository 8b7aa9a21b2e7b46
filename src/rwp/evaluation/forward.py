"""Running someone's model safely: as attacks want it, put back afterwards, outputs looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from rwp.core.modes import evaluation_mode, frozen_weights
from rwp.core.precision import precision_context
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.answers import UNSTEADY, Answers
from rwp.evaluation.records import Flags

PROBABILITIES = (
    "the model's outputs are probabilities: attacks need logits, and understate their strength"
)
_CHANNELS = (1, 3)
_GRAY_LEVEL = 1 / 255 + 1e-6
TRAIN_MODE = "the model was handed over in train mode; it was evaluated in eval mode"


@dataclass(frozen=True, eq=False)
class FloatImages(ImageSet):
    """Images that are no bytes: floats in [0, 1], (n, 1 or 3, height, width).

    Raises:
        UserError: another type, shape or range, or a label outside the classes.
    """

    def __post_init__(self) -> None:
        images = self.images
        shape = tuple(images.shape)
        if (
            not images.is_floating_point()
            or images.ndim != 4
            or 0 in shape
            or shape[1] not in _CHANNELS
        ):
            last = images.ndim == 4 and shape[3] in _CHANNELS
            advice = (
                "put the channels first: images.permute(0, 3, 1, 2)"
                if last
                else "convert them first"
            )
            raise UserError(
                "images: expected floats in [0, 1] or bytes, (n, 1 or 3, height, width), got "
                f"{images.dtype} {shape}; {advice}"
            )
        low, high = (float(value) for value in images.aminmax())
        if not bool(images.isfinite().all()):
            raise UserError(
                "images: expected finite pixels, got NaN or infinity; look at how they were loaded"
            )
        if not (low >= 0.0 and high <= 1.0):
            raise UserError(
                f"images: expected pixels in [0, 1], got [{low:g}, {high:g}]; divide 0..255 pixels "
                "by 255, and leave normalization to the model"
            )
        if 0 < high <= _GRAY_LEVEL:
            raise UserError(
                f"images: expected pixels up to 1, got none above {high:.4g}, one gray level; "
                "divide them by 255 only once"
            )
        # the rest as for bytes
        ImageSet(images[:, :, :1, :1].byte(), self.labels, self.num_classes)

    def select(self, index: Int[Tensor, " k"]) -> ImageSet:
        """The images at `index`, in that order."""
        return FloatImages(self.images[index], self.labels[index], self.num_classes)


@contextmanager
def borrowed(model: nn.Module, device: torch.device | str) -> Iterator[None]:
    """The model as attacks want it: eval mode, frozen weights, 32 bits; put back afterwards."""
    with evaluation_mode(model), frozen_weights(model), precision_context("fp32", device):
        yield


def batch_of(
    images: ImageSet, start: int, batch_size: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels of one batch, on the device."""
    part = slice(start, start + batch_size)
    pixels, labels = images.images[part].to(device), images.labels[part].to(device)
    return pixels if pixels.is_floating_point() else pixels.float() / 255, labels


def checked_logits(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One forward pass, with the outputs looked at.

    Raises:
        UserError: outputs that are not finite, of another shape, or too few for the labels.
    """
    with torch.no_grad():
        logits = model(images)
    if logits.ndim != 2 or len(logits) != len(images):
        raise UserError(
            f"model: expected logits of shape ({len(images)}, classes), got "
            f"{tuple(logits.shape)}; wrap it so that it returns one row per image"
        )
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            "model: expected finite logits, got NaN or infinity; nothing was recorded, "
            "look at the weights and at the normalization"
        )
    if int(labels.max()) >= logits.shape[1]:
        raise UserError(
            f"model: expected logits for {int(labels.max()) + 1} classes, got {logits.shape[1]}; "
            "choose the data set it was trained on"
        )
    return logits


def clean_outcomes(
    model: nn.Module, images: ImageSet, *, batch_size: int, device: torch.device | str
) -> tuple[Flags, tuple[str, ...]]:
    """Which examples are classified correctly, and what is odd about the model's outputs.

    Before anything else, several passes over the first batch are compared.

    Raises:
        UserError: no labeled images, or outputs that `checked_logits` refuses.
    """
    if len(images) == 0 or bool((images.labels < 0).any()):
        raise UserError(
            f"images: expected labeled images, got {len(images)} with "
            f"{int((images.labels < 0).sum())} unlabeled; evaluate on a labeled split"
        )
    warnings = [TRAIN_MODE] if model.training else []
    correct, probabilities, answers = [], True, None
    with borrowed(model, device):
        for start in range(0, len(images), batch_size):
            batch, labels = batch_of(images, start, batch_size, device)
            logits = checked_logits(model, batch, labels)
            correct.append((logits.argmax(dim=1) == labels).cpu().numpy())
            probabilities = probabilities and _are_probabilities(logits)
            if answers is None:
                answers = Answers(batch, logits, coarse=_has_few_bits(model))
                warnings += answers.again(model) or answers.odd_ways(model)
        if answers is not None and not any(UNSTEADY in text for text in warnings):
            warnings += answers.again(model)  # now that it was called many times
    if probabilities:
        warnings.append(PROBABILITIES)
    return np.concatenate(correct), tuple(warnings)


def _has_few_bits(model: nn.Module) -> bool:
    return any(value.dtype in (torch.float16, torch.bfloat16) for value in model.parameters())


def _are_probabilities(outputs: Tensor) -> bool:
    sums = outputs.double().sum(dim=1)
    return bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())
