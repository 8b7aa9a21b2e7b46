"""PreAct ResNet (He et al., 2016) for small images, as in the published AT, AWP and RWP runs."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rwp.core.models.activation import activation_function
from rwp.core.models.normalization import input_layer
from rwp.core.settings import ActivationName, check_count


class PreActBlock(nn.Module):
    """Twice BN, activation, 3x3 convolution; a bare 1x1 convolution where the shape changes."""

    def __init__(
        self, in_planes: int, planes: int, stride: int, activation: ActivationName = "relu"
    ) -> None:
        super().__init__()
        self.activate = activation_function(activation)
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=1, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """The block; its shortcut sees the activated input where it projects."""
        activated = self.activate(self.bn1(inputs))
        shortcut = inputs if self.shortcut is None else self.shortcut(activated)
        hidden = self.conv1(activated)
        return self.conv2(self.activate(self.bn2(hidden))) + shortcut


class PreActResNet(nn.Module):
    """PreAct ResNet on images in [0, 1]; blocks (2, 2, 2, 2) and width 64 make PreAct ResNet-18.

    Stage i has `blocks[i]` blocks of `width * 2**i` channels and, but for the first, halves the
    image. Global average pooling, so any image of at least 8x8 pixels will do.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        activation: ActivationName = "relu",
    ) -> None:
        super().__init__()
        self.activate = activation_function(activation)
        check_count("width", width, least=0)
        if not isinstance(blocks, Sequence):
            raise ValueError(
                f"blocks: expected a list, one number for each stage, got {blocks!r}; ResNet-18 "
                "has (2, 2, 2, 2)"
            )
        for count in blocks:
            check_count("blocks", count, least=0)
        if not blocks or min(blocks) < 1 or width < 1:
            raise ValueError(
                f"preact_resnet: expected positive blocks and width, got blocks {tuple(blocks)} "
                f"and width {width}; PreAct ResNet-18 has (2, 2, 2, 2) and 64"
            )
        self.normalize = input_layer(in_channels, mean, std)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=1, padding=1, bias=False)
        planes = width
        self.num_stages = len(blocks)
        for stage, count in enumerate(blocks):
            layers = []
            for index in range(count):
                stride = 2 if index == 0 and stage > 0 else 1
                layers.append(PreActBlock(planes, width * 2**stage, stride, activation))
                planes = width * 2**stage
            # layer1, layer2, ...: the published state-dict keys.
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.bn = nn.BatchNorm2d(planes)
        self.linear = nn.Linear(planes, num_classes)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        hidden = self.conv1(self.normalize(images))
        for stage in range(self.num_stages):
            hidden = getattr(self, f"layer{stage + 1}")(hidden)
        pooled = F.adaptive_avg_pool2d(self.activate(self.bn(hidden)), 1)
        return self.linear(pooled.flatten(1))
