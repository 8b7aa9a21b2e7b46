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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyautoattack import AutoAttack, checks
from torch import Tensor, nn

from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.forward import batch_of, borrowed, checked_logits, clean_outcomes
from rwp.evaluation.records import Flags
from rwp.evaluation.shards import BatchOutcome, shared_batches
from rwp.evaluation.square import OwnPaceSquare
from rwp.evaluation.suite import AttackResult, check_adversarial, recheck
from rwp.training.spec import AttackSpec

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    # Within 0.02 points of `standard` on the nine published logs we know, for a third of the
    # time; an upper bound, so it is for development and no table takes it.
    "lite": ("apgd-ce", "apgd-t"),
}
_MIN_CLASSES = 4  # the targeted DLR loss divides by a difference that involves the fourth logit
_NORMS = {"linf": "Linf", "l2": "L2"}


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
) -> AttackResult:
    """Run AutoAttack, or finish what is left of it in `state`.

    Args:
        model: images in [0, 1] to logits.
        images: labeled ones.
        attack: kind "autoattack", version "standard" or "lite".
        batch_size: images per batch; it is part of the seed, as the package draws per batch.
        seed: the package's seed.
        device: where to run.
        state: a folder of this evaluation alone, for resuming and for sharing between
            processes; none keeps everything in memory.

    Raises:
        UserError: fewer than four classes, an unknown version, logits that are not finite.
    """
    names = _attacks_of(attack)
    problem = _Problem(model, images, attack, seed, batch_size, torch.device(device))
    clean, warnings = clean_outcomes(model, images, batch_size=batch_size, device=device)
    with borrowed(model, device), _own_random_numbers(problem.device):
        runner, notes = _prepare(problem, names)
        warnings = (*warnings, *notes)
        robust = clean.copy()
        adversarial: dict[int, Tensor] = {}
        parts, seconds = {}, 0.0
        for name in names:
            for outcome in _run_one(problem, runner, name, robust, state):
                robust[outcome.fooled] = False
                adversarial.update(zip(outcome.fooled, outcome.adversarial, strict=True))
                seconds += outcome.seconds
                warnings = (*warnings, *outcome.warnings)
            parts[name] = int(robust.sum())
        largest, unsure = recheck(
            model, images, adversarial, attack, batch_size=batch_size, device=device
        )
    warnings = (*warnings, *_boundary_warning(unsure), *_square_warning(clean, parts))
    unique = tuple(dict.fromkeys(warnings))
    return AttackResult(attack, clean, robust, largest, 0, seconds, unique, parts)


def _attacks_of(attack: AttackSpec) -> tuple[str, ...]:
    version = attack.version or "standard"
    if version not in VERSIONS:
        raise UserError(
            f"{attack.name}: expected a version of {', '.join(VERSIONS)}, got {version!r}; "
            "check the spelling"
        )
    return VERSIONS[version]


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    # The package seeds torch's global generators.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def _prepare(problem: _Problem, names: Sequence[str]) -> tuple[AutoAttack, tuple[str, ...]]:
    """The package's attacks, and what its checks of the model say."""
    runner = AutoAttack(
        problem.model,
        norm=_NORMS[problem.attack.threat.norm],
        eps=problem.attack.threat.radius,
        version="standard",
        seed=problem.seed,
        device=problem.device,
    )
    runner.square = OwnPaceSquare.like(runner.square)
    batch, labels = batch_of(problem.images, 0, problem.batch_size, problem.device)
    num_classes = checked_logits(problem.model, batch, labels).shape[1]
    if num_classes < _MIN_CLASSES:
        raise UserError(
            f"{problem.attack.name}: expected at least {_MIN_CLASSES} classes, got {num_classes} "
            "(targeted attacks need them); evaluate with pgd and cw instead"
        )
    notes: list[str] = []
    targets = min(runner.apgd_targeted.n_target_classes, num_classes - 1)
    if targets < runner.apgd_targeted.n_target_classes:
        notes.append(f"{targets} target classes instead of 9: there are {num_classes} classes")
        runner.apgd_targeted.n_target_classes = runner.fab.n_target_classes = targets
    with _package_warnings(notes), _no_tracing():
        logger = runner.logger
        checks.check_randomized(problem.model, batch, labels, bs=len(batch), logger=logger)
        checks.check_range_output(problem.model, batch, logger=logger)
        checks.check_dynamic(problem.model, batch, False, logger=logger)
        checks.check_n_classes(num_classes, names, targets, targets, logger=logger)
    return runner, tuple(notes)


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
    problem: _Problem, runner: AutoAttack, name: str, robust: Flags, state: Path | None
) -> list[BatchOutcome]:
    """One attack on all examples that are left, batch by batch; finished batches are read."""
    left, size = np.flatnonzero(robust), problem.batch_size
    return shared_batches(
        [left[start : start + size] for start in range(0, len(left), size)],
        lambda index: _attack_batch(problem, runner, name, index),
        state=state,
        name=name,
    )


def _attack_batch(
    problem: _Problem, runner: AutoAttack, name: str, index: np.ndarray
) -> BatchOutcome:
    began = time.perf_counter()
    notes: list[str] = []
    chosen = problem.images.select(torch.from_numpy(index))
    images, labels = batch_of(chosen, 0, len(chosen), problem.device)
    with torch.no_grad(), _package_warnings(notes):
        found = _perturb(runner, name, images.clone(), labels.clone())
    fooled = (checked_logits(problem.model, found, labels).argmax(dim=1) != labels).cpu()
    adversarial = found[fooled.to(found.device)]
    if len(adversarial):
        check_adversarial(adversarial, images[fooled.to(images.device)], problem.attack)
    return BatchOutcome(
        fooled=[int(place) for place in index[fooled.numpy()]],
        adversarial=adversarial.cpu(),
        seconds=time.perf_counter() - began,
        warnings=tuple(f"{name}: {note}" for note in notes),
    )


def _perturb(runner: AutoAttack, name: str, images: Tensor, labels: Tensor) -> Tensor:
    attacks: dict[str, Any] = {
        "apgd-ce": runner.apgd,
        "apgd-t": runner.apgd_targeted,
        "fab-t": runner.fab,
        "square": runner.square,
    }
    attack = attacks[name]
    attack.seed = runner.seed
    if name == "apgd-ce":
        attack.loss = "ce"
    if name == "fab-t":
        attack.targeted, attack.n_restarts = True, 1
    return attack.perturb(images, labels)


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
