"""Does a model always give an image the same answer? Several passes over a batch are compared."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rwp.errors import UserError, in_one_line
from rwp.evaluation.adapted import AdaptedModel
from rwp.evaluation.alarms import BATCH_DEPENDENT, GRADIENT_DEPENDENT, UNSTEADY
from rwp.evaluation.records import Flags

# Shares of the range of the logits; rounding on GPUs, in batches of other sizes, stays below.
_REPEATED, _REGROUPED = 1e-4, 1e-3
_TURNED = 0.01  # share of the images that may turn from right to wrong or back
_HALF_PRECISION = 30.0  # times that for models with 16-bit weights


class Answers:
    """The logits of one batch, as a model in eval mode first gave them."""

    def __init__(self, images: Tensor, logits: Float[Tensor, "b classes"], *, coarse: bool) -> None:
        self._images, self._logits = images, logits
        self._coarse = _HALF_PRECISION if coarse else 1.0

    def _differ(self, logits: Tensor, allowed: float) -> str:
        """By how much the first ones do, in words; empty where it may be rounding."""
        if not bool(torch.isfinite(logits).all()):
            return "not finite"
        spread = float(self._logits.max() - self._logits.min())
        largest = float((logits - self._logits[: len(logits)]).abs().max())
        if largest <= allowed * self._coarse * spread or largest == 0:
            return ""
        return f"by up to {100 * largest / spread:.2g} % of the logits' range" if spread else "all"

    def again(self, model: nn.Module) -> tuple[str, ...]:
        """Ask the same once more."""
        with torch.no_grad():
            found = self._differ(model(self._images), _REPEATED)
        if not found:
            return ()
        return (
            f"{UNSTEADY} ({found}), so no number of one pass is its own: switch off dropout, noise "
            "and whatever counts its calls, or evaluate the mean over many passes as one model",
        )

    def odd_ways(self, model: nn.Module) -> tuple[str, ...]:
        """Ask for the halves of the batch and for one image alone, and as an attack asks."""
        notes = []
        half = len(self._images) // 2
        if half:
            with torch.no_grad():
                halves = [model(self._images[:half]), model(self._images[half:])]
                alone = model(self._images[:1])
            found = self._differ(torch.cat(halves), _REGROUPED) or self._differ(alone, _REGROUPED)
            if found:
                notes.append(
                    f"{BATCH_DEPENDENT} ({found}), so labels leak and the batch size counts: "
                    "evaluate it with running statistics, not those of the batch"
                )
        try:
            with torch.enable_grad():
                asked = model(self._images.detach().clone().requires_grad_())
        except UserError:  # it has no gradient, which attacks refuse
            return tuple(notes)
        found = self._differ(asked.detach(), _REPEATED)
        if found:
            notes.append(
                f"{GRADIENT_DEPENDENT} ({found}), so attacks look at another model than the one "
                "that is judged: let its forward pass be one"
            )
        return tuple(notes)


def changed_outcomes(before: Flags, now: Flags, attack: str) -> tuple[str, ...]:
    """Whether clean images are right or wrong as before an attack; a near tie may turn on a GPU."""
    changed = int((before != now).sum())
    if changed <= _TURNED * len(before):
        return ()
    return (
        f"{UNSTEADY} (after {attack} {changed} of {len(before)} clean images have another "
        "outcome), so this number is of no one model: remove whatever counts its calls",
    )


def require_gradient(model: nn.Module, images: Tensor, attack: str) -> None:
    """Refuse an attack with gradients on a model that has none.

    Raises:
        UserError: the logits do not depend on the pixels by operations of torch.
    """
    with torch.enable_grad():
        inputs = images[:1].detach().clone().requires_grad_()
        reason = "logits without one"
        try:
            logits = model(inputs)
            if logits.requires_grad:
                (found,) = torch.autograd.grad(logits.sum(), inputs, allow_unused=True)
                if found is not None:
                    if isinstance(model, AdaptedModel):
                        model.has_gradient = True
                    return
        except (RuntimeError, UserError) as error:
            reason = in_one_line(error.__cause__ or error, named=False)
    raise UserError(
        f"{attack}: expected a model with a gradient from logits to pixels, got {reason}; "
        "take detach, no_grad and inference_mode out of its forward pass, or ask for natural alone"
    )
