"""Which weights of which layers are perturbed, and how they are moved for a while."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from rwp.core.settings import Tensors, WeightPerturbation, check_choice

_NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def perturbed_tensors(
    model: nn.Module, tensors: Tensors = "kernels", layers: tuple[int, int] | None = None
) -> dict[str, nn.Parameter]:
    """The parameters that are perturbed, of those that are being trained.

    Args:
        model: the network.
        tensors: "kernels": more than one dimension and "weight" in the name, as in both published
            programs, and of no normalization layer, so that scales, shifts and biases stay;
            "kernels_and_norms": these and the scales and shifts of normalization layers; "all".
        layers: the first and the last layer, by the numbers of `layer_numbers`, both included;
            negative ones count from the end. None: all.

    Raises:
        ValueError: an unknown word; a layer that the model does not have.
    """
    check_choice("tensors", tensors, get_args(Tensors))
    numbers = layer_numbers(model)
    chosen = _chosen_layers(layers, count=max(numbers.values(), default=-1) + 1)
    norms, kernels = _of_norms(model), _kernels(model)
    wanted = {
        "kernels": lambda name, parameter: name in kernels,
        "kernels_and_norms": lambda name, parameter: name in kernels or id(parameter) in norms,
        "all": lambda name, parameter: True,
    }[tensors]
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and numbers[name] in chosen and wanted(name, parameter)
    }


def all_kernels(model: nn.Module) -> dict[str, nn.Parameter]:
    """The kernels, those that are not being trained included."""
    names = _kernels(model)
    return {name: weight for name, weight in model.named_parameters() if name in names}


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """The layer that each parameter belongs to, from 0.

    Kernels are numbered as the model lists them (in a residual block: its convolutions, then that
    of the shortcut); any other parameter belongs to the kernel before it, or else to the first.
    """
    numbers: dict[str, int] = {}
    current = -1
    kernels = _kernels(model)
    for name, _ in model.named_parameters():
        current += name in kernels
        numbers[name] = max(current, 0)
    return numbers


def depth_factors(
    model: nn.Module, names: Sequence[str], perturbation: WeightPerturbation
) -> list[float]:
    """The strength of each of the perturbed tensors, by its layer.

    Raises:
        ValueError: all are 0.
    """
    numbers = layer_numbers(model)
    layers = sorted({numbers[name] for name in names})
    factors = dict(zip(layers, perturbation.depth_factors(len(layers)), strict=True))
    return [factors[numbers[name]] for name in names]


def _kernels(model: nn.Module) -> set[str]:
    norms = _of_norms(model)
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and "weight" in name and id(parameter) not in norms
    }


def _of_norms(model: nn.Module) -> set[int]:
    """The ids of the scales and shifts of normalization layers."""
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMALIZATIONS)
        for parameter in module.parameters(recurse=False)
    }


def _chosen_layers(layers: tuple[int, int] | None, count: int) -> range:
    if layers is None:
        return range(count)
    for layer in layers:
        if not -count <= layer < count:
            raise ValueError(
                f"layers: expected numbers from {-count} to {count - 1}, as the network has "
                f"{count} layers, got {layer}; name others"
            )
    first, last = (layer % count for layer in layers)
    if last < first:
        raise ValueError(
            f"layers: expected the first and the last layer, got {list(layers)}, which are "
            f"{first} and {last} of the network's; swap them"
        )
    return range(first, last + 1)


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
    if not isinstance(offset, Mapping):
        raise ValueError(
            f"offset: expected tensors by the names of parameters, got {type(offset).__name__}; "
            "of what `perturb_weights` returns, pass `.offset`"
        )
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
