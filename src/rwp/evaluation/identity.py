"""Identify a model by its weights and by what it computes.

Equal weights are not enough: with other normalization they are another network, and a layer without
weights in front may round the pixels or hide the gradient. So records and unfinished attacks are
matched by logits and input gradients on a few points as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rwp.core.modes import evaluation_mode, frozen_weights
from rwp.data.images import ImageSet
from rwp.errors import UserError, lacks_memory
from rwp.evaluation.clean import batch_of, borrowed
from rwp.rng import generator_for
from rwp.streams import kept_streams

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
    places = torch.linspace(0, len(images) - 1, min(_POINTS, len(images)), device="cpu").long()
    chosen, _ = batch_of(images.select(places), 0, _POINTS, "cpu")
    noise = torch.rand(chosen.shape, generator=generator_for(0, "identity"), device="cpu") - 0.5
    return torch.cat([chosen, (chosen + _NOISE * noise).clamp(0.0, 1.0)])


def _native_answers(model: nn.Module, points: Tensor, device: torch.device | str) -> list[Tensor]:
    with borrowed(model, device):
        return _answers(model, points.to(device), no_way_back=(NotImplementedError, RuntimeError))


def _answers(
    model: nn.Module,
    points: Tensor,
    *,
    no_way_back: tuple[type[Exception], ...] = (NotImplementedError,),
) -> list[Tensor]:
    """Logits, and each image's gradient of a mix of all logits along some directions.

    Logits alone where there is no gradient, or where asking for it raises one of `no_way_back`.
    """
    inputs = points.clone().requires_grad_()
    with (
        kept_streams(points.device),
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
        mix = torch.cos(torch.arange(1, logits.shape[1] + 1, device="cpu")).to(logits)
        try:
            (gradient,) = torch.autograd.grad((logits * mix).sum(), inputs, allow_unused=True)
        except no_way_back as error:  # attacks say so
            if lacks_memory(error):
                raise
            gradient = None
    if gradient is None:
        return [logits.detach().double().cpu()]
    flat = gradient.double().cpu().flatten(1)
    generator = generator_for(0, "identity", "directions")
    shape = (flat.shape[1], _DIRECTIONS)
    directions = torch.randn(shape, generator=generator, dtype=flat.dtype, device="cpu")
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
