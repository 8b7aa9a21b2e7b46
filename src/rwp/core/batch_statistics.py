"""Batch normalization in several processes: on the whole batch, or on each process's share."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rwp.core.group import Group


def normalize_together(model: nn.Module, group: Group) -> nn.Module:
    """Let each batch normalization take its statistics over the batch of all processes.

    The model keeps its parameters and buffers, and their names. On a GPU this is
    `torch.nn.SyncBatchNorm`, which a CPU does not have.
    """
    if group.size == 1:
        return model
    if next(model.parameters()).device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return _converted(model, group)


def _converted(module: nn.Module, group: Group) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return _GlobalBatchNorm(module, group)
    for name, child in module.named_children():
        setattr(module, name, _converted(child, group))
    return module


class _GlobalBatchNorm(_BatchNorm):
    """Mean and variance in two passes, as precise as a single process's."""

    def __init__(self, layer: _BatchNorm, group: Group) -> None:
        super().__init__(
            layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.training, self.group = layer.training, group

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions; channels are the second."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        values = input if input.dtype == torch.float64 else input.float()
        others = [0, *range(2, values.ndim)]
        shape = [1, -1] + [1] * (values.ndim - 2)
        count = self.group.total(values.numel() // values.shape[1])
        mean = self.group.total(values.sum(others)) / count
        centered = values - mean.view(shape)
        variance = self.group.total(centered.square().sum(others)) / count
        if self.training and self.track_running_stats:
            self._track(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        scaled = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        counted = cast(Tensor, self.num_batches_tracked)
        counted.add_(1)
        momentum = 1.0 / int(counted) if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            cast(Tensor, running).lerp_(new, momentum)


def average_statistics(model: nn.Module, group: Group) -> None:
    """Give all processes the mean of their running statistics.

    For layers that look at their own share of the batch: the mean of the running variances is
    that within the shares, a little less than that of the whole batch.
    """
    if group.size == 1:
        return
    statistics = [
        buffer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
        for buffer in (layer.running_mean, layer.running_var)
        if buffer is not None
    ]
    if statistics:
        group.add_up_(statistics)
        torch._foreach_div_(statistics, group.size)
