"""Somebody's model as attacks want one, and left as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rwp.errors import UserError

_NAMES = ("logits", "output", "outputs", "out")


class AdaptedModel(nn.Module):
    """Images (batch, channels, height, width) in [0, 1] to logits of the images' type.

    The model gets a copy in the type of its own weights, so it may have 16 or 64 bits and may
    write into its input; of a tuple or table it returns, the logits are taken.
    """

    def __init__(self, model: nn.Module, *, num_classes: int) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        self.training = model.training

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, whatever the model's own type and way to return them."""
        outputs = self.model(images.to(self._dtype(images.dtype), copy=True))
        return self._logits(outputs).to(images.dtype)

    def _dtype(self, default: torch.dtype) -> torch.dtype:
        tensors = (*self.model.parameters(), *self.model.buffers())
        return next((value.dtype for value in tensors if value.is_floating_point()), default)

    def _logits(self, outputs: Any) -> Tensor:
        if isinstance(outputs, Tensor):
            return outputs
        table = outputs if isinstance(outputs, Mapping) else _fields(outputs)
        for name in _NAMES:
            if isinstance(table.get(name), Tensor):
                return cast(Tensor, table[name])
        values = outputs if isinstance(outputs, tuple | list) else table.values()
        wide = [
            value
            for value in values
            if isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] >= self.num_classes
        ]
        exact = [value for value in wide if value.shape[1] == self.num_classes]
        for found in (exact, wide):
            if len(found) == 1:
                return found[0]
        raise UserError(
            f"model: expected one tensor of logits (batch, {self.num_classes}), got "
            f"{type(outputs).__name__} with {len(exact)} of that shape; wrap the model so that it "
            "returns its logits alone"
        )


def _fields(outputs: Any) -> dict[str, Any]:
    """The named parts of a named tuple, data class or plain object."""
    names = getattr(outputs, "_fields", getattr(outputs, "__dict__", ()))
    return {name: getattr(outputs, name) for name in names}


def refuse_lazy(model: nn.Module) -> None:
    """Refuse a model whose weights do not exist yet.

    Raises:
        UserError: a lazy layer that has not seen an image.
    """
    lazy = [name for name, value in model.named_parameters() if is_lazy(value)]
    if lazy:
        raise UserError(
            f"model: expected weights, got none yet in {lazy[0]} ({type(model).__name__} has "
            "lazy layers); call it once on an image and load its weights"
        )


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Weights and buffers are put back afterwards, on their device, whatever is done to them.

    Raises:
        UserError: as `refuse_lazy`.
    """
    refuse_lazy(model)
    tables: list[dict[str, Tensor | None]] = [
        table
        for module in model.modules()
        for table in (cast(dict[str, Tensor | None], module._parameters), module._buffers)
    ]
    found = [(table, dict(table), {k: _copy(v) for k, v in table.items()}) for table in tables]
    try:
        yield
    finally:
        with torch.no_grad():
            for table, tensors, values in found:
                table.clear()
                table.update(tensors)
                for name, tensor in tensors.items():
                    value = values[name]
                    if tensor is None or value is None:
                        continue
                    if (tensor.device, tensor.dtype) != (value.device, value.dtype):
                        tensor.data = value  # it was moved, as `Module.to` does it
                    elif not _same(tensor, value):
                        tensor.copy_(value)


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().clone()


def _same(first: Tensor, second: Tensor) -> bool:
    same = first.shape == second.shape
    return same and bool(((first == second) | (first.isnan() & second.isnan())).all())
