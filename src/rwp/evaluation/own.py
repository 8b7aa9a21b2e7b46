"""An attack of the user's own, called and checked like ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rwp.core.modes import own_modes
from rwp.core.threat import ThreatModel
from rwp.errors import UserError, in_one_line
from rwp.evaluation.adapted import same_values
from rwp.factories import call
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
    put back: the same seed gives the same images.

    Raises:
        UserError: an error inside, something other than images of the same shape and type, or a
            model with other weights, buffers or hooks than before: all later numbers would be of
            another network. Modes are put back.
    """
    run = call(attack.kind, attack.options, where=attack.name)
    at = f"{attack.name}: {attack.kind}"
    if not callable(run):
        raise UserError(f"{at}: expected a function that attacks, got {type(run).__name__}")
    threat = ThreatModel(attack.threat.norm, attack.threat.radius)
    devices = [images.device] if images.device.type == "cuda" else []
    with unchanged(at, model), own_modes(model):
        try:
            with torch.random.fork_rng(devices=devices), torch.enable_grad():
                torch.manual_seed(generator.initial_seed())
                given = images.clone(), labels.clone()
                found = run(model, *given, threat=threat, generator=generator)
        except Exception as error:  # somebody else's code may fail in any way
            raise UserError(
                f"{at}: expected to attack images {tuple(images.shape)}, got "
                f"{in_one_line(error)}; try it with `rwp check {attack.kind}`"
            ) from error
    if not isinstance(found, Tensor) or found.shape != images.shape or found.dtype != images.dtype:
        kind = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found)
        raise UserError(
            f"{at}: expected images of {images.dtype} {tuple(images.shape)}, got {kind}"
        )
    return found.detach()


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def unchanged(text: str, model: nn.Module) -> Iterator[None]:
    """Somebody else's code runs inside, and has to leave the model as it was.

    Raises:
        UserError: weights, buffers or hooks are others afterwards.
    """
    before = {name: value.detach().clone() for name, value in _tensors(model)}
    hooks = _num_hooks(model)
    yield
    after = dict(_tensors(model))
    moved = before.keys() ^ after.keys() or {
        name for name, value in before.items() if not same_values(value, after[name])
    }
    if moved:
        raise UserError(
            f"{text}: expected the model as it was, got another {min(moved)}; attack a copy of it"
        )
    if _num_hooks(model) != hooks:
        raise UserError(f"{text}: expected the model as it was, got other hooks; remove yours")


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _num_hooks(model: nn.Module) -> int:
    return sum(len(getattr(module, name, ())) for module in model.modules() for name in _HOOKS)
