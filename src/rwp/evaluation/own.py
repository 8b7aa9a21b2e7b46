"""An attack of the user's own, called and checked like ours."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from rwp.core.modes import evaluation_mode, own_modes
from rwp.errors import UserError
from rwp.evaluation.adapted import same_values
from rwp.factories import call, of_others, torch_as_it_was
from rwp.streams import kept_streams
from rwp.training.own_network import check_tensor
from rwp.training.spec import AttackSpec


def own_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: AttackSpec,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Adversarial images of one batch; the factory is called anew for each.

    What it draws without the generator comes from torch's own, which is seeded alike inside and
    put back, as what it sets for all of torch: the same seed gives the same images.

    Raises:
        UserError: an error inside, something other than images of the same shape and type, or a
            model with other weights, layers, hooks or answers than before: all later numbers would
            be of another network. Modes are put back.
    """
    run = call(attack.kind, attack.options, where=attack.name)
    at = f"{attack.name}: {attack.kind}"
    if not callable(run):
        raise UserError(f"{at}: expected a function that attacks, got {type(run).__name__}")
    threat = attack.threat.model
    with unchanged(at, model, images), own_modes(model), torch_as_it_was():
        doing = f"attack images {tuple(images.shape)}"
        with of_others(at, doing), kept_streams(images.device), torch.enable_grad():
            torch.manual_seed(generator.initial_seed())
            given = images.clone(), labels.clone()
            found = run(model, *given, threat=threat, generator=generator)
    check_tensor(at, "adversarial images", found, images, dtype=images.dtype)
    return found.detach()


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_WATCHED = 4  # images whose answers are compared
_TIMES = 16  # that a model has to answer alike before what it says is held against an attack
_ROUNDED = 1e-4  # of the largest value


@contextmanager
def unchanged(text: str, model: nn.Module, images: Tensor) -> Iterator[None]:
    """Somebody else's code runs inside, and has to leave the model as it was.

    Raises:
        UserError: weights, buffers, hooks, layers or the answers to a few images are others
            afterwards. Layers, hooks and attributes are then put back.
    """
    weights = {name: value.detach().clone() for name, value in _tensors(model)}
    answers = _answers(model, images, times=2)  # first: a first call may make what stays
    parts = _Parts(model)
    yield
    after = dict(_tensors(model))
    moved = weights.keys() ^ after.keys() or {
        name for name, value in weights.items() if not same_values(value, after[name])
    }
    other = parts.changed() or (f"another {min(moved)}" if moved else "")
    if not other and answers is not None and not _alike(answers, _answer(model, images[:_WATCHED])):
        now = _answers(model, images, times=_TIMES)  # it may only have seemed to be steady
        if now is not None and not _alike(answers, now):
            other = "other logits or gradients for the same images"
    if other:
        parts.put_back()
        raise UserError(
            f"{text}: expected the model as it was, got {other}; attack a copy of it, or put back "
            "what the attack changes"
        )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


class _Parts:
    """Which layers, hooks and attributes a model has, but for its weights."""

    def __init__(self, model: nn.Module) -> None:
        self._attributes = [(module, dict(vars(module))) for module in model.modules()]
        tables = [(name, vars(global_hooks)[f"_global{name}"]) for name in _HOOKS]
        for _, own in self._attributes:
            tables += [(name, own[name]) for name in (*_HOOKS, "_modules") if name in own]
        # TorchScript's cannot be changed
        self._tables = [(name, one, dict(one)) for name, one in tables if isinstance(one, dict)]

    def changed(self) -> str:
        """What is another now, in words."""
        for name, table, before in self._tables:
            if dict(table) != before:
                return "other layers" if name == "_modules" else "other hooks"
        for module, before in self._attributes:
            if vars(module).get("forward") is not before.get("forward"):
                return f"another forward of {type(module).__name__}"
        return ""

    def put_back(self) -> None:
        for _, table, before in self._tables:
            table.clear()
            table.update(before)
        for module, before in self._attributes:
            for name in vars(module).keys() - before.keys():
                delattr(module, name)
            vars(module).update(before)


def _answers(model: nn.Module, images: Tensor, *, times: int) -> list[Tensor] | None:
    """Logits and gradient of a few images in eval mode; none where they are not the same twice."""
    found = [_answer(model, images[:_WATCHED]) for _ in range(times)]
    return found[0] if all(_alike(found[0], other) for other in found) else None


def _answer(model: nn.Module, images: Tensor) -> list[Tensor]:
    state = random.getstate(), np.random.get_state()
    with evaluation_mode(model), kept_streams(images.device), torch.enable_grad():
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(0)
        given = images.detach().clone().requires_grad_()
        logits = model(given)
        gradient: Tensor | None = None
        if logits.requires_grad:
            weights = torch.linspace(1.0, 2.0, logits.numel(), device=logits.device)
            total = (logits.flatten() * weights).sum()
            (gradient,) = torch.autograd.grad(total, given, allow_unused=True)
    random.setstate(state[0])
    np.random.set_state(state[1])
    return [logits.detach(), *([] if gradient is None else [gradient])]


def _alike(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether answers are the same, but for rounding as a GPU's."""
    if [value.shape for value in first] != [value.shape for value in second]:
        return False
    pairs = zip(first, second, strict=True)
    return all(
        torch.allclose(one, other, rtol=0, atol=_ROUNDED * float(one.abs().max()), equal_nan=True)
        for one, other in pairs
    )
