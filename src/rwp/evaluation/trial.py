"""Try a factory of the user's own on a tiny batch, as `rwp check` does.

A fault that is found before a plan runs costs seconds; later it would cost a training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from rwp.core.models import build_network
from rwp.core.modes import kept_buffers
from rwp.core.objectives import ExampleLosses, make_objective
from rwp.core.settings import Criterion
from rwp.core.weights import perturbed_tensors
from rwp.errors import UserError
from rwp.evaluation.attacks import check_adversarial
from rwp.evaluation.clean import borrowed
from rwp.evaluation.own import own_attack
from rwp.factories import call, of_others, takes
from rwp.training.own import (
    Memory,
    OwnMask,
    OwnObjective,
    OwnPerturbation,
)
from rwp.training.own_network import own_network
from rwp.training.spec import AttackSpec, ThreatSpec

Role = Literal["network", "objective", "mask", "perturbation", "attack"]
ROLES = get_args(Role)
_IMAGES = 4
# Names that torch gives to the parts: parametrizations.weight.original0, or weight_g of old.
_PART = re.compile(r"\.original\d+$|\.weight_[gv]$")
_SEED = 0
T = TypeVar("T", OwnObjective, OwnMask, OwnPerturbation)


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
    criterion: Criterion = "objective",
) -> list[str]:
    """Build it and run it once on a tiny batch of random images.

    Args:
        text: `package.module:factory`.
        options: of the factory.
        role: what it is; none: told from what it returns.
        shape: of the images.
        epsilon: radius of the trial's attacks on [0, 1] pixels.
        norm: "linf" or "l2".
        criterion: of an objective, what the mask looks at.

    Returns:
        What was found, line by line; the first says what it is.

    Raises:
        UserError: it does not keep to its protocol; one line that names the factory.
    """
    shape = shape or Shape()
    role = role or guess_role(text, options, shape)
    threat = ThreatSpec.parse({"norm": norm, "epsilon": epsilon}, where="threat")
    batch = _Batch(shape, threat, criterion)
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
    facts = {"criterion": "objective", **vars(shape)}
    # An option of a fact's name is one that only other roles are given.
    given = {name: fact for name, fact in facts.items() if name not in options}
    with torch.random.fork_rng(devices=[]):
        made = call(text, options, **given)
    if isinstance(made, nn.Module):
        compares = takes(made.forward, "adversarial") and takes(made.forward, "labels")
        own = callable(getattr(made, "losses", None)) or compares
        return "objective" if own else "network"
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

    def __init__(self, shape: Shape, threat: ThreatSpec, criterion: Criterion) -> None:
        self.shape, self.threat, self.criterion = shape, threat, criterion
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
        threat = self.threat.model
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED + 1)
        other = own_network(text, options, mean=None, std=None, **vars(batch.shape))
    model = own_network(text, options, mean=None, std=None, **vars(batch.shape))
    weights = sum(parameter.numel() for parameter in model.parameters())
    kernels = list(perturbed_tensors(model))
    notes = [
        f"images {tuple(batch.images.shape)} in [0, 1], logits (batch, {batch.shape.num_classes})",
        f"{weights} weights; AWP and RWP perturb {len(kernels)} kernels",
    ]
    if not kernels:
        notes.append(
            "warning: nothing to perturb: no weight of more than one dimension that is trained"
        )
    if all(map(torch.equal, model.parameters(), other.parameters())):
        notes.append(
            "warning: its first weights are the same under another of torch's seeds: every seed of "
            "a training starts at them, and a spread over seeds leaves them out"
        )
    parts = [name for name in kernels if _PART.search(name)]
    if parts:
        notes.append(
            f"warning: {len(parts)} of them are parts of a weight that is worked out from several, "
            "as in weight normalization; each part is perturbed, and counts as a layer, by itself"
        )
    model.eval()
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in batch.images])
        sums = alone.sum(dim=1)
        if bool((alone >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            notes.append(
                "warning: it seems to answer with probabilities, as after a softmax; training and "
                "attacks need logits"
            )
        if not torch.allclose(model(batch.images), alone, atol=1e-4):
            notes.append("warning: in eval mode the logits of an image depend on its batch")
    return notes


def _objective(text: str, options: Mapping[str, Any], batch: _Batch) -> list[str]:
    def build() -> OwnObjective:
        return OwnObjective(
            text,
            options,
            criterion=batch.criterion,
            random_start=None,
            num_classes=batch.shape.num_classes,
        )

    objective, model = build(), batch.network().train()
    before = _weights(model)
    with of_others(text, "attack and give losses"):
        adversarial = objective.attack(model, batch.images, batch.labels, **batch.attack_options)
        _check_ball(text, adversarial, batch)
        found = objective.losses(model, batch.images, adversarial, batch.labels)
        gradients = torch.autograd.grad(
            found.objective.mean(), list(model.parameters()), allow_unused=True
        )
    if all(gradient is None for gradient in gradients):
        raise UserError(f"{text}: expected losses that depend on the weights, got none that do")
    for name in ("objective", "criterion"):
        if not bool(getattr(found, name).isfinite().all()):
            raise UserError(f"{text}: expected finite losses, got NaN or infinity in the {name}")
    if not all(torch.equal(a, b) for a, b in zip(before, _weights(model), strict=True)):
        raise UserError(f"{text}: expected the weights as they were, got others; do not step")
    if not bool(found.logits.isfinite().all()):
        raise UserError(f"{text}: expected finite logits, got NaN or infinity")
    low, high = (float(value) for value in found.objective.detach().aminmax())
    notes = [
        f"losses ({_IMAGES},) in nats from {low:.3f} to {high:.3f} at random weights",
        f"logits {tuple(found.logits.shape)}; the attack starts from {objective.random_start}",
    ]
    if low == high:
        notes.append(
            "warning: all losses are the same, as if one mean were repeated; a mask needs each "
            "example's own"
        )
    if objective.num_dropped:
        notes.append(
            f"warning: a backward pass inside leaves a gradient at {objective.num_dropped} weights,"
            " which is dropped; add what is meant to be learned to the losses"
        )
    inner = objective.inner
    own = list(inner.parameters()) if isinstance(inner, nn.Module) else []
    if count := sum(weight.numel() for weight in own if weight.requires_grad):
        notes.append(
            f"warning: it has {count} weights of its own that no optimizer trains; freeze them, or "
            "make them part of the network"
        )

    def numbers(one: OwnObjective, other: bool) -> Tensor:
        options = batch.attack_options | {"generator": torch.Generator().manual_seed(_SEED)}
        with kept_buffers(model), _moved(model, other):
            adversarial = one.attack(model, batch.images, batch.labels, **options)
            found = one.losses(model, batch.images, adversarial, batch.labels)
        return found.objective.detach()

    return notes + _try_memory(text, build, numbers)


@contextmanager
def _moved(model: nn.Module, moved: bool) -> Iterator[None]:
    """Other weights for a while, as after some steps of a training."""
    before = _weights(model)
    with torch.no_grad():
        for weight in model.parameters() if moved else ():
            weight.mul_(1.1)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(model.parameters(), before, strict=True):
                weight.copy_(value)


def _try_memory(
    text: str, build: Callable[[], T], numbers: Callable[[T, bool], Tensor]
) -> list[str]:
    """Refuse what remembers something that a stopped training would forget.

    Args:
        text: names the factory.
        build: calls it.
        numbers: of one call, of the same random numbers each time; under other weights or losses
            if told so.

    Returns:
        A warning where an attribute changes from call to call, and nothing seems to rest on it.
    """

    def asked(part: T, other: bool = False) -> Tensor:
        torch.manual_seed(_SEED)
        with of_others(text, "be asked again"):
            return numbers(part, other)

    first = build()
    before = _plain_attributes(first)
    found = [asked(first), asked(first, other=True), asked(first)]
    memory = Memory.of(first)
    if memory is None:
        if not _same(found[0], found[2]):
            raise UserError(
                f"{text}: expected the same when asked the same again, got something else: what it "
                "remembers is lost when a stopped training goes on; give it state_dict and "
                "load_state_dict, and draw from torch alone"
            )
        after = _plain_attributes(first)
        changing = [name for name, value in after.items() if before.get(name) != value]
        return [
            f"warning: {name} changes from call to call, and begins anew when a stopped training "
            "goes on; give it state_dict and load_state_dict if anything rests on it"
            for name in changing
        ]
    second = build()
    with of_others(text, "give what it remembers to a second one, as plain values and tensors"):
        Memory(second).load(memory.stored(), torch.device("cpu"))
    if not _same(asked(first), asked(second)):
        raise UserError(
            f"{text}: expected all that it remembers in its state_dict, got something else from a "
            "second one with the same"
        )
    return []


def _same(first: Tensor, second: Tensor) -> bool:
    alike = first.shape == second.shape
    return alike and torch.allclose(first.float(), second.float(), rtol=1e-4, atol=1e-6)


def _plain_attributes(part: Any) -> dict[str, str]:
    """Those of what a factory returned that are numbers, texts, tensors or modules, in words."""
    kinds = (bool, int, float, str, Tensor, list, tuple, dict)
    found = getattr(part.inner, "__dict__", {})
    words = {name: repr(value) for name, value in found.items() if isinstance(value, kinds)}
    for name, value in found.items():
        if isinstance(value, nn.Module):
            words[name] = repr([float(w.double().sum()) for w in value.parameters()])
    return words


def _mask(text: str, options: Mapping[str, Any], batch: _Batch) -> list[str]:
    mask, losses = OwnMask(text, options), torch.linspace(0.1, 3.0, 8)
    chosen = mask(losses, batch.generator)
    shown = ", ".join(f"{float(loss):.2f}" for loss in losses[chosen]) or "none"
    notes = _try_memory(
        text,
        lambda: OwnMask(text, options),
        lambda one, other: one(
            losses * 1.1 if other else losses, torch.Generator().manual_seed(_SEED)
        ),
    )
    return [f"of losses 0.10 to 3.00 nats it selects {shown}", *notes]


def _perturbation(text: str, options: Mapping[str, Any], batch: _Batch) -> list[str]:
    perturb = OwnPerturbation(text, options)
    model = batch.network().train()
    objective = make_objective("natural")
    before = _weights(model)

    def losses() -> ExampleLosses:
        return objective.losses(model, batch.images, batch.images, batch.labels)

    def numbers(one: OwnPerturbation, other: bool) -> Tensor:
        with _moved(model, other):
            offset = one(model, losses, generator=torch.Generator().manual_seed(_SEED)).offset
        return torch.cat([torch.zeros(0), *(value.flatten() for value in offset.values())])

    with of_others(text, "perturb weights"):
        found = perturb(model, losses, generator=batch.generator)
    if not all(torch.equal(a, b) for a, b in zip(before, _weights(model), strict=True)):
        raise UserError(
            f"{text}: expected the weights as they were, got moved ones; return the offset alone"
        )
    if not all(bool(value.isfinite().all()) for value in found.offset.values()):
        raise UserError(f"{text}: expected a finite offset, got NaN or infinity")
    return [
        f"an offset of {len(found.offset)} tensors, {found.diagnostics.norm_ratio:.4g} times as "
        "long as these weights",
        *_try_memory(text, lambda: OwnPerturbation(text, options), numbers),
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
    spec = batch.as_attack(text, {})
    try:
        check_adversarial(adversarial, batch.images, spec)
    except UserError as error:
        raise UserError(f"{text}: {str(error).removeprefix('attack: ')}") from error


def _weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]
