"""Change a model for a while: each context manager restores it, whatever happens inside."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from rwp.core.settings import BatchNormMode, check_choice


def _norm_layers(model: nn.Module) -> list[_NormBase]:
    return [module for module in model.modules() if isinstance(module, _NormBase)]


@contextmanager
def frozen_weights(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside, so a backward pass is one of the inputs alone."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def untracked_statistics(model: nn.Module) -> Iterator[None]:
    """Layers in train mode use batch statistics inside, and no running statistic is written.

    Layers of other kinds, such as a normalization of the user's own, get their buffers back.
    """
    tracking = [layer for layer in _norm_layers(model) if layer.track_running_stats]
    # Instance normalization without tracking ignores its running statistics in eval mode, too.
    instance = [layer for layer in tracking if isinstance(layer, _InstanceNorm)]
    batch = [layer for layer in tracking if not isinstance(layer, _InstanceNorm)]
    others = [
        module
        for module in model.modules()
        if not (isinstance(module, _NormBase) and type(module).__module__.startswith("torch."))
    ]
    for layer in batch:
        layer.track_running_stats = False
    try:
        with _kept_buffers([*instance, *others]):
            yield
    finally:
        for layer in batch:
            layer.track_running_stats = True


@contextmanager
def kept_buffers(*modules: nn.Module) -> Iterator[None]:
    """Buffers get their values back; those that a lazy layer has yet to make stay as made."""
    with _kept_buffers([part for module in modules for part in module.modules()]):
        yield


@contextmanager
def _kept_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Of these modules, without those inside them; also where `forward` made new tensors."""
    before = [
        (module, name, buffer, buffer.detach().clone(), buffer._version)
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer) and buffer.layout == torch.strided and not buffer.is_inference()
    ]
    try:
        yield
    finally:
        for module, name, buffer, _, _ in before:
            if isinstance(module._buffers, dict):  # TorchScript has a table of its own
                module._buffers[name] = buffer
        for _, _, buffer, value, version in before:
            _put_back(buffer, value, version)


def _put_back(buffer: Tensor, value: Tensor, version: int) -> None:
    """Give a buffer its value; a graph that was made with another is noticed by autograd."""
    if buffer.shape != value.shape:
        buffer.data = value
    elif buffer._version != version:
        with torch.no_grad():
            buffer.copy_(value)
    elif 0 not in buffer.stride():  # an expanded one, which nothing can have written to
        # batch_norm writes past autograd, and so is it undone: a graph may hold the buffer
        buffer.data.copy_(value)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module is in eval mode inside; each gets its own mode back."""
    with own_modes(model):
        model.eval()
        yield


@contextmanager
def batch_norm_mode(model: nn.Module, mode: BatchNormMode) -> Iterator[None]:
    """Run the model in `mode`: "eval" (running statistics) or "train" (those of the batch).

    Either way the running statistics are left alone. In the mode "train_counted" they count the
    passes inside as well, which is how the published attacks run (docs/algorithm.md, "Batch
    normalization").

    Raises:
        ValueError: another mode.
    """
    check_choice("bn_mode", mode, get_args(BatchNormMode))
    alone = nullcontext() if mode == "train_counted" else untracked_statistics(model)
    with own_modes(model), alone:
        model.train(mode != "eval")
        yield


@contextmanager
def own_modes(model: nn.Module) -> Iterator[None]:
    """Each module gets its own mode back: a caller may have put single layers in eval mode."""
    # frozen TorchScript has lost the attribute: it stands in eval mode
    found = [(module, getattr(module, "training", False)) for module in model.modules()]
    try:
        yield
    finally:
        for module, was in found:
            module.training = was


@contextmanager
def repeated_statistics(model: nn.Module, times: int) -> Iterator[None]:
    """One forward pass inside counts `times` in the running statistics.

    k updates with the same batch weigh it 1 - (1 - m)^k, so a pass that published code repeats
    on the same input need not be repeated.

    Raises:
        ValueError: a tracking layer averages cumulatively (momentum None), where k updates
            have no equivalent momentum.
    """
    layers = [layer for layer in _norm_layers(model) if layer.track_running_stats]
    found = [(layer, layer.momentum) for layer in layers]
    if times != 1 and any(momentum is None for _, momentum in found):
        raise ValueError(
            "batch normalization: expected a momentum, got None; "
            "set one, or count each forward pass once"
        )
    for layer, momentum in found:
        if momentum is not None:
            layer.momentum = 1.0 - (1.0 - momentum) ** times
    try:
        yield
    finally:
        for layer, momentum in found:
            layer.momentum = momentum
            if layer.training and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.add_(times - 1)
