"""Objectives, masks and perturbations of the user's own, held to what a training asks.

Each is what a factory returns (`rwp.factories`); docs/own-work.md has the protocols. What does not
keep to its protocol is one line that names the factory.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rwp.core.attacks import pgd
from rwp.core.losses import full_precision
from rwp.core.modes import (
    batch_norm_mode,
    frozen_weights,
    own_modes,
    untracked_statistics,
)
from rwp.core.objectives.base import ExampleLosses, example_losses
from rwp.core.process_group import ALONE, Group
from rwp.core.settings import Criterion, RandomStart, WeightPerturbation
from rwp.core.weight_perturbation import PerturbationDiagnostics, PerturbedWeights
from rwp.errors import UserError
from rwp.factories import call, load, of_others, takes
from rwp.training.own_network import check_tensor


class OwnObjective:
    """An objective of the user's own: its losses, its attack or else PGD on the cross-entropy."""

    def __init__(
        self,
        text: str,
        options: Mapping[str, Any],
        *,
        criterion: Criterion,
        random_start: RandomStart | None,
        num_classes: int | None = None,
    ) -> None:
        """Call the factory.

        Args:
            text: `package.module:factory`.
            options: of the factory, which also gets `criterion` if it has such a parameter.
            criterion: what the mask of a weight perturbation looks at, where the objective
                returns its losses and logits alone.
            random_start: of the attack; none: the objective's own, or "uniform".
            num_classes: of the logits; none: whatever they have.

        Raises:
            UserError: it returns nothing that has losses.
        """
        self.text, self.options = text, dict(options)
        self.criterion, self.num_classes = criterion, num_classes
        self.inner = call(text, options, criterion=criterion)
        self._takes_criterion = takes(load(text), "criterion")
        self._losses = getattr(self.inner, "losses", self.inner)
        if not callable(self._losses) or isinstance(self.inner, Tensor):
            raise UserError(
                f"{text}: expected an object with losses(model, images, adversarial, labels), got "
                f"{type(self.inner).__name__}"
            )
        self.num_dropped = 0  # weights at which the last call has left a gradient
        self.has_attack = getattr(self.inner, "attack", None) is not None
        self.random_start: RandomStart = (
            random_start or getattr(self.inner, "random_start", None) or "uniform"
        )

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """Adversarial images, of the images' shape and type.

        An attack of the user's own gets copies, runs in `bn_mode` and leaves no gradient at the
        weights.
        """
        if not self.has_attack:
            return pgd(model, images, labels, random_start=self.random_start, **options)
        with (
            frozen_weights(model),
            batch_norm_mode(model, options["bn_mode"]),
            _full_precision(model),
            of_others(self.text, f"attack images {tuple(images.shape)}"),
        ):
            found = self.inner.attack(model, images.clone(), labels.clone(), **options)
        check_tensor(self.text, "adversarial images", found, images, dtype=images.dtype)
        return found.detach()

    def losses(
        self, model: nn.Module, images: Tensor, adversarial: Tensor, labels: Tensor
    ) -> ExampleLosses:
        """One loss per example, with the logits that go with them.

        The user's code gets copies, as the same images are asked for again at other weights. What
        a backward pass of it leaves at the weights is dropped.

        Raises:
            UserError: they are something else, or the model is left in another mode.
        """
        modes = [module.training for module in model.modules()]
        doing = f"give losses of images {tuple(images.shape)}"
        with _full_precision(model), _kept_gradients(model), of_others(self.text, doing):
            given = images.clone(), adversarial.clone(), labels.clone()
            found = self._losses(model, *given)
            self.num_dropped = sum(weight.grad is not None for weight in model.parameters())
        if modes != [module.training for module in model.modules()]:
            raise UserError(
                f"{self.text}: expected the model in the mode it came in, got it in another; call "
                "train() again after eval()"
            )
        if not isinstance(found, ExampleLosses):
            if not isinstance(found, tuple) or len(found) != 2:
                raise UserError(
                    f"{self.text}: expected losses (batch,) and logits (batch, classes), or "
                    f"ExampleLosses, got {type(found).__name__}"
                )
            check_tensor(self.text, "losses", found[0], labels)
            found = example_losses(found[0], found[1], labels, self.criterion)
        elif self.criterion != "objective" and not self._takes_criterion:
            raise UserError(
                f"{self.text}: expected a factory with the parameter criterion, as its losses name "
                f"what the mask looks at themselves, got criterion: {self.criterion} and none that "
                "takes it; add the parameter, or leave criterion out"
            )
        self._check(found, labels)
        return found

    def _check(self, found: ExampleLosses, labels: Tensor) -> None:
        for name in ("objective", "criterion"):
            check_tensor(self.text, f"one {name} per example", getattr(found, name), labels)
            if not getattr(found, name).is_floating_point():
                kind = getattr(found, name).dtype
                raise UserError(
                    f"{self.text}: expected losses of a floating type, got the {name} in {kind}; "
                    "the mask compares the criterion with c_min itself"
                )
        if torch.is_grad_enabled() and not found.objective.requires_grad:
            raise UserError(
                f"{self.text}: expected losses with a gradient, got none; do not detach them"
            )
        if not isinstance(found.logits, Tensor) or found.logits.ndim != 2:
            raise UserError(f"{self.text}: expected logits (batch, classes), got something else")
        classes = self.num_classes or found.logits.shape[1]
        check_tensor(self.text, "logits", found.logits, labels, (len(labels), classes))


@contextmanager
def _kept_gradients(model: nn.Module) -> Iterator[None]:
    """Each weight's gradient is afterwards what it was before."""
    before = [(weight, weight.grad) for weight in model.parameters()]
    for weight, _ in before:
        weight.grad = None
    try:
        yield
    finally:
        for weight, gradient in before:
            weight.grad = gradient


@contextmanager
def _full_precision(model: nn.Module) -> Iterator[None]:
    """The model's logits are in 32 bits at least, as those that objectives of this package see."""

    def raised(_: nn.Module, __: Any, found: Any) -> Any:
        return full_precision(found) if isinstance(found, Tensor) else found

    kind = next(model.parameters()).device.type
    hook = model.register_forward_hook(raised) if torch.is_autocast_enabled(kind) else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def _function(text: str, options: Mapping[str, Any], of: str) -> Any:
    """What a factory returns, if it can be called."""
    inner = call(text, options)
    if not callable(inner):
        raise UserError(f"{text}: expected a function of {of}, got {type(inner).__name__}")
    return inner


class OwnMask:
    """A mask of the user's own: losses (batch,) in nats to the examples that are selected."""

    def __init__(self, text: str, options: Mapping[str, Any]) -> None:
        """Call the factory.

        Raises:
            UserError: it returns no function.
        """
        self.text, self.options = text, dict(options)
        self.inner = _function(text, options, "losses (batch,)")
        self._drawing = takes(self.inner, "generator")

    def __call__(self, losses: Tensor, generator: torch.Generator | None) -> Tensor:
        """The examples that are selected, booleans (batch,)."""
        given = losses.detach().clone()
        with of_others(self.text, "take losses (batch,)"):
            found = self.inner(given, generator=generator) if self._drawing else self.inner(given)
        check_tensor(self.text, "a mask", found, losses, dtype=torch.bool)
        return found


class OwnPerturbation:
    """A weight perturbation of the user's own, called as `rwp.core.perturb_weights` is."""

    def __init__(self, text: str, options: Mapping[str, Any]) -> None:
        """Call the factory.

        Raises:
            UserError: it returns no function.
        """
        self.text, self.options = text, dict(options)
        self.inner = _function(text, options, "a model and its losses")

    def __call__(
        self,
        model: nn.Module,
        losses: Callable[[], ExampleLosses],
        perturbation: WeightPerturbation | None = None,
        *,
        generator: torch.Generator | None = None,
        group: Group = ALONE,
    ) -> PerturbedWeights:
        """The offset it finds; the settings and the group are those of others."""

        passes = {"forward": 0, "backward": 0}

        def went_back(_: Tensor) -> None:
            passes["backward"] += 1

        def fresh() -> ExampleLosses:
            # The weights may have moved since, of which autocast keeps low-precision copies.
            torch.clear_autocast_cache()
            found = losses()
            passes["forward"] += 1
            if found.objective.requires_grad:
                found.objective.register_hook(went_back)
            return found

        with (
            untracked_statistics(model),
            own_modes(model),
            torch.enable_grad(),
            of_others(self.text, "perturb the weights"),
        ):
            found = self.inner(model, fresh, generator=generator)
        torch.clear_autocast_cache()
        model.zero_grad(set_to_none=True)  # what a backward pass of it has left
        if isinstance(found, PerturbedWeights):
            return found
        offset, norms = _offset(self.text, model, found)
        diagnostics = PerturbationDiagnostics(passes["forward"], passes["backward"], **norms)
        return PerturbedWeights(offset, diagnostics)


class Memory:
    """What a part of the user's own remembers, by its `state_dict` and `load_state_dict`."""

    def __init__(self, part: OwnObjective | OwnMask | OwnPerturbation) -> None:
        """`name` tells the part from others: its factory and options."""
        self.name = f"{part.text} {sorted(part.options.items())}"
        self.inner = part.inner

    @classmethod
    def of(cls, part: Any) -> Memory | None:
        """None for parts that have none, and for those of this package."""
        if not isinstance(part, OwnObjective | OwnMask | OwnPerturbation):
            return None
        names = ("state_dict", "load_state_dict")
        has = all(callable(getattr(part.inner, name, None)) for name in names)
        return cls(part) if has else None

    def stored(self) -> Tensor:
        """As bytes: a checkpoint that is loaded to a GPU then leaves each tensor in its place."""
        content = io.BytesIO()
        torch.save(self.inner.state_dict(), content)
        return torch.frombuffer(bytearray(content.getvalue()), dtype=torch.uint8)

    def load(self, stored: Tensor, device: torch.device) -> None:
        """Take it up again; what was on a GPU comes to `device`.

        Raises:
            Exception: of many kinds, where it holds more than plain values and tensors.
        """

        def placed(storage: Any, location: str) -> Any:
            target = location if location == "cpu" else str(device)
            return torch.serialization.default_restore_location(storage, target)

        content = io.BytesIO(stored.cpu().numpy().tobytes())
        state = torch.load(content, map_location=placed, weights_only=True)
        self.inner.load_state_dict(state)


def _offset(text: str, model: nn.Module, found: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An offset by parameter name, looked at, with its lengths as diagnostics have them."""
    if not isinstance(found, Mapping):
        raise UserError(
            f"{text}: expected offsets by the names of parameters, got {type(found).__name__}"
        )
    weights = dict(model.named_parameters())
    for name, value in found.items():
        if name not in weights:
            raise UserError(f"{text}: expected names of parameters of the model, got {name!r}")
        weight = weights[name]
        check_tensor(text, f"an offset of {name}", value, weight, dtype=weight.dtype)
    offset = {name: value.detach().clone() for name, value in found.items()}
    norms = tuple(
        (name, torch.linalg.vector_norm(value), torch.linalg.vector_norm(weights[name].detach()))
        for name, value in offset.items()
    )
    return offset, {"_layer_norms": norms}
