"""A model's answers on clean images, checked before it is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rwp.core.modes import evaluation_mode, frozen_weights
from rwp.core.precision import precision_context
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation import alarms
from rwp.evaluation.answers import Answers
from rwp.evaluation.records import Flags
from rwp.training.spec import AttackSpec

PROBABILITIES = (
    f"{alarms.PROBABILITIES}, or lie in [0, 1] or have one sum for all images as "
    "those do: attacks need logits, and understate their strength"
)
FLAT = (
    f"{alarms.FLAT}: cross-entropy has next to no slope, and attacks "
    "understate their strength; multiply the logits"
)
_FLAT = 0.01  # largest distance between two logits of an image
UNDERFLOW = (
    "the model has weights in float16, in which small gradients become zero: attacks may miss "
    "what they would find in 32 bits; evaluate it as float32 or bfloat16, too"
)
TRAIN_MODE = "the model was handed over in train mode; it was evaluated in eval mode"


@contextmanager
def borrowed(model: nn.Module, device: torch.device | str) -> Iterator[None]:
    """The model in eval mode, with frozen weights, in 32 bits; all is restored afterwards."""
    with evaluation_mode(model), frozen_weights(model), precision_context("fp32", device):
        yield


def searching(attack: AttackSpec, device: torch.device | str) -> AbstractContextManager[None]:
    """The arithmetic in which an attack searches: 32 bits but for drafts.

    What it finds is judged in 32 bits always. That confirms that an image fools, never that no
    image does, so a draft is an upper bound.
    """
    return precision_context(attack.draft or "fp32", device)


def batch_of(
    images: ImageSet, start: int, batch_size: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels of one batch, on the device."""
    part = slice(start, start + batch_size)
    pixels, labels = images.images[part].to(device), images.labels[part].to(device)
    return pixels if pixels.is_floating_point() else pixels.float() / 255, labels


def checked_logits(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One forward pass, with its outputs checked.

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
    if logits.shape[1] < 2:
        raise UserError(
            f"model: expected logits of two classes or more, got {logits.shape[1]}; where one "
            "number z tells two classes apart, return torch.cat((0 * z, z), dim=1)"
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
    if any(weight.dtype == torch.float16 for weight in model.parameters()):
        warnings.append(UNDERFLOW)
    correct, outputs, answers = [], [], None
    with borrowed(model, device):
        for start in range(0, len(images), batch_size):
            batch, labels = batch_of(images, start, batch_size, device)
            logits = checked_logits(model, batch, labels)
            correct.append((logits.argmax(dim=1) == labels).cpu().numpy())
            outputs.append(logits.double().cpu())
            if answers is None:
                if len(batch) == 1:  # two show whether an answer depends on the other
                    batch, labels = batch_of(images, 0, 2, device)
                    logits = checked_logits(model, batch, labels)
                answers = Answers(batch, logits, coarse=_has_few_bits(model))
                warnings += answers.again(model) or answers.odd_ways(model)
        if answers is not None and not alarms.says(warnings, alarms.UNSTEADY):
            warnings += answers.again(model)  # now that it was called many times
    return np.concatenate(correct), (*warnings, *_odd_outputs(torch.cat(outputs)))


def _odd_outputs(outputs: Float[Tensor, "n classes"]) -> tuple[str, ...]:
    """Whether these are no logits that an attack on cross-entropy can use."""
    low, high = outputs.aminmax(dim=1)
    none_below_zero = bool((low >= 0).all())
    if none_below_zero and bool((high <= 1 + 1e-4).all()):
        return (PROBABILITIES,)
    if bool((high - low).max() < _FLAT):
        return (FLAT,)
    sums = outputs.sum(dim=1)
    equal = len(sums) > 1 and bool((sums - sums[0]).abs().max() <= 1e-3 * sums[0])
    return (PROBABILITIES,) if none_below_zero and equal else ()


def _has_few_bits(model: nn.Module) -> bool:
    return any(value.dtype in (torch.float16, torch.bfloat16) for value in model.parameters())
