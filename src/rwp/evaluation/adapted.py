"""A model from elsewhere, adapted for attacks: any type of weights, any form of outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rwp.core.modes import own_modes
from rwp.errors import UserError, in_one_line, lacks_memory

_NAMES = ("output", "outputs", "out")


class AdaptedModel(nn.Module):
    """Images (batch, channels, height, width) in [0, 1] to logits of the images' type.

    The model gets a copy in the type of its own weights, so it may have 16 or 64 bits and may
    write into its input; of a tuple or table it returns, the logits are taken: what has
    is named so, else what has `num_classes` columns, or of several the one that is named as an
    output. Where `at_least` so many classes are known, any name counts more than the columns, and
    `guess` says what was taken if something else has as many or more. An error inside is one line.

    Raises:
        UserError: the model does not take the images, or returns no logits.
    """

    def __init__(self, model: nn.Module, *, num_classes: int, at_least: bool = False) -> None:
        super().__init__()
        self.model, self.num_classes, self._at_least = model, num_classes, at_least
        self.guess = ""
        self.training = getattr(model, "training", False)  # frozen TorchScript has none
        self.has_gradient = False  # known once it was seen; see `forward`
        self._tried: torch.dtype | None = None

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, whatever the model's own type and way to return them."""
        try:
            outputs = self.model(images.to(self._dtype(images), copy=True))
        except (Exception, SystemExit) as error:  # somebody else's code may fail in any way
            text = in_one_line(error)
            if isinstance(error, UserError) or lacks_memory(error):
                raise  # it is not the model's fault
            raise UserError(
                f"model: expected to answer images of shape {tuple(images.shape)} in [0, 1], got "
                f"{text}; choose the images it was made for, or wrap it "
                "so that forward takes images alone"
            ) from error
        # of their type, and on their device, where the model lies on several
        logits = self._logits(outputs).to(images)
        asked = self.has_gradient and images.requires_grad and torch.is_grad_enabled()
        if asked and not logits.requires_grad:  # constant for these images, as where it rejects
            logits = logits + 0.0 * images.flatten(1).sum(dim=1, keepdim=True)
        return logits

    def _dtype(self, images: Tensor) -> torch.dtype:
        """The one type of its weights; of several the first that it takes an image in."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        kinds = list(dict.fromkeys(v.dtype for v in tensors if v.is_floating_point()))
        if len(kinds) < 2:
            return kinds[0] if kinds else images.dtype
        if self._tried not in kinds:
            fitting = (kind for kind in kinds if self._takes(images[:1].detach(), kind))
            self._tried = next(fitting, kinds[0])
        return self._tried

    def _takes(self, image: Tensor, kind: torch.dtype) -> bool:
        try:
            with torch.no_grad():
                self.model(image.to(kind, copy=True))
        except (Exception, SystemExit):  # told when the model is called in earnest
            return False
        return True

    def _logits(self, outputs: Any) -> Tensor:
        if isinstance(outputs, Tensor):
            return _real(outputs)
        table = outputs if isinstance(outputs, Mapping) else _fields(outputs)
        parts = enumerate(outputs) if isinstance(outputs, tuple | list) else ()
        named = dict(table) or dict(parts)
        wide = {
            name: value
            for name, value in named.items()
            if isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] >= self.num_classes
        }
        exact = {name: v for name, v in wide.items() if v.shape[1] == self.num_classes}
        if "logits" in wide:
            return _real(wide["logits"])
        fitting = exact or wide
        if self._at_least and len(wide) > 1:
            self.guess = (
                f"the model returned {len(wide)} tensors that may be logits; the one that is named "
                "output or out was taken, or else that with as many columns as the labels have "
                f"classes, {self.num_classes}: give num_classes to be sure"
            )
        for name in _NAMES:
            if name in (wide if self._at_least else fitting):
                return _real(wide[name])
        if len(fitting) == 1:
            return _real(*fitting.values())
        raise UserError(
            f"model: expected one tensor of logits (batch, {self.num_classes}), got "
            f"{type(outputs).__name__} with {len(fitting)} of that shape; wrap the model so that "
            "it returns its logits alone"
        )


def _real(logits: Tensor) -> Tensor:
    if logits.is_complex() or logits.layout != torch.strided:
        kind = f"{logits.dtype}, {logits.layout}"
        raise UserError(
            f"model: expected logits as real numbers in a dense tensor, got {kind}; "
            "wrap the model so that it returns these"
        )
    return logits


def _fields(outputs: Any) -> dict[str, Any]:
    """The named parts of a named tuple, data class or plain object."""
    names = getattr(outputs, "_fields", getattr(outputs, "__dict__", ()))
    return {name: getattr(outputs, name) for name in names}


def require_module(model: Any, what: str = "model") -> None:
    """Refuse what is no network.

    Raises:
        UserError: `what` says where it came from, the message what to do.
    """
    if isinstance(model, nn.Module):
        return
    advice = "wrap a function in one whose forward calls it"
    if isinstance(model, Mapping) and any(isinstance(value, Tensor) for value in model.values()):
        advice = "these are weights: build their network, call load_state_dict, and give that"
    elif isinstance(model, type) and issubclass(model, nn.Module):
        advice = f"this is a class: give an instance, {model.__name__}(...)"
    elif isinstance(model, tuple) and model and isinstance(model[0], nn.Module):
        advice = "take its first part, the network"
    kind = type(model).__name__
    raise UserError(f"{what}: expected a torch.nn.Module, got {kind}; {advice}")


def refuse_unusable(model: nn.Module) -> None:
    """Refuse a model whose weights do not exist yet, or cannot be used.

    Raises:
        UserError: a lazy layer that has not seen an image; tensors without values, or made in
            inference mode, which no gradient passes; a program that has no eval mode.
    """
    try:
        with own_modes(model):
            model.eval()
    except Exception as error:  # torch.export's programs have one mode alone, and hide which
        raise UserError(
            f"model: expected one that can be put into eval mode, got {type(model).__name__}: "
            f"{in_one_line(error)}; give the torch.nn.Module that it was made from"
        ) from error
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise UserError(
                f"model: expected weights, got none yet in {name} ({type(model).__name__} has "
                "lazy layers); call it once on an image and load its weights"
            )
        if value.is_meta:
            raise UserError(
                f"model: expected weights, got none in {name}, which lies on the device meta; "
                "call to_empty(device='cpu') and load its weights"
            )
        if value.is_inference():
            raise UserError(
                f"model: expected weights that gradients pass, got {name}, which was made in "
                "inference mode; build the model outside of torch.inference_mode()"
            )


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Weights and buffers are put back afterwards, on their device, whatever is done to them.

    Raises:
        UserError: as `refuse_unusable`.
    """
    refuse_unusable(model)
    tables = [
        cast(MutableMapping[str, Tensor | None], table)
        for module in model.modules()
        for table in (module._parameters, module._buffers)
    ]
    found = [(table, dict(table), {k: _copy(v) for k, v in table.items()}) for table in tables]
    try:
        yield
    finally:
        with torch.no_grad():
            for table, tensors, values in found:
                if isinstance(table, dict):  # TorchScript's cannot lose or gain an entry
                    table.clear()
                    table.update(tensors)
                for name, tensor in tensors.items():
                    _put_back(tensor, values[name])


def _put_back(tensor: Tensor | None, value: Tensor | None) -> None:
    if tensor is None or value is None:
        return
    if (tensor.device, tensor.dtype) != (value.device, value.dtype):
        tensor.data = value  # it was moved, as `Module.to` does it
    elif not same_values(tensor, value):
        tensor.copy_(value)


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().clone()


def same_values(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of any type and layout are equal; NaN is equal to itself."""
    if (first.shape, first.dtype, first.layout) != (second.shape, second.dtype, second.layout):
        return False
    one, other = _plain(first), _plain(second)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _plain(value: Tensor) -> Tensor:
    """Its values where they can be compared: dense, in a type that knows NaN."""
    value = value.dequantize() if value.is_quantized else value
    value = value if value.layout == torch.strided else value.to_dense()
    narrow = value.is_floating_point() and value.element_size() == 1
    return value.float() if narrow else value
