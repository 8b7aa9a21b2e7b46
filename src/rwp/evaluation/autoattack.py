"""AutoAttack (Croce and Hein, 2020) by its authors' package, resumable and shared by workers.

The package runs four attacks in a row, each on the examples that survived the one before, in
batches that it seeds anew. This module keeps that order, those batches and those seeds, so its
flags are the package's own; it replaces the loop around the attacks. Every finished batch is a
file in a state folder. A killed run therefore goes on at the batch where it was, and any number
of processes that are given the same folder share the batches between them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyautoattack import AutoAttack, checks
from torch import Tensor, nn

from rwp.core.losses import full_precision
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.alarms import BATCH_DEPENDENT, UNSTEADY, says
from rwp.evaluation.answers import changed_outcomes, require_gradient
from rwp.evaluation.apgd import StandingModel
from rwp.evaluation.attacks import (
    AttackResult,
    WatchedModel,
    check_adversarial,
    first_outcomes,
    gradient_record,
    gradient_warnings,
    recheck,
)
from rwp.evaluation.clean import batch_of, borrowed, checked_logits, clean_outcomes, searching
from rwp.evaluation.records import Flags, GradientRecord
from rwp.evaluation.shared_batches import BatchOutcome, shared_batches
from rwp.evaluation.spec import check_num_classes, check_square_size
from rwp.evaluation.square import OwnPaceSquare
from rwp.progress import counted
from rwp.streams import kept_streams
from rwp.training.spec import AttackSpec

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    # Within 0.02 points of `standard` on the nine published logs we know, for a third of the
    # time; an upper bound, so it is for development and no table takes it.
    "lite": ("apgd-ce", "apgd-t"),
    # For two and three classes. The same attacks, but for the loss of targeted APGD: the margin
    # to each wrong class, which is the targeted DLR loss without its divisor.
    "few-classes": ("apgd-ce", "apgd-margin", "fab-t", "square"),
}
_WITH_GRADIENTS = ("apgd-ce", "apgd-t", "apgd-margin", "fab-t")
_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True)
class _Problem:
    # Everything that decides the bits of one evaluation.
    model: nn.Module
    images: ImageSet
    attack: AttackSpec
    seed: int
    batch_size: int
    device: torch.device


def autoattack(
    model: nn.Module,
    images: ImageSet,
    attack: AttackSpec,
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    state: Path | None = None,
    keep_adversarial: bool = False,
) -> AttackResult:
    """Run AutoAttack, or finish what is left of it in `state`.

    Args:
        model: images in [0, 1] to logits.
        images: labeled ones.
        attack: kind "autoattack", version "standard", "lite" or "few-classes".
        batch_size: images per batch; it is part of the seed, as the package draws per batch.
        seed: the package's seed.
        device: where to run.
        state: a folder of this evaluation alone, for resuming and for sharing between
            processes; none keeps everything in memory.
        keep_adversarial: return all images, the clean one where none fools.

    Raises:
        UserError: as `check_num_classes`, an unknown version, logits that are not finite, a size
            that the package's Square Attack cannot take.
    """
    names = _attacks_of(attack)
    _, height, width = images.shape
    check_square_size(attack.name, attack.version, attack.threat.norm, height, width)
    problem = _Problem(model, images, attack, seed, batch_size, torch.device(device))
    clean, warnings = clean_outcomes(model, images, batch_size=batch_size, device=device)
    survey = _Survey(clean)
    with borrowed(model, device), kept_streams(problem.device):  # the package seeds them
        require_gradient(model, batch_of(images, 0, 1, device)[0], attack.name)
        steady = not says(warnings, UNSTEADY, BATCH_DEPENDENT)
        package, notes = _prepare(problem, names, own_pace=steady)
        for name in names:
            survey.add(name, _run_one(problem, package, name, survey.robust, state))
            if steady:
                now = first_outcomes(model, images, batch_size, device)
                survey.warnings += changed_outcomes(
                    clean[: len(now)], now, f"{attack.name}'s {name}"
                )
        largest, unsure = recheck(
            model, images, survey.adversarial, attack, batch_size=batch_size, device=device
        )
    gradients = survey.gradients()
    warnings = (
        *warnings,
        *notes,
        *survey.warnings,
        *gradient_warnings(gradients),
        *_boundary_warning(unsure),
        *_square_warning(clean, survey.parts),
    )
    return AttackResult(
        attack,
        clean,
        survey.robust,
        largest,
        0,
        survey.seconds,
        tuple(dict.fromkeys(warnings)),
        survey.parts,
        gradients,
        survey.images(images) if keep_adversarial else None,
    )


class _Survey:
    """What the attacks have done so far, one after another."""

    def __init__(self, clean: Flags) -> None:
        self.robust = clean.copy()
        self.adversarial: dict[int, Tensor] = {}
        self.parts: dict[str, int] = {}
        self.seconds = 0.0
        self.warnings: list[str] = []
        # all that are right without an attack are asked for a gradient by the first one
        self._not_finite, self._silent = np.zeros_like(clean), clean.copy()
        self._images = int(clean.sum())

    def add(self, name: str, outcomes: Sequence[BatchOutcome]) -> None:
        """The batches of one attack, which looked at all that were left."""
        zero = np.zeros_like(self.robust)
        for outcome in outcomes:
            zero[outcome.zero] = True
            self._not_finite[outcome.not_finite] = True
            self.adversarial.update(zip(outcome.fooled, outcome.adversarial, strict=True))
            self.seconds += outcome.seconds
            self.warnings += outcome.warnings
        if name in _WITH_GRADIENTS:
            self._silent[self.robust & ~zero] = False
        for outcome in outcomes:
            self.robust[outcome.fooled] = False
        self.parts[name] = int(self.robust.sum())

    def images(self, clean: ImageSet) -> Tensor:
        """All images, the clean one where no attack fooled the model."""
        found, _ = batch_of(clean, 0, len(clean), "cpu")
        found = found.clone()
        for place, adversarial in self.adversarial.items():
            found[place] = adversarial
        return found

    def gradients(self) -> GradientRecord:
        """How many images had no gradient to follow in any of the attacks."""
        return gradient_record(
            self.robust, not_finite=self._not_finite, zero=self._silent, images=self._images
        )


def _attacks_of(attack: AttackSpec) -> tuple[str, ...]:
    version = attack.version or "standard"
    if version not in VERSIONS:
        raise UserError(
            f"{attack.name}: expected a version of {', '.join(VERSIONS)}, got {version!r}; "
            "check the spelling"
        )
    return VERSIONS[version]


@dataclass(frozen=True)
class _Package:
    """The package's attacks on a model that counts gradients on their way back."""

    runner: AutoAttack
    watched: WatchedModel
    standing: StandingModel

    @classmethod
    def on(cls, problem: _Problem, *, own_pace: bool) -> _Package:
        """With `own_pace` images skip what cannot help them: exact where each has one answer."""
        model = problem.model if problem.attack.draft is None else _Widened(problem.model)
        # Under L1 the package hands on where a larger radius led, so what has left would be missed.
        standing = StandingModel(model, leave=own_pace and problem.attack.threat.norm != "l1")
        watched = WatchedModel(standing)
        runner = AutoAttack(
            watched,
            norm=_NORMS[problem.attack.threat.norm],
            eps=problem.attack.threat.radius,
            version="standard",
            seed=problem.seed,
            device=problem.device,
        )
        for attack in (runner.apgd, runner.apgd_targeted, runner.fab):
            attack.attack_single_run = watched.following(
                attack.attack_single_run, only_right=attack is runner.fab
            )
        for attack in (runner.apgd, runner.apgd_targeted):
            attack.attack_single_run = standing.following(
                attack.attack_single_run, has_gradient=watched.has_gradient
            )
        if own_pace:
            runner.square = OwnPaceSquare.like(runner.square)
        return cls(runner, watched, standing)


class _Widened(nn.Module):
    """A model whose logits have 32 bits, whatever it computes with: the package expects them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return full_precision(self.model(images))


def _prepare(
    problem: _Problem, names: Sequence[str], *, own_pace: bool
) -> tuple[_Package, tuple[str, ...]]:
    """The package's attacks, and what its checks of the model say."""
    package = _Package.on(problem, own_pace=own_pace)
    runner = package.runner
    batch, labels = batch_of(problem.images, 0, problem.batch_size, problem.device)
    num_classes = checked_logits(problem.model, batch, labels).shape[1]
    check_num_classes(problem.attack.name, problem.attack.version, num_classes)
    notes: list[str] = []
    targeted = {"apgd-t": runner.apgd_targeted, "fab-t": runner.fab}
    for name, attack in targeted.items():
        usual, most = attack.n_target_classes, num_classes - 1
        attack.n_target_classes = min(usual, most)
        note = f"{most} target classes instead of {usual}: there are {num_classes} classes"
        if most < usual and {"apgd-t", name} <= set(names) and note not in notes:
            notes.append(note)
    if "apgd-margin" in names:
        runner.apgd_targeted.dlr_loss_targeted = partial(_margin, runner.apgd_targeted)
    with _package_warnings(notes), _no_tracing():
        logger = runner.logger
        checks.check_randomized(problem.model, batch, labels, bs=len(batch), logger=logger)
        checks.check_range_output(problem.model, batch, logger=logger)
        checks.check_dynamic(problem.model, batch, False, logger=logger)
        if "apgd-t" in names:
            counts = [attack.n_target_classes for attack in targeted.values()]
            checks.check_n_classes(num_classes, names, *counts, logger=logger)
    return package, tuple(notes)


def _margin(attack: Any, logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the target minus that of the label: positive where the image is misclassified."""
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, attack.y_target] - logits[rows, labels]


@contextmanager
def _no_tracing() -> Iterator[None]:
    # The check for dynamic defenses sets a trace function and counts calls in a module-level
    # table, which the next model would inherit.
    tracer = sys.gettrace()
    for name in checks.funcs:
        checks.funcs[name] = 0
    try:
        yield
    finally:
        sys.settrace(tracer)


@contextmanager
def _package_warnings(notes: list[str]) -> Iterator[None]:
    """Append what the package logs as a warning to `notes`, and print none of it."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                notes.append(record.getMessage().split(" See ")[0])

    logger, collector = logging.getLogger("auto-attack"), Collector()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


def _run_one(
    problem: _Problem, package: _Package, name: str, robust: Flags, state: Path | None
) -> list[BatchOutcome]:
    """One attack on all examples that are left, batch by batch; finished batches are read."""
    left, size = np.flatnonzero(robust), problem.batch_size
    return shared_batches(
        [left[start : start + size] for start in range(0, len(left), size)],
        counted(
            name,
            -(-len(left) // size),
            lambda index: _attack_batch(problem, package, name, index),
        ),
        state=state,
        name=name,
    )


def _attack_batch(
    problem: _Problem, package: _Package, name: str, index: np.ndarray
) -> BatchOutcome:
    began = time.perf_counter()
    notes: list[str] = []
    chosen = problem.images.select(torch.from_numpy(index))
    images, labels = batch_of(chosen, 0, len(chosen), problem.device)
    with (
        torch.no_grad(),
        _package_warnings(notes),
        package.watched.batch(images),
        searching(problem.attack, problem.device),
    ):
        found = _perturb(package.runner, name, images.clone(), labels.clone())
    not_finite, nonzero = package.watched.counted()
    fooled = (checked_logits(problem.model, found, labels).argmax(dim=1) != labels).cpu()
    adversarial = found[fooled.to(found.device)]
    if len(adversarial):
        check_adversarial(adversarial, images[fooled.to(images.device)], problem.attack)
    return BatchOutcome(
        fooled=[int(place) for place in index[fooled.numpy()]],
        adversarial=adversarial.cpu(),
        seconds=time.perf_counter() - began,
        warnings=tuple(f"{name}: {note}" for note in notes),
        not_finite=index[not_finite].tolist(),
        zero=index[~nonzero].tolist() if name in _WITH_GRADIENTS else [],
    )


def _perturb(runner: AutoAttack, name: str, images: Tensor, labels: Tensor) -> Tensor:
    attacks: dict[str, Any] = {
        "apgd-ce": runner.apgd,
        "apgd-t": runner.apgd_targeted,
        "apgd-margin": runner.apgd_targeted,
        "fab-t": runner.fab,
        "square": runner.square,
    }
    attack = attacks[name]
    attack.seed = runner.seed
    if name == "apgd-ce":
        attack.loss = "ce"
    if name == "fab-t":
        attack.targeted, attack.n_restarts = True, 1
    with _drawing_in_32_bits():
        return attack.perturb(images, labels)


@contextmanager
def _drawing_in_32_bits() -> Iterator[None]:
    """The package draws in torch's default type, and mixes that with the images of 32 bits."""
    found = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(found)


def _boundary_warning(unsure: int) -> tuple[str, ...]:
    text = f"{unsure} adversarial images fool only in the batch they were found in"
    return (f"{text}: they lie on the decision boundary, within rounding",) if unsure else ()


def _square_warning(clean: Flags, parts: dict[str, int]) -> tuple[str, ...]:
    if "square" not in parts:
        return ()
    notes: list[str] = []
    shares = {"clean": clean.mean(), **{name: left / len(clean) for name, left in parts.items()}}
    with _package_warnings(notes):
        checks.check_square_sr(shares, logger=logging.getLogger("auto-attack"))
    return tuple(notes)
