"""An exponential moving average of a network, one update per step."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """Weights and running statistics, averaged; the first update copies them.

    To the bit what `torch.optim.swa_utils.AveragedModel` computes with buffers included. That one
    counts its updates in a tensor, which it copies to the device in each of them and waits.

    Attributes:
        module: the averaged network.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Average `model`; `decay` is the share of the average that an update keeps."""
        self.module = deepcopy(model)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the network as it is after a step."""
        averaged, new = _tensors(self.module), _tensors(model)
        if self.updates == 0:
            torch._foreach_copy_(averaged, new)
        else:
            pairs = list(zip(averaged, new, strict=True))
            floating = [pair for pair in pairs if pair[0].is_floating_point()]
            ours, theirs = [pair[0] for pair in floating], [pair[1] for pair in floating]
            torch._foreach_lerp_(ours, theirs, 1 - self.decay)
            for mean, value in pairs:
                if not mean.is_floating_point():  # batches counted: rounded down, as torch does
                    mean.copy_(mean * self.decay + value * (1 - self.decay))
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(parameter.detach() for parameter in model.parameters()), *model.buffers()]
