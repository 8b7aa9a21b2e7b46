"""Batch normalization in several processes: on the whole batch, or on each process's share."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rwp.core.process_group import Group


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
    """Mean and variance of all shares, joined as precisely as a single process has them."""

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
        if not self.training:  # of another number of batches in each process
            return super().forward(input)
        values = input if input.dtype == torch.float64 else input.float()
        shape = [1, -1] + [1] * (values.ndim - 2)
        count, mean, variance = self._statistics(values, shape)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * (count / (count - 1).clamp_min(1)))
        scaled = (values - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(input.dtype)

    def _statistics(self, values: Tensor, shape: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Count, mean and variance over all processes, from one message with those of each."""
        others = [0, *range(2, values.ndim)]
        own_mean = values.mean(others)
        own_squares = (values - own_mean.view(shape)).square().sum(others)
        own_count = values.new_full((1,), values.numel() // values.shape[1])
        own = torch.cat([own_count, own_mean, own_squares])
        table = torch.zeros_like(own).expand(self.group.size, -1).clone()
        table[self.group.rank] = own
        counts, means, squares = self.group.total(table).split([1, *[values.shape[1]] * 2], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (squares + counts * (means - mean).square()).sum(0) / count
        return count.detach(), mean, variance

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        counted = cast(Tensor, self.num_batches_tracked).add_(1)
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
