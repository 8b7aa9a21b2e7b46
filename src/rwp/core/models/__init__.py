"""The networks of the paper, by family; a new one is one file here and one line below."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from rwp.core.models.normalization import Normalization
from rwp.core.models.preact_resnet import PreActResNet
from rwp.core.models.wide_resnet import WideResNet
from rwp.core.settings import check_choice, check_count

__all__ = ["Normalization", "PreActResNet", "WideResNet", "build_network"]

_FAMILIES: dict[str, tuple[type[nn.Module], frozenset[str], frozenset[str]]] = {
    # family: (class, shape options it knows, those it needs)
    "preact_resnet": (PreActResNet, frozenset({"blocks", "width", "activation"}), frozenset()),
    "wide_resnet": (
        WideResNet,
        frozenset({"depth", "widen_factor", "activation"}),
        frozenset({"depth", "widen_factor"}),
    ),
}


def build_network(
    family: str,
    *,
    num_classes: int,
    in_channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    **shape: Any,
) -> nn.Module:
    """Build a network on images in [0, 1].

    Initial weights are drawn from torch's global generator; seed it first.

    Args:
        family: "preact_resnet" or "wide_resnet".
        num_classes: number of logits.
        in_channels: 3 for color, 1 for gray.
        mean: per channel, or None (with std) for no normalization.
        std: per channel.
        **shape: preact_resnet: blocks (default (2, 2, 2, 2)), width (default 64);
            wide_resnet: depth, widen_factor; both: activation ("relu" unless given, "silu").

    Raises:
        ValueError: an unknown family or shape option, or one out of its range.
    """
    check_choice("family", family, tuple(_FAMILIES))
    check_count("num_classes", num_classes)
    check_count("in_channels", in_channels)
    network, known, needed = _FAMILIES[family]
    if not needed <= shape.keys() <= known:
        raise ValueError(
            f"{family}: expected the shape options {', '.join(sorted(known))}, "
            f"got {', '.join(sorted(shape)) or 'none'}; fix their names"
        )
    return network(num_classes=num_classes, in_channels=in_channels, mean=mean, std=std, **shape)
