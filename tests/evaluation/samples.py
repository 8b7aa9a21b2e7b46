"""Attacks, models and records that several tests use, importable by their worker processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyautoattack import AutoAttack
from sklearn.datasets import load_digits
from torch import Tensor, nn

from rwp.core.models import build_network
from rwp.data.images import ImageSet
from rwp.evaluation.records import EvaluationRecord, pack
from rwp.training.spec import AttackSpec, ThreatSpec

THREAT = ThreatSpec(norm="linf", epsilon="0.1")
NETWORK: dict[str, Any] = {
    "architecture": {"family": "preact_resnet", "blocks": (1,), "width": 4},
    "num_classes": 10,
    "in_channels": 1,
    "mean": None,
    "std": None,
}


def attack(name: str, kind: str | None = None, **settings: Any) -> AttackSpec:
    settings.setdefault("threat", THREAT)
    return AttackSpec(name=name, kind=kind or name, **settings)


def autoattack_spec(version: str = "standard", **settings: Any) -> AttackSpec:
    return attack("autoattack", "autoattack", version=version, **settings)


class ShortAutoAttack(AutoAttack):
    """The package's four attacks with fewer steps, so that a test takes a second."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 8
        self.square.n_queries = 150


def record(
    robust: list[bool], *, clean: list[bool] | None = None, **changes: Any
) -> EvaluationRecord:
    flags = np.array(robust)
    before = np.ones_like(flags) if clean is None else np.array(clean)
    content: dict[str, Any] = {
        "fingerprint": "f",
        "key": None,
        "checkpoint": "best",
        "checkpoint_sha256": "c",
        "data_sha256": "d",
        "attack": attack("pgd-20", "pgd", num_steps=20, step_size="0.03"),
        "num_examples": len(flags),
        "num_clean_correct": int(before.sum()),
        "num_robust": int(flags.sum()),
        "clean_bits": pack(before),
        "robust_bits": pack(flags),
        "max_perturbation": 0.1,
        "num_nan": 0,
        "seconds": 1.0,
        "seed": 0,
        "batch_size": 16,
        "device": "cpu",
        "versions": {"torch": "2"},
    }
    return EvaluationRecord(**content | changes)


class LogitScaled(nn.Module):
    """A model behind a front that makes its softmax blind: the loss has no gradient left."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.model(images)


class Quantized(nn.Module):
    """A model behind a front of a few gray levels: no gradient passes the rounding."""

    def __init__(self, model: nn.Module, levels: int) -> None:
        super().__init__()
        self.model, self.levels = model, levels

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images * self.levels).round() / self.levels)


class Returning(nn.Module):
    """A model that returns what `function` makes of another model's logits."""

    def __init__(self, model: nn.Module, function: Any) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.model(images))


def three_classes() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def not_a_model() -> str:
    return "model"


def failing_model() -> nn.Module:
    raise RuntimeError("no weights\nhere")


def model_with_arguments(width: int) -> nn.Module:
    return nn.Linear(width, 10)


def linear_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class RandomFeatures(nn.Module):
    """Random convolutions and a linear readout."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(1, 6, 3, padding=1)
            self.readout = nn.Linear(6 * 64, 10, bias=False)

    def features(self, images: Tensor) -> Tensor:
        return self.convolution(images).relu().flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.readout(self.features(images))


def small_network(**changes: Any) -> nn.Module:
    """A network with random weights, of the kind `NETWORK` describes but for `changes`."""
    shape = {name: value for name, value in NETWORK["architecture"].items() if name != "family"}
    rest = {name: value for name, value in NETWORK.items() if name != "architecture"} | changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network("preact_resnet", **rest, **shape).eval()


def digits_part(part: slice) -> ImageSet:
    """Of the digits in a fixed order."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))[part]
    pixels = torch.tensor(found.images[order] * 15).round().to(torch.uint8)
    return ImageSet(pixels.unsqueeze(1), torch.tensor(found.target[order]), 10)


class WithoutGradient(nn.Module):
    """A model behind a front that changes no pixel and leaves no finite gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0 * (images - images.detach()).sqrt())


class Dropping(nn.Module):
    """A model behind dropout that is always on."""

    def __init__(self, model: nn.Module, share: float = 0.3) -> None:
        super().__init__()
        self.model, self.share = model, share

    def forward(self, images: Tensor) -> Tensor:
        return self.model(nn.functional.dropout(images, self.share, training=True))


class Centered(nn.Module):
    """A model that sees each image minus the mean of its batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images - images.mean(dim=0))


class Lonely(nn.Module):
    """A model that answers otherwise where an image comes alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * (-1 if len(images) == 1 else 1)


class Tiring(nn.Module):
    """A model whose logits turn over after some calls."""

    def __init__(self, model: nn.Module, calls: int) -> None:
        super().__init__()
        self.model, self.left = model, calls

    def forward(self, images: Tensor) -> Tensor:
        self.left -= 1
        return self.model(images) * (1 if self.left > 0 else -1)


class OtherWithGradient(nn.Module):
    """A model that is another one while a gradient is asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return logits.flip(1) if torch.is_grad_enabled() else logits
