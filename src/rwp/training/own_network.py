"""A network of the user's own: built by its factory, tried, and held to what a training asks.

docs/own-work.md has the protocol. What does not keep to it is one line that names the factory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rwp.core.models.converters import COUNT, bare_state
from rwp.core.models.normalization import input_layer
from rwp.core.modes import kept_buffers, own_modes, untracked_statistics
from rwp.errors import OwnCodeError, UserError
from rwp.factories import call, of_others

_ADVICE = "docs/own-work.md says what to return"
_TRIED = 2  # images: one alone is refused by batch normalization in train mode


class OwnNetwork(nn.Module):
    """Images in [0, 1], normalized where the recipe says so, through the user's network."""

    def __init__(self, normalization: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.normalization, self.network = normalization, network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        logits: Tensor = self.network(self.normalization(images))
        return logits


def own_network(
    text: str,
    options: Mapping[str, Any],
    *,
    num_classes: int,
    in_channels: int,
    image_size: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> OwnNetwork:
    """Build a network of the user's own and try it on images of zeros.

    Initial weights are drawn from torch's global generator; the trial draws nothing from it.

    Raises:
        UserError: no network of images (batch, in_channels, *image_size) to num_classes logits,
            or one without a gradient.
    """
    facts: dict[str, Any] = {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "image_size": (*image_size,),
    }
    images = torch.zeros(_TRIED, in_channels, *image_size)

    def build() -> OwnNetwork:
        inner = call(text, options, **facts)
        if not isinstance(inner, nn.Module):
            raise UserError(f"{text}: expected a torch.nn.Module, got {type(inner).__name__}")
        model = OwnNetwork(input_layer(in_channels, mean, std), inner)
        if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
            with _trial(text, model):
                if any(map(is_lazy, model.buffers())):
                    model.eval()  # so that running statistics stay as they are made
                model(images)  # gives lazy layers their shapes and initial weights
        return model

    model = build()
    try_network(text, model, images, num_classes=num_classes)
    _check_state(text, model)
    with torch.random.fork_rng(devices=[]):
        # other initial values than the first's
        torch.default_generator.manual_seed(torch.initial_seed() ^ 1)
        _try_state(text, model, build(), images)
    return model


def _check_state(text: str, model: nn.Module) -> None:
    """Refuse what a checkpoint cannot hold.

    Raises:
        UserError: an entry of the state_dict is no dense tensor.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            kind = value.layout if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"{text}: expected dense tensors alone in its state_dict, got {kind} in"
                f" {name.removeprefix('network.')}; keep it out of get_extra_state, or make it"
                " dense"
            )


def _try_state(text: str, model: nn.Module, second: nn.Module, images: Tensor) -> None:
    """Refuse a network that a checkpoint could not bring back: its file has the state_dict alone.

    Raises:
        UserError: a second network with the state of the first has other logits.
    """
    given = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    doing = "be built twice, with one state_dict"
    with _trial(text, model, doing=doing), torch.no_grad():
        model.train()(given)  # whatever else it counts or remembers, it does now
    with _trial(text, model, doing=doing), torch.no_grad():
        second.load_state_dict(model.state_dict())
        logits = []
        for one in (model, model, second):
            torch.default_generator.manual_seed(0)  # of a network that draws
            logits.append(one.eval()(given))
    again, other = (
        torch.allclose(logits[0], found, rtol=1e-3, atol=1e-5, equal_nan=True)
        for found in logits[1:]
    )
    if again and not other:  # evaluation warns of one that answers differently each time
        raise UserError(
            f"{text}: expected all that decides its logits in its state_dict, got other logits from"
            " a second network with the same; make it a parameter or a persistent buffer"
        )


def by_own_names(content: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
    """The weights of a file under the names of a network.

    Names are compared without what all of them begin with, in the file and in the network.

    Raises:
        ValueError: the file holds no tensors, or those of several networks.
    """
    own = {n: value for n, value in network.state_dict().items() if isinstance(value, Tensor)}
    names = dict(zip(bare_state(own), own, strict=True))
    state = {names.get(name, name): value for name, value in bare_state(content).items()}
    return {name: value for name, value in own.items() if name.endswith(COUNT)} | state


@contextmanager
def _trial(text: str, model: nn.Module, *, doing: str = "take images in [0, 1]") -> Iterator[None]:
    """Running statistics, modes and the stream of random numbers are as before afterwards."""
    lazy = any(map(is_lazy, (*model.parameters(), *model.buffers())))
    with of_others(text, doing):
        # what a lazy layer draws are initial weights
        same_draws = torch.random.fork_rng(devices=[], enabled=not lazy)
        untracked = nullcontext() if lazy else untracked_statistics(model)
        with kept_buffers(model), own_modes(model), untracked, same_draws:
            yield


def try_network(text: str, model: nn.Module, images: Tensor, *, num_classes: int) -> None:
    """Refuse a network that cannot be trained or attacked; it comes back as it was.

    Raises:
        UserError: weights or logits of another type, logits of another shape, no gradient.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weights:
        raise UserError(f"{text}: expected weights to train, got none that ask for a gradient")
    kinds = {str(weight.dtype) for weight in weights} - {"torch.float32"}
    if kinds:
        raise UserError(f"{text}: expected weights of torch.float32, got {kinds.pop()}")
    alone = images[:1]  # as the last batch of a measurement may be
    for training, batch in ((True, images), (False, images), (False, alone)):
        with _trial(text, model), torch.enable_grad():
            model.train(training)
            given = batch.clone().requires_grad_()
            logits = model(given)
            wanted = (len(batch), num_classes)
            check_tensor(text, "logits", logits, images, wanted, dtype=torch.float32)
            if not bool(logits.isfinite().all()):
                raise UserError(f"{text}: expected finite logits, got NaN or infinity")
            asked = [given, *weights]
            found = (
                torch.autograd.grad(logits.sum(), asked, allow_unused=True)
                if logits.requires_grad
                else [None]
            )
            if found[0] is None or all(gradient is None for gradient in found[1:]):
                what = "the images" if found[0] is None else "its weights"
                raise UserError(
                    f"{text}: expected a gradient of the logits with respect to {what}, got none;"
                    " do not detach them"
                )


def check_tensor(
    text: str,
    name: str,
    value: Any,
    given: Tensor,
    shape: tuple[int, ...] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse what own code returned for `given` and is no such tensor.

    Args:
        text: the factory.
        name: of what is returned.
        value: what is returned.
        given: names the device, and the shape where none is told.
        shape: what is expected.
        dtype: what is expected; none: any.

    Raises:
        OwnCodeError: it names the factory, and what of it is another thing.
    """
    shape = tuple(given.shape) if shape is None else shape
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise OwnCodeError(f"{text}: expected a tensor of {name} {shape}, got {kind}; {_ADVICE}")
    if tuple(value.shape) != shape:
        raise OwnCodeError(f"{text}: expected {name} {shape}, got {tuple(value.shape)}; {_ADVICE}")
    if dtype is not None and value.dtype != dtype:
        raise OwnCodeError(f"{text}: expected {name} of {dtype}, got {value.dtype}; {_ADVICE}")
    if value.device != given.device:
        raise OwnCodeError(
            f"{text}: expected {name} on {given.device}, as what it was given, got {value.device};"
            " move it there"
        )
