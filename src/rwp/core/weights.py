"""Which weights are perturbed, and moving them for a while."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def perturbed_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are perturbed: kernels that are being trained.

    More than one dimension and "weight" in the name, as in both published programs; scales,
    shifts and biases stay.
    """
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and "weight" in name and parameter.requires_grad
    }


@contextmanager
def borrowed_weights(weights: Sequence[Tensor]) -> Iterator[Callable[[Sequence[Tensor]], None]]:
    """Yield a function that sets the weights to their original values plus an offset.

    The original bits come back on exit. They are copied for that: adding and subtracting would
    leave a rounding residue each time. An empty offset stands for zero; before the first other
    one it costs nothing.
    """
    weights = list(weights)
    originals: list[Tensor] = []

    def move_by(offset: Sequence[Tensor]) -> None:
        if offset and not originals:
            originals.extend(weight.detach().clone() for weight in weights)
        if originals:
            _write(weights, torch._foreach_add(originals, list(offset)) if offset else originals)

    try:
        yield move_by
    finally:
        move_by([])


def _write(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(weights), list(values))
    # Autocast keeps low-precision copies of the weights, which are now out of date.
    torch.clear_autocast_cache()


@contextmanager
def shifted_weights(model: nn.Module, offset: Mapping[str, Tensor]) -> Iterator[None]:
    """The weights are w + v inside; v is subtracted on exit.

    The optimizer steps inside, at w + v, as published: what it did to the weights stays, its
    weight decay included. An empty offset costs nothing.

    Raises:
        ValueError: the offset names a tensor the model does not have.
    """
    named = dict(model.named_parameters())
    unknown = sorted(offset.keys() - named.keys())
    if unknown:
        raise ValueError(
            f"offset: expected names of parameters of the model, got {unknown[0]!r}; "
            "pass the offset found for this model"
        )
    weights, values = [named[name] for name in offset], list(offset.values())
    _add(weights, values, sign=1)
    try:
        yield
    finally:
        _add(weights, values, sign=-1)


def _add(weights: Sequence[Tensor], values: Sequence[Tensor], *, sign: int) -> None:
    if weights:
        with torch.no_grad():
            torch._foreach_add_(list(weights), list(values), alpha=sign)
        torch.clear_autocast_cache()
