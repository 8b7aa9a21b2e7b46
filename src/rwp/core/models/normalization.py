"""Input normalization as a layer, so that every model takes images in [0, 1]."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalization(nn.Module):
    """(images - mean) / std per channel; both are buffers of the model and saved with it."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Normalized images."""
        return (images - self.mean) / self.std


def input_layer(
    in_channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> nn.Module:
    """A normalization layer, or an identity for models that take [0, 1] as it is.

    Raises:
        ValueError: only one of mean and std, another count than channels, std not positive.
    """
    if mean is None and std is None:
        return nn.Identity()
    if mean is None or std is None or not len(mean) == len(std) == in_channels:
        raise ValueError(
            f"normalization: expected mean and std of {in_channels} channels, "
            f"got mean {mean} and std {std}; pass both, or neither"
        )
    if min(std) <= 0:
        raise ValueError(f"normalization: expected std above 0, got {std}; fix it")
    return Normalization(mean, std)
