"""Networks, objectives, masks and perturbations of the user's own, held to what a training asks.

Each is what a factory returns (`rwp.factories`); docs/own-work.md has the protocols. What does not
keep to its protocol is one line that names the factory.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rwp.core.attacks import pgd
from rwp.core.models.normalization import input_layer
from rwp.core.modes import (
    batch_norm_mode,
    frozen_weights,
    kept_buffers,
    own_modes,
    untracked_statistics,
)
from rwp.core.objectives.base import ExampleLosses, example_losses
from rwp.core.process_group import ALONE, Group
from rwp.core.settings import Criterion, RandomStart, WeightPerturbation
from rwp.core.weight_perturbation import PerturbationDiagnostics, PerturbedWeights
from rwp.errors import UserError, in_one_line
from rwp.factories import call, takes

_TRIED = 2  # images: one alone is refused by batch normalization in train mode


class OwnNetwork(nn.Module):
    """Images in [0, 1], normalized where the recipe says so, through the user's network."""

    def __init__(self, normalization: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.normalization, self.network = normalization, network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        logits: Tensor = self.network(self.normalization(images))
        return logits


def own_network(
    text: str,
    options: Mapping[str, Any],
    *,
    num_classes: int,
    in_channels: int,
    image_size: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> nn.Module:
    """Build a network of the user's own and try it on images of zeros.

    Initial weights are drawn from torch's global generator; the trial draws nothing from it.

    Raises:
        UserError: no network of images (batch, in_channels, *image_size) to num_classes logits,
            or one without a gradient.
    """
    facts: dict[str, Any] = {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "image_size": (*image_size,),
    }
    images = torch.zeros(_TRIED, in_channels, *image_size)

    def build() -> OwnNetwork:
        inner = call(text, options, **facts)
        if not isinstance(inner, nn.Module):
            raise UserError(f"{text}: expected a torch.nn.Module, got {type(inner).__name__}")
        model = OwnNetwork(input_layer(in_channels, mean, std), inner)
        if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
            with _trial(text, model):
                if any(map(is_lazy, model.buffers())):
                    model.eval()  # so that running statistics stay as they are made
                model(images)  # gives lazy layers their shapes and initial weights
        return model

    model = build()
    try_network(text, model, images, num_classes=num_classes)
    with torch.random.fork_rng(devices=[]):
        # other initial values than the first's
        torch.default_generator.manual_seed(torch.initial_seed() ^ 1)
        _try_state(text, model, build(), images)
    return model


def _try_state(text: str, model: nn.Module, second: nn.Module, images: Tensor) -> None:
    """Refuse a network that a checkpoint could not bring back: its file has the state_dict alone.

    Raises:
        UserError: a second network with the state of the first has other logits.
    """
    given = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    doing = "be built twice, with one state_dict"
    with _trial(text, model, doing=doing), torch.no_grad():
        model.train()(given)  # whatever else it counts or remembers, it does now
    with _trial(text, model, doing=doing), torch.no_grad():
        second.load_state_dict(model.state_dict())
        logits = []
        for one in (model, model, second):
            torch.default_generator.manual_seed(0)  # of a network that draws
            logits.append(one.eval()(given))
    again, other = (
        torch.allclose(logits[0], found, rtol=1e-3, atol=1e-5, equal_nan=True)
        for found in logits[1:]
    )
    if again and not other:  # evaluation warns of one that answers differently each time
        raise UserError(
            f"{text}: expected all that decides its logits in its state_dict, got other logits from"
            " a second network with the same; make it a parameter or a persistent buffer"
        )


@contextmanager
def _trial(text: str, model: nn.Module, *, doing: str = "take images in [0, 1]") -> Iterator[None]:
    """Running statistics, modes and the stream of random numbers are as before afterwards."""
    lazy = any(map(is_lazy, (*model.parameters(), *model.buffers())))
    try:
        # what a lazy layer draws are initial weights
        same_draws = torch.random.fork_rng(devices=[], enabled=not lazy)
        untracked = nullcontext() if lazy else untracked_statistics(model)
        with kept_buffers(model), own_modes(model), untracked, same_draws:
            yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # somebody else's code may fail in any way
        raise UserError(f"{text}: expected to {doing}, got {in_one_line(error)}") from error


def try_network(text: str, model: nn.Module, images: Tensor, *, num_classes: int) -> None:
    """Refuse a network that cannot be trained or attacked; it comes back as it was.

    Raises:
        UserError: weights or logits of another type, logits of another shape, no gradient.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weights:
        raise UserError(f"{text}: expected weights to train, got none that ask for a gradient")
    kinds = {str(weight.dtype) for weight in weights} - {"torch.float32"}
    if kinds:
        raise UserError(f"{text}: expected weights of torch.float32, got {kinds.pop()}")
    alone = images[:1]  # as the last batch of a measurement may be
    for training, batch in ((True, images), (False, images), (False, alone)):
        with _trial(text, model), torch.enable_grad():
            model.train(training)
            given = batch.clone().requires_grad_()
            logits = model(given)
            wanted = (len(batch), num_classes)
            _check_tensor(text, "logits", logits, wanted, torch.float32)
            if not bool(logits.isfinite().all()):
                raise UserError(f"{text}: expected finite logits, got NaN or infinity")
            asked = [given, *weights]
            found = (
                torch.autograd.grad(logits.sum(), asked, allow_unused=True)
                if logits.requires_grad
                else [None]
            )
            if found[0] is None or all(gradient is None for gradient in found[1:]):
                what = "the images" if found[0] is None else "its weights"
                raise UserError(
                    f"{text}: expected a gradient of the logits with respect to {what}, got none;"
                    " do not detach them"
                )


def _check_tensor(
    text: str, name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    if not isinstance(value, Tensor):
        raise UserError(f"{text}: expected a tensor of {name} {shape}, got {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise UserError(f"{text}: expected {name} {shape}, got {tuple(value.shape)}")
    if dtype is not None and value.dtype != dtype:
        raise UserError(f"{text}: expected {name} of {dtype}, got {value.dtype}")


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
        self._losses = getattr(self.inner, "losses", self.inner)
        if not callable(self._losses) or isinstance(self.inner, Tensor):
            raise UserError(
                f"{text}: expected an object with losses(model, images, adversarial, labels), got "
                f"{type(self.inner).__name__}"
            )
        self.random_start: RandomStart = (
            random_start or getattr(self.inner, "random_start", None) or "uniform"
        )

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """Adversarial images, of the images' shape and type.

        An attack of the user's own runs in `bn_mode` and leaves no gradient at the weights.
        """
        own = getattr(self.inner, "attack", None)
        if own is None:
            return pgd(model, images, labels, random_start=self.random_start, **options)
        with frozen_weights(model), batch_norm_mode(model, options["bn_mode"]):
            found = own(model, images, labels, **options)
        _check_tensor(self.text, "adversarial images", found, tuple(images.shape), images.dtype)
        return found.detach()

    def losses(
        self, model: nn.Module, images: Tensor, adversarial: Tensor, labels: Tensor
    ) -> ExampleLosses:
        """One loss per example, with the logits that go with them.

        Raises:
            UserError: they are something else, or the model is left in another mode.
        """
        modes = [module.training for module in model.modules()]
        found = self._losses(model, images, adversarial, labels)
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
            _check_tensor(self.text, "losses", found[0], (len(labels),))
            found = example_losses(found[0], found[1], labels, self.criterion)
        self._check(found, len(labels))
        return found

    def _check(self, found: ExampleLosses, size: int) -> None:
        for name in ("objective", "criterion"):
            _check_tensor(self.text, f"one {name} per example", getattr(found, name), (size,))
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
        _check_tensor(self.text, "logits", found.logits, (size, classes))


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
        try:
            found = self.inner(given, generator=generator) if self._drawing else self.inner(given)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{self.text}: expected to take losses (batch,), got {in_one_line(error)}"
            ) from error
        _check_tensor(self.text, "a mask", found, tuple(losses.shape), torch.bool)
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
        with untracked_statistics(model), own_modes(model), torch.enable_grad():
            found = self.inner(model, losses, generator=generator)
        model.zero_grad(set_to_none=True)  # what a backward pass of it has left
        if isinstance(found, PerturbedWeights):
            return found
        return PerturbedWeights(*_offset(self.text, model, found))


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


def _offset(
    text: str, model: nn.Module, found: Any
) -> tuple[dict[str, Tensor], PerturbationDiagnostics]:
    """An offset by parameter name, looked at, with its lengths."""
    if not isinstance(found, Mapping):
        raise UserError(
            f"{text}: expected offsets by the names of parameters, got {type(found).__name__}"
        )
    weights = dict(model.named_parameters())
    for name, value in found.items():
        if name not in weights:
            raise UserError(f"{text}: expected names of parameters of the model, got {name!r}")
        _check_tensor(
            text, f"an offset of {name}", value, tuple(weights[name].shape), weights[name].dtype
        )
    offset = {name: value.detach().clone() for name, value in found.items()}
    norms = tuple(
        (name, torch.linalg.vector_norm(value), torch.linalg.vector_norm(weights[name].detach()))
        for name, value in offset.items()
    )
    return offset, PerturbationDiagnostics(_layer_norms=norms)
