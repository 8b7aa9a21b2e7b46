"""The optimizer, its learning rates, the average of the weights, and compiled passes."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from rwp.core.models.converters import COUNT
from rwp.errors import UserError, in_one_line
from rwp.training.spec import Compilation, OptimizationSpec, TrainSpec


def optimizer_of(spec: TrainSpec, model: nn.Module) -> torch.optim.SGD:
    """SGD on all parameters; weight decay counts for all of them, as published."""
    settings = spec.optimization
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def learning_rate(spec: OptimizationSpec, *, epoch: int, step: int, num_steps: int) -> float:
    """The learning rate of one optimizer step.

    `piecewise_by_step` (the AT family): time is `epoch + (step + 1) / num_steps`, so a drop at
    100 falls on the last batch of epoch 99. `piecewise_by_epoch` (TRADES): time is `epoch + 1`.
    `cosine_by_epoch` (RST): half a cosine over the epochs, from the full rate at epoch 0.
    """
    if spec.schedule == "constant":
        return spec.learning_rate
    if spec.schedule == "cosine_by_epoch":
        return spec.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / spec.epochs))
    by_step = spec.schedule == "piecewise_by_step"
    time = epoch + (step + 1) / num_steps if by_step else epoch + 1
    drops = sum(time >= milestone for milestone in spec.decay_epochs)
    return spec.learning_rate * spec.decay_factor**drops


class MovingAverage:
    """Weights and running statistics, averaged; the first update copies them.

    To the bit what `torch.optim.swa_utils.AveragedModel` computes with buffers included. That one
    counts its updates in a tensor, which it copies to the device in each of them and waits.

    Attributes:
        module: the averaged network.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Average `model`; `decay` is the share of the average that an update keeps.

        Raises:
            UserError: the model cannot be copied.
        """
        try:
            self.module = deepcopy(model)
        except (RuntimeError, TypeError) as error:  # weights that are worked out from others
            raise UserError(
                "average_decay: expected a network that copy.deepcopy can copy, got "
                f"{in_one_line(error)}; use torch.nn.utils.parametrizations for its weights"
            ) from error
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the network as it is after a step."""
        averaged, new = _tensors(self.module), _tensors(model)
        if self.updates == 0:
            torch._foreach_copy_(list(averaged.values()), list(new.values()))
        else:
            floating = [name for name, value in averaged.items() if value.is_floating_point()]
            ours, theirs = [averaged[name] for name in floating], [new[name] for name in floating]
            torch._foreach_lerp_(ours, theirs, 1 - self.decay)
            for name in averaged.keys() - set(floating):
                mean, value = averaged[name], new[name]
                if name.endswith(COUNT):  # batches counted: rounded down, as torch does
                    value = mean * self.decay + value * (1 - self.decay)
                mean.copy_(value)  # a table of places, say, has no average
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return weights | dict(model.named_buffers())


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
