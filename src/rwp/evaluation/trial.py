"""Try a factory of the user's own on a tiny batch, as `rwp check` does.

A fault that is found before a plan runs costs seconds; later it would cost a training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rwp.core.models import build_network
from rwp.core.objectives import make_objective
from rwp.core.threat import ThreatModel
from rwp.errors import UserError, in_one_line
from rwp.evaluation.attacks import check_adversarial
from rwp.evaluation.models import borrowed
from rwp.evaluation.own import own_attack
from rwp.factories import call, takes
from rwp.training.own import (
    OwnObjective,
    own_mask,
    own_network,
    own_perturbation,
)
from rwp.training.spec import AttackSpec, ThreatSpec

Role = Literal["network", "objective", "mask", "perturbation", "attack"]
ROLES = get_args(Role)
_IMAGES = 4
# Names that torch gives to the parts: parametrizations.weight.original0, or weight_g of old.
_PART = re.compile(r"\.original\d+$|\.weight_[gv]$")
_SEED = 0


@dataclass(frozen=True)
class Shape:
    """Of the images and classes that are tried."""

    num_classes: int = 3
    in_channels: int = 3
    image_size: tuple[int, int] = (16, 16)


def try_factory(
    text: str,
    options: Mapping[str, Any],
    role: Role | None = None,
    shape: Shape | None = None,
    *,
    epsilon: str = "8/255",
    norm: str = "linf",
) -> list[str]:
    """Build it and run it once on a tiny batch of random images.

    Args:
        text: `package.module:factory`.
        options: of the factory.
        role: what it is; none: told from what it returns.
        shape: of the images.
        epsilon: radius of the trial's attacks on [0, 1] pixels.
        norm: "linf" or "l2".

    Returns:
        What was found, line by line; the first says what it is.

    Raises:
        UserError: it does not keep to its protocol; one line that names the factory.
    """
    shape = shape or Shape()
    role = role or guess_role(text, options, shape)
    batch = _Batch(shape, ThreatSpec.parse({"norm": norm, "epsilon": epsilon}, where="threat"))
    trials: dict[str, Callable[[str, Mapping[str, Any], _Batch], list[str]]] = {
        "network": _network,
        "objective": _objective,
        "mask": _mask,
        "perturbation": _perturbation,
        "attack": _attack,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return [f"{text}: {role}", *trials[role](text, options, batch)]


def guess_role(text: str, options: Mapping[str, Any], shape: Shape) -> Role:
    """What a factory makes, by what it returns and asks for.

    Raises:
        UserError: it cannot be told.
    """
    facts = vars(shape)
    with torch.random.fork_rng(devices=[]):
        made = call(text, options, criterion="objective", **facts)
    if isinstance(made, nn.Module):
        return "network"
    if hasattr(made, "losses") or takes(made, "adversarial"):
        return "objective"
    if callable(made):
        if takes(made, "threat"):
            return "attack"
        return "perturbation" if takes(made, "model") else "mask"
    raise UserError(
        f"{text}: expected a network, objective, mask, perturbation or attack, got "
        f"{type(made).__name__}; docs/own-work.md has their protocols"
    )


class _Batch:
    """Random images of random classes, and a small network for them."""

    def __init__(self, shape: Shape, threat: ThreatSpec) -> None:
        self.shape, self.threat = shape, threat
        self.generator = torch.Generator().manual_seed(_SEED)
        size = (_IMAGES, shape.in_channels, *shape.image_size)
        self.images = torch.rand(size, generator=self.generator)
        self.labels = torch.arange(_IMAGES) % shape.num_classes

    def network(self) -> nn.Module:
        """A small PreAct ResNet in train mode."""
        return build_network(
            "preact_resnet",
            num_classes=self.shape.num_classes,
            in_channels=self.shape.in_channels,
            mean=None,
            std=None,
            blocks=(1, 1),
            width=8,
        )

    @property
    def attack_options(self) -> dict[str, Any]:
        """Of a training's attack."""
        threat = ThreatModel(self.threat.norm, self.threat.radius)
        return {
            "threat": threat,
            "step_size": threat.epsilon / 4,
            "num_steps": 2,
            "generator": self.generator,
            "bn_mode": "train",
            "start": None,
            "check_inputs": False,
        }

    def as_attack(self, text: str, options: Mapping[str, Any]) -> AttackSpec:
        """One attack of an evaluation."""
        return AttackSpec(name="attack", kind=text, threat=self.threat, options=dict(options))


def _network(text: str, options: Mapping[str, Any], batch: _Batch) -> list[str]:
    model = own_network(text, options, mean=None, std=None, **vars(batch.shape))
    weights = sum(parameter.numel() for parameter in model.parameters())
    kernels = [n for n, p in model.named_parameters() if p.ndim > 1 and "weight" in n]
    notes = [
        f"images {tuple(batch.images.shape)} in [0, 1], logits (batch, {batch.shape.num_classes})",
        f"{weights} weights; AWP and RWP perturb {len(kernels)} kernels",
    ]
    if not kernels:
        notes.append("warning: nothing to perturb: no weight of more than one dimension")
    parts = [name for name in kernels if _PART.search(name)]
    if parts:
        notes.append(
            f"warning: {len(parts)} of them are parts of a weight that is worked out from several, "
            "as in weight normalization; each part is perturbed, and counts as a layer, by itself"
        )
    model.eval()
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in batch.images])
        if not torch.allclose(model(batch.images), alone, atol=1e-4):
            notes.append("warning: in eval mode the logits of an image depend on its batch")
    return notes


def _objective(text: str, options: Mapping[str, Any], batch: _Batch) -> list[str]:
    objective = OwnObjective(text, options, criterion="objective", random_start=None)
    model = batch.network().train()
    before = _weights(model)
    with _named(text, "attack and give losses"):
        adversarial = objective.attack(model, batch.images, batch.labels, **batch.attack_options)
        _check_ball(text, adversarial, batch)
        found = objective.losses(model, batch.images, adversarial, batch.labels)
        gradients = torch.autograd.grad(
            found.objective.mean(), list(model.parameters()), allow_unused=True
        )
    if all(gradient is None for gradient in gradients):
        raise UserError(f"{text}: expected losses that depend on the weights, got none that do")
    if not bool(found.objective.isfinite().all()):
        raise UserError(f"{text}: expected finite losses, got NaN or infinity")
    if not all(torch.equal(a, b) for a, b in zip(before, _weights(model), strict=True)):
        raise UserError(f"{text}: expected the weights as they were, got others; do not step")
    low, high = (float(value) for value in found.objective.detach().aminmax())
    return [
        f"losses ({_IMAGES},) in nats from {low:.3f} to {high:.3f} at random weights",
        f"logits {tuple(found.logits.shape)}; the attack starts from {objective.random_start}",
    ]


def _mask(text: str, options: Mapping[str, Any], batch: _Batch) -> list[str]:
    mask = own_mask(text, options)
    losses = torch.linspace(0.1, 3.0, 8)
    chosen = mask(losses, batch.generator)
    shown = ", ".join(f"{float(loss):.2f}" for loss in losses[chosen]) or "none"
    return [f"of losses 0.10 to 3.00 nats it selects {shown}"]


def _perturbation(text: str, options: Mapping[str, Any], batch: _Batch) -> list[str]:
    perturb = own_perturbation(text, options)
    model = batch.network().train()
    objective = make_objective("natural")
    before = _weights(model)
    with _named(text, "perturb weights"):
        found = perturb(
            model,
            lambda: objective.losses(model, batch.images, batch.images, batch.labels),
            generator=batch.generator,
        )
    if not all(torch.equal(a, b) for a, b in zip(before, _weights(model), strict=True)):
        raise UserError(
            f"{text}: expected the weights as they were, got moved ones; return the offset alone"
        )
    if not all(bool(value.isfinite().all()) for value in found.offset.values()):
        raise UserError(f"{text}: expected a finite offset, got NaN or infinity")
    return [
        f"an offset of {len(found.offset)} tensors, {found.diagnostics.norm_ratio:.4g} times as "
        "long as these weights"
    ]


def _attack(text: str, options: Mapping[str, Any], batch: _Batch) -> list[str]:
    model, spec = batch.network().eval(), batch.as_attack(text, options)
    with borrowed(model, "cpu"):
        try:
            found = own_attack(model, batch.images, batch.labels, spec, generator=batch.generator)
        except UserError as error:
            raise UserError(str(error).removeprefix(f"{spec.name}: ")) from error
    _check_ball(text, found, batch)
    moved = float((found - batch.images).abs().max())
    return [
        f"images inside the {batch.threat.norm} ball of {batch.threat.epsilon}; moved {moved:.4g}"
    ]


def _check_ball(text: str, adversarial: Tensor, batch: _Batch) -> None:
    spec = batch.as_attack(text, {}).replace(name="attack")
    try:
        check_adversarial(adversarial, batch.images, spec)
    except UserError as error:
        raise UserError(f"{text}: {str(error).removeprefix('attack: ')}") from error


def _weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


class _named:  # noqa: N801 (a context manager)
    """Errors of somebody else's code as one line that names the factory."""

    def __init__(self, text: str, doing: str) -> None:
        self.text, self.doing = text, doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(
                f"{self.text}: expected to {self.doing}, got {in_one_line(error)}"
            ) from error
