"""The attacks of a table on one network: what happened to each example, re-checked.

AutoAttack, which takes hours where these take minutes, is in `rwp.evaluation.autoattack`. Images
for which an attack had no gradient to follow are counted while it runs: a NaN or zero gradient
stops PGD, APGD and FAB without a word, and the network looks robust. Our own attacks count by
`rwp.core.gradient_tally`; `WatchedModel` counts for the authors' package.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwp.core.attacks import cw, cw_zero_masked, fgsm, fgsm_random_start, pgd
from rwp.core.gradient_tally import GradientTally
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.alarms import FEW_BLIND, UNSTEADY, says
from rwp.evaluation.answers import changed_outcomes, require_gradient
from rwp.evaluation.clean import batch_of, borrowed, checked_logits, clean_outcomes, searching
from rwp.evaluation.own import own_attack
from rwp.evaluation.records import Flags, GradientRecord
from rwp.factories import is_own
from rwp.progress import tracked
from rwp.rng import generator_for
from rwp.training.spec import AttackSpec

# Rounding that a perturbation may show beyond its radius; a gray level is 4e-3. Lengths add up the
# rounding of all pixels: of more than 32x32x3 in proportion to the root of their number.
SLACK = {"linf": 1e-5, "l2": 1e-5, "l1": 1e-3}
_PIXELS = 32 * 32 * 3


@dataclass(frozen=True)
class AttackResult:
    """What one attack did to each example; `robust` implies `clean_correct`."""

    attack: AttackSpec
    clean_correct: Flags
    robust: Flags
    max_perturbation: float
    num_nan: int
    seconds: float
    warnings: tuple[str, ...] = ()
    parts: dict[str, int] | None = None
    gradients: GradientRecord | None = None
    adversarial: Tensor | None = None  # of all images, on the CPU, where asked for


def perturbation_sizes(adversarial: Tensor, images: Tensor, *, norm: str) -> Tensor:
    """Size of each perturbation in the norm of the threat model, in 64 bits."""
    delta = (adversarial.double() - images.double()).flatten(1)
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    return torch.linalg.vector_norm(delta, ord=order, dim=1)


def check_adversarial(adversarial: Tensor, images: Tensor, attack: AttackSpec) -> float:
    """The largest perturbation; images that no attacker may use are refused.

    Raises:
        UserError: NaN pixels, pixels outside [0, 1], or a perturbation beyond the radius.
    """
    low, high = adversarial.aminmax()
    if not (float(low) >= 0.0 and float(high) <= 1.0):
        raise UserError(
            f"{attack.name}: expected adversarial pixels in [0, 1], got [{float(low):g}, "
            f"{float(high):g}]; the attack is at fault, nothing was recorded"
        )
    norm = attack.threat.norm
    largest = float(perturbation_sizes(adversarial, images, norm=norm).max())
    more = 1.0 if norm == "linf" else max(1.0, images[0].numel() / _PIXELS) ** 0.5
    if largest > attack.threat.radius + SLACK[norm] * more:
        raise UserError(
            f"{attack.name}: expected perturbations up to {attack.threat.epsilon}, got "
            f"{largest:g}; the attack is at fault, nothing was recorded"
        )
    return largest


def recheck(
    model: nn.Module,
    images: ImageSet,
    adversarial: Mapping[int, Tensor],
    attack: AttackSpec,
    *,
    batch_size: int,
    device: torch.device | str,
) -> tuple[float, int]:
    """Run the network again on adversarial images, given by their index in the data set.

    Returns:
        The largest perturbation, and how many images do not fool in these new batches.

    Raises:
        UserError: as `check_adversarial` and `checked_logits`.
    """
    order = sorted(adversarial)
    largest, harmless = 0.0, 0
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        chosen = images.select(torch.tensor(part, device="cpu"))
        clean, labels = batch_of(chosen, 0, batch_size, device)
        found = torch.stack([adversarial[place] for place in part]).to(clean.device)
        largest = max(largest, check_adversarial(found, clean, attack))
        harmless += int((checked_logits(model, found, labels).argmax(dim=1) == labels).sum())
    return largest, harmless


def run_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: AttackSpec,
    *,
    generator: torch.Generator,
    gradients: GradientTally | None = None,
) -> Tensor:
    """Adversarial images of one batch by one of the cheap attacks.

    `gradients` counts the images for which the attack had no gradient to follow.

    Raises:
        UserError: an attack of another kind, or one without the numbers it needs.
    """
    if attack.kind == "natural":
        return images
    if is_own(attack.kind):
        return own_attack(model, images, labels, attack, generator=generator)
    threat = attack.threat.model
    if attack.kind == "fgsm":
        return fgsm(model, images, labels, threat=threat, gradients=gradients)
    if attack.kind == "fgsm_random_start":
        return fgsm_random_start(
            model,
            images,
            labels,
            threat=threat,
            step_size=attack.step,
            random_start=attack.random_start or "uniform",
            generator=generator,
            gradients=gradients,
        )
    if attack.kind not in ("pgd", "cw", "cw_zero_masked"):
        raise UserError(
            f"{attack.name}: expected a kind of natural, fgsm, fgsm_random_start, pgd, cw, "
            f"cw_zero_masked, autoattack or package.module:factory, got "
            f"{attack.kind!r}; check the spelling"
        )
    if attack.num_steps is None or (attack.kind != "pgd" and attack.kappa is None):
        lacking = "num_steps" if attack.num_steps is None else "kappa"
        raise UserError(f"{attack.name}: expected {lacking}, got none; add it to the attack")
    shared: dict[str, Any] = {
        "threat": threat,
        "step_size": attack.step,
        "num_steps": attack.num_steps,
        "generator": generator,
        "gradients": gradients,
        "num_restarts": attack.num_restarts,
        "random_start": attack.random_start or "uniform",
        # The paper reports the last iterate of a single run.
        "keep": attack.keep if attack.num_restarts == 1 else "worst",
    }
    if attack.kind == "pgd":
        return pgd(model, images, labels, **shared)
    margin_attack = cw if attack.kind == "cw" else cw_zero_masked
    return margin_attack(model, images, labels, kappa=attack.kappa or 0.0, **shared)


def evaluate(
    model: nn.Module,
    images: ImageSet,
    attacks: Sequence[AttackSpec],
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    on_result: Callable[[AttackResult], None] | None = None,
    keep_adversarial: bool = False,
) -> list[AttackResult]:
    """Run cheap attacks one after another; `on_result` gets each as soon as it is done.

    An example is robust if the network, run afresh on the clean and on the adversarial image,
    gives its label both times. The randomness of a batch depends on `seed`, the attack's name
    and the batch's place alone, so that two networks are attacked from the same starting points.

    Raises:
        UserError: bad input, logits that are not finite, or an attack that leaves its ball.
    """
    clean, warnings = clean_outcomes(model, images, batch_size=batch_size, device=device)
    asking = next((attack.name for attack in attacks if attack.kind != "natural"), None)
    if asking is not None:
        with borrowed(model, device):
            require_gradient(model, batch_of(images, 0, 1, device)[0], asking)
    results = []
    for attack in attacks:
        began = time.perf_counter()
        robust, largest, tally = np.zeros_like(clean), 0.0, GradientTally()
        kept: list[Tensor] = []
        with borrowed(model, device):
            for index, start in enumerate(tracked(attack.name, range(0, len(images), batch_size))):
                batch, labels = batch_of(images, start, batch_size, device)
                generator = generator_for(seed, "evaluation", attack.name, index)
                with searching(attack, device):
                    adversarial = run_attack(
                        model, batch, labels, attack, generator=generator, gradients=tally
                    )
                largest = max(largest, check_adversarial(adversarial, batch, attack))
                kept += [adversarial.cpu()] if keep_adversarial else []
                correct = checked_logits(model, adversarial, labels).argmax(dim=1) == labels
                robust[start : start + batch_size] = correct.cpu().numpy()
        seconds, gradients = time.perf_counter() - began, _gradients(tally, robust & clean)
        if not says(warnings, UNSTEADY):
            now = first_outcomes(model, images, batch_size, device)
            warnings += changed_outcomes(clean[: len(now)], now, attack.name)
        result = AttackResult(
            attack,
            clean,
            robust & clean,
            largest,
            0,
            seconds,
            (*warnings, *gradient_warnings(gradients)),
            gradients=gradients,
            adversarial=torch.cat(kept) if kept else None,
        )
        results.append(result)
        if on_result is not None:
            on_result(result)
    return results


def first_outcomes(
    model: nn.Module, images: ImageSet, batch_size: int, device: torch.device | str
) -> Flags:
    """Which images of the first batch are right now."""
    batch, labels = batch_of(images, 0, batch_size, device)
    with borrowed(model, device):
        found: Flags = (checked_logits(model, batch, labels).argmax(dim=1) == labels).cpu().numpy()
    return found


def _gradients(tally: GradientTally, robust: Flags) -> GradientRecord | None:
    not_finite, zero = tally.not_finite.cpu().numpy(), tally.zero.cpu().numpy()
    if len(zero) == 0:
        return None  # nothing asked for a gradient
    return gradient_record(robust, not_finite=not_finite, zero=zero, images=len(robust))


def gradient_record(
    robust: Flags, *, not_finite: Flags, zero: Flags, images: int
) -> GradientRecord:
    """Counts over the images attacked; `blind` ones count as robust, but may not be."""
    return GradientRecord(
        images=images,
        not_finite=int(not_finite.sum()),
        zero=int(zero.sum()),
        blind_not_finite=int((robust & not_finite).sum()),
        blind_zero=int((robust & zero & ~not_finite).sum()),
    )


def gradient_warnings(found: GradientRecord | None) -> tuple[str, ...]:
    """What a reader of the number has to know: where the missing gradients matter."""
    notes = []
    if found is not None and found.blind_not_finite:
        notes.append(
            f"the gradient was not finite at {found.not_finite} of {found.images} images, of which "
            f"{found.blind_not_finite} count as robust: the attack was blind there, so the number "
            "is too high; mend the model's backward pass"
        )
    if found is not None and found.blind_zero > FEW_BLIND * found.images:
        notes.append(
            f"the gradient was zero in every step at {found.zero} of {found.images} images, of "
            f"which {found.blind_zero} count as robust: the attack was blind there, so the number "
            "is too high; attack without gradients, or through a smooth stand-in"
        )
    return tuple(notes)


class WatchedModel(nn.Module):
    """A model that counts the images of a batch whose gradient is not finite or zero.

    What is not finite becomes zero on its way back, so that an attack goes on with the rest; a
    gradient that is finite passes bit for bit.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._places: dict[bytes, list[int]] = {}
        self._rows: Tensor | None = None
        self._not_finite = self._nonzero = torch.zeros(0, dtype=torch.bool)

    def forward(self, images: Tensor) -> Tensor:
        """Logits; a backward pass through them is looked at."""
        if self._rows is None or not (torch.is_grad_enabled() and images.requires_grad):
            return self.model(images)
        seen = images.view_as(images)
        seen.register_hook(self._look)
        return self.model(seen)

    def _look(self, gradient: Tensor) -> Tensor:
        largest = gradient.detach().abs().flatten(1).amax(dim=1)
        rows = self._rows
        if rows is not None and len(rows) == len(largest):
            self._not_finite[rows] |= ~largest.isfinite()
            self._nonzero[rows] |= largest != 0  # also where it is NaN
        return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)

    @contextmanager
    def batch(self, images: Tensor) -> Iterator[None]:
        """Count the images of this batch inside."""
        self._places = defaultdict(list)
        for place, key in enumerate(_keys(images)):
            self._places[key].append(place)
        self._not_finite = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._nonzero = torch.zeros_like(self._not_finite)
        try:
            yield
        finally:
            self._rows = None

    def following(self, run: Callable[..., Any], *, only_right: bool) -> Callable[..., Any]:
        """An attack's `attack_single_run(x, y, ...)`, which takes some images of the batch.

        With `only_right` the attack drops those that are misclassified, as FAB does.
        """

        def followed(images: Tensor, labels: Tensor, *given: Any, **options: Any) -> Any:
            remaining = {key: list(places) for key, places in self._places.items()}
            rows = torch.tensor([remaining[key].pop(0) for key in _keys(images)])
            self._rows = rows.to(images.device)
            if only_right:
                with torch.no_grad():
                    self._rows = self._rows[self.model(images).argmax(dim=1) == labels]
            return run(images, labels, *given, **options)

        return followed

    def has_gradient(self) -> Tensor:
        """Per image of the run at work: one of its gradients was not zero."""
        return self._nonzero if self._rows is None else self._nonzero[self._rows]

    def counted(self) -> tuple[Flags, Flags]:
        """Per image of the batch: a gradient was not finite, and one was not zero."""
        return self._not_finite.cpu().numpy(), self._nonzero.cpu().numpy()


def _keys(images: Tensor) -> list[bytes]:
    rows: np.ndarray = images.detach().cpu().flatten(1).numpy()
    return [row.tobytes() for row in rows]
