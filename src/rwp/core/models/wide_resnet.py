"""Wide ResNet (Zagoruyko and Komodakis, 2016), as in the published TRADES, RST and AWP runs."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rwp.core.models.activation import activation_function
from rwp.core.models.normalization import input_layer
from rwp.core.settings import ActivationName, check_count


class WideBlock(nn.Module):
    """Twice BN, activation, 3x3 convolution; a bare 1x1 convolution where the width changes."""

    def __init__(
        self, in_planes: int, planes: int, stride: int, activation: ActivationName = "relu"
    ) -> None:
        super().__init__()
        self.activate = activation_function(activation)
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=1, padding=1, bias=False)
        self.convShortcut: nn.Module | None = None
        if in_planes != planes:
            self.convShortcut = nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """The block; its shortcut sees the activated input where it projects."""
        activated = self.activate(self.bn1(inputs))
        shortcut = inputs if self.convShortcut is None else self.convShortcut(activated)
        hidden = self.conv1(activated)
        return self.conv2(self.activate(self.bn2(hidden))) + shortcut


class _Group(nn.Module):
    # Its blocks live under "layer": the published state-dict keys.
    def __init__(
        self, count: int, in_planes: int, planes: int, stride: int, activation: ActivationName
    ) -> None:
        super().__init__()
        blocks = [WideBlock(in_planes, planes, stride, activation)]
        blocks += [WideBlock(planes, planes, 1, activation) for _ in range(count - 1)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)


class WideResNet(nn.Module):
    """Wide ResNet on images in [0, 1], without the dead block of the original TRADES code.

    Depth 6n + 4 means three groups of n blocks with 16, 32 and 64 times `widen_factor`
    channels. Global average pooling, so any image of at least 8x8 pixels will do.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        depth: int,
        widen_factor: int,
        activation: ActivationName = "relu",
    ) -> None:
        super().__init__()
        self.activate = activation_function(activation)
        check_count("depth", depth, least=0)
        check_count("widen_factor", widen_factor, least=0)
        if depth < 10 or (depth - 4) % 6 or widen_factor < 1:
            raise ValueError(
                f"wide_resnet: expected a depth of 6n + 4 and a positive widen_factor, got "
                f"{depth} and {widen_factor}; WRN-34-10 has 34 and 10"
            )
        count = (depth - 4) // 6
        planes = [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.normalize = input_layer(in_channels, mean, std)
        self.conv1 = nn.Conv2d(in_channels, planes[0], 3, stride=1, padding=1, bias=False)
        self.block1 = _Group(count, planes[0], planes[1], 1, activation)
        self.block2 = _Group(count, planes[1], planes[2], 2, activation)
        self.block3 = _Group(count, planes[2], planes[3], 2, activation)
        self.bn1 = nn.BatchNorm2d(planes[3])
        self.fc = nn.Linear(planes[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        hidden = self.conv1(self.normalize(images))
        hidden = self.block3(self.block2(self.block1(hidden)))
        pooled = F.adaptive_avg_pool2d(self.activate(self.bn1(hidden)), 1)
        return self.fc(pooled.flatten(1))
