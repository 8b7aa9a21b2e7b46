"""torch.compile as a setting: fewer launches and faster steps on a GPU, other last digits."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from rwp.training.spec import Compilation

# A network is compiled once for each mode of its layers, momentum of their statistics, kind of
# gradient and size of batch that a training runs it with: up to some twenty, where the library
# gives up at eight. Going back to an earlier one costs nothing.
_VARIANTS = 64


def compiled(model: nn.Module, how: Compilation) -> nn.Module:
    """The model, to be called through a compiled forward and backward pass; it shares all weights.

    "default" fuses operations. "graphs" also records what a pass launches as one CUDA graph and
    plays it back: a pass of a small network is bound by launching. Random draws, projections and
    the optimizer stay outside of it. On a CPU the two are the same.
    """
    if how == "off":
        return model
    from torch._dynamo import config  # takes a second, so only where it is wanted

    config.recompile_limit = _VARIANTS
    if how == "default":
        return cast(nn.Module, torch.compile(model, dynamic=False))
    return _OwnOutputs(cast(nn.Module, torch.compile(model, dynamic=False, mode="reduce-overhead")))


class _OwnOutputs(nn.Module):
    """Copies logits out of the graph's memory, which the next pass overwrites.

    The attack of TRADES, for one, compares all its passes with the logits of the first.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(images)).clone()
