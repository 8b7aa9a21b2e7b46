"""Check a model before it is attacked, and identify it by its weights and its answers.

Equal weights are not enough: with other normalization they are another network, and a layer without
weights in front may round the pixels or hide the gradient. So records and unfinished attacks are
matched by logits and input gradients on a few points as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rwp.core.modes import evaluation_mode, frozen_weights
from rwp.core.precision import precision_context
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation import alarms
from rwp.evaluation.answers import Answers
from rwp.evaluation.records import Flags
from rwp.rng import generator_for
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


_POINTS = 8  # images, and as many with noise
_NOISE = 0.1
_DIRECTIONS = 4  # along which each image's gradient is noted
_GRID = 1e4  # steps that the largest value is divided into; rounding in 64 bits is far smaller
_NOT_FINITE = 1 << 60


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a model's tensors, and what else it saves."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        _note(digest, name, value)
    return digest.hexdigest()


def _note(digest: hashlib._Hash, name: str, value: Any) -> None:
    """One entry of a state: a tensor, or what quantized layers and modules of others keep there."""
    if isinstance(value, Tensor) and not value.is_quantized:
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Tensor):
        _note(digest, name, value.int_repr())
        _note(digest, name, value.dequantize())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            _note(digest, f"{name}.{key}", value[key])
    elif isinstance(value, tuple | list):
        for place, item in enumerate(value):
            _note(digest, f"{name}.{place}", item)
    else:
        plain = isinstance(value, str | bytes | int | float | bool | torch.dtype | None)
        digest.update(f"{name} {value if plain else type(value).__qualname__} ".encode())


def function_sha256(
    model: nn.Module, images: ImageSet, *, device: torch.device | str
) -> str | None:
    """A hash of what a model computes: logits and input gradients at some of the images.

    A copy answers in 64 bits on the CPU where it can, and its answers are rounded, so that the
    hash is the same on every processor. The model itself is left as it was.

    Returns:
        The hash; none for a model that answers differently each time.
    """
    points = _points(images)
    try:
        copy = deepcopy(model).to("cpu", torch.float64)
        first = _digest(_answers(copy, points.double()))
        again = _digest(_answers(copy, points.double()))
    except Exception:  # somebody's model: it may be tied to a device, to 32 bits, to one object
        first, again = (_digest(_native_answers(model, points, device)) for _ in range(2))
    return first if first == again else None


def _points(images: ImageSet) -> Float[Tensor, "points channels height width"]:
    """Some of the images, evenly spaced, and the same with a little fixed noise."""
    places = torch.linspace(0, len(images) - 1, min(_POINTS, len(images))).long()
    chosen, _ = batch_of(images.select(places), 0, _POINTS, "cpu")
    noise = torch.rand(chosen.shape, generator=generator_for(0, "identity")) - 0.5
    return torch.cat([chosen, (chosen + _NOISE * noise).clamp(0.0, 1.0)])


def _native_answers(model: nn.Module, points: Tensor, device: torch.device | str) -> list[Tensor]:
    with borrowed(model, device):
        return _answers(model, points.to(device))


def _answers(model: nn.Module, points: Tensor) -> list[Tensor]:
    """Logits, and each image's gradient of a mix of all logits along some directions."""
    devices = [points.device] if points.device.type == "cuda" else []
    inputs = points.clone().requires_grad_()
    with (
        torch.random.fork_rng(devices=devices),
        torch.enable_grad(),
        evaluation_mode(model),
        frozen_weights(model),
    ):
        torch.manual_seed(0)
        try:
            logits = model(inputs)
        except UserError:  # it takes no images that ask for a gradient
            logits = model(points)
        if not logits.requires_grad:
            return [logits.detach().double().cpu()]
        mix = torch.cos(torch.arange(1, logits.shape[1] + 1)).to(logits)
        (gradient,) = torch.autograd.grad((logits * mix).sum(), inputs, allow_unused=True)
    if gradient is None:
        return [logits.detach().double().cpu()]
    flat = gradient.double().cpu().flatten(1)
    generator = generator_for(0, "identity", "directions")
    directions = torch.randn(flat.shape[1], _DIRECTIONS, generator=generator, dtype=flat.dtype)
    return [logits.detach().double().cpu(), flat @ directions, flat.abs().sum(dim=1)]


def _digest(answers: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for values in answers:
        finite = torch.isfinite(values)
        largest = float(values[finite].abs().max()) if bool(finite.any()) else 0.0
        steps = torch.where(finite, values, 0.0) / (largest or 1.0) * _GRID
        # the sign of a rounded zero is lost in whole numbers
        whole = torch.where(finite, steps.round().long(), _NOT_FINITE)
        digest.update(f"{tuple(values.shape)} {largest:.2e} ".encode())
        digest.update(whole.numpy().tobytes())
    return digest.hexdigest()
