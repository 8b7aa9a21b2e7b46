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
    leave a rounding residue each time.
    """
    weights = list(weights)
    originals = [weight.detach().clone() for weight in weights]

    def move(offset: Sequence[Tensor]) -> None:
        _write(weights, torch._foreach_add(originals, list(offset)))

    try:
        yield move
    finally:
        _write(weights, originals)


def _write(weights: list[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(weights, list(values))
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
