"""An attack of the user's own, called and checked like ours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rwp.core.threat import ThreatModel
from rwp.errors import UserError
from rwp.factories import call, in_one_line
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
        UserError: an error inside, or something other than images of the same shape and type.
    """
    run = call(attack.kind, attack.options, where=attack.name)
    at = f"{attack.name}: {attack.kind}"
    if not callable(run):
        raise UserError(f"{at}: expected a function that attacks, got {type(run).__name__}")
    threat = ThreatModel(attack.threat.norm, attack.threat.radius)
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(generator.initial_seed())
            found = run(model, images.clone(), labels.clone(), threat=threat, generator=generator)
    except Exception as error:  # somebody else's code may fail in any way
        raise UserError(
            f"{at}: expected to attack images {tuple(images.shape)}, got {in_one_line(error)}; "
            f"try it with `rwp check {attack.kind}`"
        ) from error
    if not isinstance(found, Tensor) or found.shape != images.shape or found.dtype != images.dtype:
        kind = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found)
        raise UserError(
            f"{at}: expected images of {images.dtype} {tuple(images.shape)}, got {kind}"
        )
    return found.detach()
