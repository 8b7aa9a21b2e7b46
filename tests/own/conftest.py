"""A folder with code of a user's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwp import factories

NETWORKS = """
import random

import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, *, num_classes, in_channels, width=4):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes),
        )

    def forward(self, images):
        return self.body(images)


def needs(*, num_classes, in_channels, width):
    return Tiny(num_classes=num_classes, in_channels=in_channels, width=width)


def ten(**options):
    return Tiny(num_classes=10, in_channels=3)


def lazy(*, num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def reparametrized(*, num_classes, in_channels):
    model = Tiny(num_classes=num_classes, in_channels=in_channels)
    nn.utils.parametrizations.weight_norm(model.body[0])
    return model


def double(*, num_classes, in_channels):
    return Tiny(num_classes=num_classes, in_channels=in_channels).double()


class Detached(Tiny):
    def forward(self, images):
        return self.body(images.detach())


class Frozen(Tiny):
    def __init__(self, *, num_classes, in_channels):
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.requires_grad_(False)


class Flat(Tiny):
    def forward(self, images):
        return self.body(images).flatten()


class Squeezed(Tiny):
    def forward(self, images):
        return self.body(images).squeeze()


class Forgetful(Tiny):
    def __init__(self, *, num_classes, in_channels):
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.register_buffer("drawn", torch.randn(num_classes), persistent=False)

    def forward(self, images):
        return self.body(images) * self.drawn


class Counting(Tiny):
    seen = 0

    def forward(self, images):
        if self.training:
            self.seen = self.seen + images.mean()
        return self.body(images) * (1 + self.seen)


class Noisy(Tiny):
    def forward(self, images):
        return self.body(images) * (1 + random.random())


class Fixed(Tiny):
    def __init__(self, *, num_classes, in_channels):
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.register_buffer("places", torch.arange(1.0, 1.0 + num_classes), persistent=False)

    def forward(self, images):
        return self.body(images) * self.places


class Softmaxed(Tiny):
    def forward(self, images):
        return self.body(images).softmax(1)


class Unlearned(Tiny):
    def __init__(self, *, num_classes, in_channels):
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        nn.init.constant_(self.body[-1].weight, 1e-9)
        nn.init.constant_(self.body[-1].bias, 0.3)


class Remembered(Tiny):
    def get_extra_state(self):
        return {"epoch": 3}

    def set_extra_state(self, state):
        pass


class Thinned(Tiny):
    def __init__(self, *, num_classes, in_channels):
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.register_buffer("places", torch.eye(3).to_sparse())


class Seeded(Tiny):
    def __init__(self, *, num_classes, in_channels):
        torch.manual_seed(0)
        super().__init__(num_classes=num_classes, in_channels=in_channels)


class Rebinding(Tiny):
    def __init__(self, *, num_classes, in_channels):
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images):
        if self.training:
            self.seen = self.seen + 1
        return self.body(images)


def lazy_norm(*, num_classes):
    body = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*body, nn.LazyLinear(num_classes))


def exits(*, num_classes):
    raise SystemExit("no licence")


class AdvProp(Tiny):
    def __init__(self, *, num_classes, in_channels):
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.losses = []

    def forward(self, images, adversarial=False):
        return self.body(images)


def lazy_plain_norm(*, num_classes):
    body = nn.LazyBatchNorm2d(affine=False), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(3 * 16 * 16, num_classes))


class NotANumber(Tiny):
    def forward(self, images):
        return self.body(images) / 0.0 * 0.0


def raises(*, num_classes):
    raise RuntimeError("no luck\\ntoday")


def text(*, num_classes):
    return "a network"
"""

METHODS = """
import copy
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from own.helpers import FACTOR


@dataclass(frozen=True)
class Smoothed:
    smoothing: float = 0.1

    def losses(self, model, images, adversarial, labels):
        logits = model(adversarial)
        losses = F.cross_entropy(
            logits, labels, label_smoothing=self.smoothing, reduction="none"
        )
        return FACTOR * losses, logits


class Curriculum:
    def __init__(self, **options):
        self.calls = 0

    def losses(self, model, images, adversarial, labels):
        self.calls += 1
        logits = model(adversarial)
        return self.calls * F.cross_entropy(logits, labels, reduction="none"), logits


class Remembering(Curriculum):
    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


class Amnesiac(Remembering):
    def load_state_dict(self, state):
        pass


class Hoarder(Remembering):
    def state_dict(self):
        return {"calls": self}


class Logging(Smoothed):
    calls = 0

    def losses(self, *batch):
        object.__setattr__(self, "calls", self.calls + 1)
        return super().losses(*batch)


class Tempered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = torch.nn.Parameter(torch.ones(()))

    def losses(self, model, images, adversarial, labels):
        logits = model(adversarial) / self.temperature
        return F.cross_entropy(logits, labels, reduction="none"), logits


def repeated_mean():
    def losses(model, images, adversarial, labels):
        logits = model(adversarial)
        return F.cross_entropy(logits, labels).expand(len(labels)), logits
    return losses


def both_batches():
    def losses(model, images, adversarial, labels):
        logits = model(torch.cat([images, adversarial]))
        return F.cross_entropy(logits[len(labels):], labels, reduction="none"), logits
    return losses


def two_classes():
    def losses(model, images, adversarial, labels):
        logits = model(adversarial)
        return F.cross_entropy(logits, labels, reduction="none"), logits[:, :2]
    return losses


def in_eval_mode():
    def losses(model, images, adversarial, labels):
        logits = model.eval()(adversarial)
        return F.cross_entropy(logits, labels, reduction="none"), logits
    return losses


def plain_teacher():
    kept = []

    def losses(model, images, adversarial, labels):
        if not kept:
            kept.append(copy.deepcopy(model))
        with torch.no_grad():
            for own, new in zip(kept[0].parameters(), model.parameters()):
                own.mul_(0.9).add_(new, alpha=0.1)
            target = kept[0](images).softmax(dim=1)
        logits = model(adversarial)
        return F.cross_entropy(logits, target, reduction="none"), logits

    return losses


class EvalAttack(Smoothed):
    def attack(self, model, images, labels, **options):
        model.eval()
        given = images.clone().requires_grad_()
        loss = F.cross_entropy(model(given), labels)
        (slope,) = torch.autograd.grad(loss, given)
        model.train()
        return (images + options["threat"].epsilon * slope.sign()).clamp(0, 1).detach()


def eval_target():
    def losses(model, images, adversarial, labels):
        with torch.no_grad():
            target = model.eval()(images).softmax(dim=1)
        logits = model.train()(adversarial)
        return F.cross_entropy(logits, target, reduction="none"), logits

    return losses


class GenMask:  # draws from a generator of its own, whose state stays on the CPU
    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, losses):
        return torch.rand(losses.shape, generator=self.generator) < 0.5

    def state_dict(self):
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["state"])


class Fading:
    def __init__(self):
        self.share = 1.0

    def __call__(self, losses):
        self.share /= 2
        return losses <= losses.quantile(self.share)


class Growing:
    def __init__(self):
        self.length = 1.0

    def __call__(self, model, losses, *, generator=None):
        self.length *= 2
        return {n: self.length * torch.ones_like(p) for n, p in model.named_parameters()}


def mean_loss():
    def losses(model, images, adversarial, labels):
        logits = model(adversarial)
        return F.cross_entropy(logits, labels), logits
    return losses


def unmade_loss(model, images, adversarial, labels):
    logits = model(adversarial)
    return F.cross_entropy(logits, labels, reduction="none"), logits


def unmade_mask(losses):
    return losses < 1


def detached_loss():
    def losses(model, images, adversarial, labels):
        logits = model(adversarial).detach()
        return F.cross_entropy(logits, labels, reduction="none"), logits
    return losses


def alone():
    def losses(model, images, adversarial, labels):
        return F.cross_entropy(model(adversarial), labels, reduction="none")
    return losses


def lowest(share=0.5):
    return lambda losses: losses <= losses.quantile(share)


def drawn():
    return lambda losses, generator: torch.rand(losses.shape, generator=generator) < 0.5


def numbers():
    return lambda losses: losses


def quits():
    def mask(losses):
        raise SystemExit(0)
    return mask


class OfTrueCriterion(Smoothed):
    def __init__(self, nan=0.0):
        object.__setattr__(self, "nan", nan)

    def losses(self, model, images, adversarial, labels):
        from rwp.core.objectives import ExampleLosses
        logits = model(adversarial)
        losses = F.cross_entropy(logits, labels, reduction="none")
        criterion = losses.detach() / 0 * 0 if self.nan else losses.detach() > 1
        return ExampleLosses(losses, criterion, logits)


def of_the_weights_themselves():
    return lambda model, losses, *, generator=None: dict(model.named_parameters())


def sam(rho):
    def perturb(model, losses, *, generator=None):
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(losses().objective.mean(), list(weights.values()))
        length = torch.sqrt(sum((g**2).sum() for g in gradients)) + 1e-12
        return {name: rho * g / length for name, g in zip(weights, gradients)}
    return perturb


def mover():
    def perturb(model, losses, *, generator=None):
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        return {}
    return perturb


def noise(strength=1.0):
    def attack(model, images, labels, *, threat, generator):
        drawn = torch.rand(images.shape, generator=generator) * 2 - 1
        return (images + strength * threat.epsilon * drawn.to(images.device)).clamp(0, 1)
    return attack


def spoiling(what):
    def attack(model, images, labels, *, threat, generator):
        if what == "mode":
            model.train()(images)
        if what == "weight":
            with torch.no_grad():
                next(model.parameters()).mul_(2.0)
        if what == "hook":
            model.register_forward_hook(lambda module, given, found: -found)
        if what == "global hook":
            torch.nn.modules.module.register_module_forward_hook(lambda *given: -given[2])
        if what == "layer":
            model[2] = torch.nn.Softplus()
        if what == "forward":
            model.forward = lambda given: given
        if what == "attribute":
            model[1].eps = 10.0
        return images.clone()
    return attack


class GoingBack(Smoothed):
    def losses(self, model, images, adversarial, labels):
        F.cross_entropy(model(images.requires_grad_()), labels).backward()
        return super().losses(model, images, adversarial + 0.1 * images.grad.sign(), labels)


class Shifting(Smoothed):
    def losses(self, model, images, adversarial, labels):
        labels.clamp_(max=1)
        return super().losses(model, images, adversarial.sub_(adversarial.mean()), labels)


class ByName(Smoothed):
    def losses(self, model, images, adversarial, labels):
        logits = model(images=adversarial)
        return F.cross_entropy(logits, labels, reduction="none"), logits


class Pairing(Smoothed):
    def losses(self, model, images, adversarial, labels):
        losses, logits = super().losses(model, images, adversarial, labels)
        return losses.view(2, -1).mean(0).repeat(2), logits


def elsewhere():
    return lambda losses: (losses > 0).to("meta")


def settings(where):
    def change():
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())
        torch.set_num_threads(torch.get_num_threads() + 1)

    def attack(model, images, labels, *, threat, generator):
        if where == "attack":
            change()
        return images.clone()

    if where == "factory":
        change()
    return attack


def shapeless():
    return lambda model, images, labels, *, threat, generator: images.flatten(1)


def careless():
    def attack(model, images, labels, *, threat, generator):
        noise = torch.rand_like(images) * 2 - 1  # not from the generator
        return (images + threat.epsilon * noise).clamp(0, 1)
    return attack
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `own` in the working folder; what is imported of it is forgotten afterwards."""
    package = tmp_path / "own"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helpers.py").write_text("FACTOR = 1.0\n")
    (package / "networks.py").write_text(NETWORKS)
    (package / "methods.py").write_text(METHODS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(factories, "_folders", [])
    monkeypatch.setattr(factories, "_loaded", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "own":
            del sys.modules[name]
