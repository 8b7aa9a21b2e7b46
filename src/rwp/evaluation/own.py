"""An attack of the user's own, called and checked like ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from rwp.core.modes import evaluation_mode, own_modes
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
            model with other weights, layers, hooks or answers than before: all later numbers would
            be of another network. Modes are put back.
    """
    run = call(attack.kind, attack.options, where=attack.name)
    at = f"{attack.name}: {attack.kind}"
    if not callable(run):
        raise UserError(f"{at}: expected a function that attacks, got {type(run).__name__}")
    threat = ThreatModel(attack.threat.norm, attack.threat.radius)
    devices = [images.device] if images.device.type == "cuda" else []
    with unchanged(at, model, images), own_modes(model):
        try:
            with torch.random.fork_rng(devices=devices), torch.enable_grad():
                torch.manual_seed(generator.initial_seed())
                given = images.clone(), labels.clone()
                found = run(model, *given, threat=threat, generator=generator)
        except (Exception, SystemExit) as error:  # somebody else's code may fail in any way
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
_WATCHED = 4  # images whose answers are compared


@contextmanager
def unchanged(text: str, model: nn.Module, images: Tensor) -> Iterator[None]:
    """Somebody else's code runs inside, and has to leave the model as it was.

    Raises:
        UserError: weights, buffers, hooks, layers or the answers to a few images are others
            afterwards. Layers, hooks and attributes are then put back.
    """
    weights = {name: value.detach().clone() for name, value in _tensors(model)}
    parts, answers = _Parts(model), _answers(model, images)
    yield
    after = dict(_tensors(model))
    moved = weights.keys() ^ after.keys() or {
        name for name, value in weights.items() if not same_values(value, after[name])
    }
    other = parts.changed() or (f"another {min(moved)}" if moved else "")
    if not other and answers is not None:
        now = _answers(model, images)
        same = now is not None and all(map(same_values, answers, now))
        other = "" if same else "other logits or gradients for the same images"
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


def _answers(model: nn.Module, images: Tensor) -> list[Tensor] | None:
    """Logits and gradient of a few images in eval mode; none of a model that answers at random."""
    found: list[list[Tensor]] = []
    for _ in range(2):
        devices = [images.device] if images.device.type == "cuda" else []
        with evaluation_mode(model), torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(0)
            given = images[:_WATCHED].detach().clone().requires_grad_()
            logits = model(given)
            weights = torch.linspace(1.0, 2.0, logits.numel(), device=logits.device)
            asked = logits.requires_grad
            (gradient,) = (
                torch.autograd.grad((logits.flatten() * weights).sum(), given, allow_unused=True)
                if asked
                else (None,)
            )
        found.append([logits.detach(), *([] if gradient is None else [gradient])])
    first, second = found
    same = len(first) == len(second) and all(map(same_values, first, second))
    return first if same else None
