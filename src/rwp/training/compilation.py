"""torch.compile as a setting: faster steps on a GPU, other last digits."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

# A network is compiled anew for each mode of its layers, kind of gradient and size of batch that
# a training runs it with: some ten of them, where the library gives up at eight.
_VARIANTS = 64


def compiled(model: nn.Module) -> nn.Module:
    """The model, to be called through a compiled forward pass; it shares all weights."""
    from torch._dynamo import config  # takes a second, so only where it is wanted

    config.recompile_limit = _VARIANTS
    return cast(nn.Module, torch.compile(model, dynamic=False))
