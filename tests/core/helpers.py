"""Small networks and batches, and a way to tell whether a model was left as found."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rwp.core import ExampleLosses, build_network, make_objective

# B != C in every loss test: equal sizes hide wrong broadcasting.
BATCH_SIZE, NUM_CLASSES = 6, 4


class Batch(NamedTuple):
    images: Tensor
    adversarial: Tensor
    labels: Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_network(dtype: torch.dtype = torch.float64, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(
        "preact_resnet",
        num_classes=NUM_CLASSES,
        in_channels=channels,
        mean=[0.4] * channels,
        std=[0.3] * channels,
        blocks=(1, 1),
        width=4,
    )
    return network.to(dtype).train()


def small_batch(dtype: torch.dtype = torch.float64, channels: int = 3, seed: int = 1) -> Batch:
    draw = generator(seed)
    images = torch.rand(BATCH_SIZE, channels, 8, 8, dtype=dtype, generator=draw)
    noise = torch.rand(images.shape, dtype=dtype, generator=draw)
    labels = torch.randint(0, NUM_CLASSES, (BATCH_SIZE,), generator=draw)
    return Batch(images, (images + 0.1 * (noise - 0.5)).clamp(0, 1), labels)


def closure(model: nn.Module, batch: Batch, name: str = "at", **options: Any):
    objective = make_objective(name, **options)

    def losses() -> ExampleLosses:
        return objective.losses(model, batch.images, batch.adversarial, batch.labels)

    return losses


class LinearClassifier(nn.Module):
    """Logits are an affine function of the pixels, so attacks have known optima."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T + self.bias


def portrait(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that borrowing it must not change; compare with `same`."""
    parts: dict[str, Any] = {f"state {k}": v.clone() for k, v in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        parts[f"grad {name}"] = None if parameter.grad is None else parameter.grad.clone()
        parts[f"requires_grad {name}"] = parameter.requires_grad
    for name, module in model.named_modules():
        for setting in ("training", "track_running_stats", "momentum"):
            parts[f"{setting} {name}"] = getattr(module, setting, None)
    return parts


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what differs, bit for bit."""
    names = before.keys() | after.keys()
    return sorted(name for name in names if not same(before.get(name), after.get(name)))


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return type(first) is type(second) and first == second
