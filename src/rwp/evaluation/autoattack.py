"""AutoAttack (Croce and Hein, 2020) by its authors' package, resumable and shared by workers.

The package runs four attacks in a row, each on the examples that survived the one before, in
batches that it seeds anew. This module keeps that order, those batches and those seeds, so its
flags are the package's own; it replaces the loop around the attacks. Every finished batch is a
file in a state folder. A killed run therefore goes on at the batch where it was, and any number
of processes that are given the same folder share the batches between them.
"""

from __future__ import annotations

import logging
import math
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
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from rwp.core.losses import full_precision
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.alarms import BATCH_DEPENDENT, UNSTEADY, says
from rwp.evaluation.answers import (
    changed_outcomes,
    require_gradient,
)
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
from rwp.evaluation.models import batch_of, borrowed, checked_logits, clean_outcomes, searching
from rwp.evaluation.records import Flags, GradientRecord
from rwp.evaluation.resume import BatchOutcome, shared_batches
from rwp.evaluation.spec import check_num_classes
from rwp.progress import counted
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
        UserError: as `check_num_classes`, an unknown version, logits that are not finite.
    """
    names = _attacks_of(attack)
    problem = _Problem(model, images, attack, seed, batch_size, torch.device(device))
    clean, warnings = clean_outcomes(model, images, batch_size=batch_size, device=device)
    survey = _Survey(clean)
    with borrowed(model, device), _own_random_numbers(problem.device):
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


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    # The package seeds torch's global generators.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


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
        standing = StandingModel(model, leave=own_pace)
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
    targets = min(runner.apgd_targeted.n_target_classes, num_classes - 1)
    if targets < runner.apgd_targeted.n_target_classes:
        runner.apgd_targeted.n_target_classes = runner.fab.n_target_classes = targets
        if "apgd-t" in names:
            notes.append(f"{targets} target classes instead of 9: there are {num_classes} classes")
    if "apgd-margin" in names:
        runner.apgd_targeted.dlr_loss_targeted = partial(_margin, runner.apgd_targeted)
    with _package_warnings(notes), _no_tracing():
        logger = runner.logger
        checks.check_randomized(problem.model, batch, labels, bs=len(batch), logger=logger)
        checks.check_range_output(problem.model, batch, logger=logger)
        checks.check_dynamic(problem.model, batch, False, logger=logger)
        if "apgd-t" in names:
            checks.check_n_classes(num_classes, names, targets, targets, logger=logger)
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


_AHEAD = 64  # queries looked through at once for one that was not refused
_WORTH = 0.75  # kinds per query; colored photographs have more, and little to pass over


class OwnPaceSquare(SquareAttack):
    """Square Attack (Andriushchenko et al., 2020) under L-inf, each image at its own pace.

    The attack changes one window of an image per query and keeps the change if it lowers the
    margin. Its windows and signs are drawn in advance and are the same for all images of a batch.
    So an image can pass over the queries that cannot help it, without waiting for the others:
    those that leave it as it is, and those that were refused since its last change. On 8 x 8
    digits that is nine in ten. Draws and decisions are the package's.

    Exact for models that give an image the same logits in any batch. It is for what AutoAttack
    asks: L-inf, untargeted, the margin, one restart. Other settings, and images so large that
    windows hardly recur, are left to the package.
    """

    @classmethod
    def like(cls, attack: SquareAttack) -> OwnPaceSquare:
        """The same attack with the same settings."""
        ours = cls.__new__(cls)
        ours.__dict__.update(vars(attack))
        return ours

    @torch.no_grad()
    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Attack images (batch, channels, height, width) with labels (batch,).

        Returns:
            Queries gone through per image, and the images with the least margin found.
        """
        usual = self.norm == "Linf" and self.loss == "margin" and not self.targeted
        if not usual or self.n_restarts != 1:
            return super().attack_single_run(x, y)
        before = torch.get_rng_state()
        stripes = self.random_choice([len(x), x.shape[1], 1, x.shape[3]])
        queries = _Queries.draw(self, x)
        if queries.num_kinds > _WORTH * self.n_queries:
            torch.set_rng_state(before)
            return super().attack_single_run(x, y)
        start = torch.clamp(x + self.eps * stripes, 0.0, 1.0)
        search = _Search(self, queries, x, y, start=start)
        while len(active := search.active()):
            search.ask(*search.next_queries(active))
        return search.place + 1, search.best


@dataclass(frozen=True)
class _Queries:
    """All windows in order: number i covers `size` rows and columns from `row`, `column`.

    `kind` is the same number for equal queries, below `num_kinds`. It goes on past the last query
    with a kind that is never refused, so that looking ahead stops there.
    """

    size: Tensor
    row: Tensor
    column: Tensor
    signs: Tensor
    kind: Tensor
    num_kinds: int

    @classmethod
    def draw(cls, attack: SquareAttack, images: Tensor) -> _Queries:
        """The package's draws, which come from torch's generator on the CPU."""
        channels, height, width = images.shape[1:]
        shares = (attack.p_selection(number) for number in range(attack.n_queries))
        sides = (round(math.sqrt(share * height * width)) for share in shares)
        size = torch.tensor([min(max(side, 1), height, width) for side in sides])
        draws = torch.rand(attack.n_queries, 2 + channels)
        row, column = ((height - size) * draws[:, 0]).long(), ((width - size) * draws[:, 1]).long()
        signs = torch.sign(2 * draws[:, 2:] - 1)
        whole = torch.cat([torch.stack([size, row, column], dim=1), signs.long()], dim=1)
        distinct, kind = torch.unique(whole, dim=0, return_inverse=True)
        kind = torch.cat([kind, torch.full((_AHEAD,), len(distinct))])
        size, row, column, signs, kind = (
            part.to(images.device) for part in (size, row, column, signs, kind)
        )
        return cls(size, row, column, signs, kind, len(distinct))


class _Search:
    """A batch under attack: per image the best version so far and the place in the queries.

    `_refused[i, k]`: a query of kind k does not lower the margin of `best[i]`.
    """

    def __init__(
        self,
        attack: SquareAttack,
        queries: _Queries,
        images: Tensor,
        labels: Tensor,
        *,
        start: Tensor,
    ) -> None:
        self._attack, self._queries, self._labels = attack, queries, labels
        self._low, self._high = images - attack.eps, images + attack.eps
        device = images.device
        self._rows, self._columns = (torch.arange(side, device=device) for side in images.shape[2:])
        self._ahead = torch.arange(_AHEAD, device=device)
        self.best, self.place = start, torch.zeros_like(labels)
        self._margin, _ = attack.margin_and_loss(start, labels)
        shape = (len(images), queries.num_kinds + 1)
        self._refused = torch.zeros(shape, dtype=torch.bool, device=device)

    def active(self) -> Tensor:
        """Images that resist and have queries left."""
        resisting = (self._margin > 0) & (self.place < self._attack.n_queries)
        return resisting.nonzero().squeeze(1)

    def next_queries(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """The images that have found a query worth asking, as that query wants them.

        The model is called once three quarters of the images have: the last ones take many small
        steps to get there, and go on with theirs beside the next call.
        """
        index, asked = active[:0], self.best[:0]
        searching = active
        while 4 * len(searching) > len(active):
            self._pass_over_refused(searching)
            searching = searching[self.place[searching] < self._attack.n_queries]
            candidates = self._changed(searching)
            worth = (candidates != self.best[searching]).flatten(1).any(dim=1)
            worth &= ~self._refused[searching, self._queries.kind[self.place[searching]]]
            index = torch.cat([index, searching[worth]])
            asked = torch.cat([asked, candidates[worth]])
            searching = searching[~worth]
            self._refuse_and_go_on(searching)
        return index, asked

    def ask(self, index: Tensor, asked: Tensor) -> None:
        """Keep the changes that lower the margin."""
        if not len(index):
            return
        margin, _ = self._attack.margin_and_loss(asked, self._labels[index])
        lower = margin < self._margin[index]
        better = index[lower]
        self.best[better], self._margin[better] = asked[lower], margin[lower]
        self._refused[better] = False  # also what was taken: asked again, it may round otherwise
        self.place[better] += 1
        self._refuse_and_go_on(index[~lower])

    def _refuse_and_go_on(self, index: Tensor) -> None:
        self._refused[index, self._queries.kind[self.place[index]]] = True
        self.place[index] += 1

    def _pass_over_refused(self, index: Tensor) -> None:
        """On to the first query that was not refused, or _AHEAD queries on if there is none."""
        kinds = self._queries.kind[self.place[index].unsqueeze(1) + self._ahead]
        refused = self._refused[index.unsqueeze(1), kinds]
        self.place[index] += refused.long().cumprod(dim=1).sum(dim=1)

    def _changed(self, index: Tensor) -> Tensor:
        """The images as their next query wants them."""
        queries, place = self._queries, self.place[index]
        first = torch.stack([queries.row[place], queries.column[place]]).unsqueeze(2)
        last = first + queries.size[place].unsqueeze(1)
        rows = (self._rows >= first[0]) & (self._rows < last[0])
        columns = (self._columns >= first[1]) & (self._columns < last[1])
        window = rows[:, None, :, None] & columns[:, None, None, :]
        change = 2.0 * self._attack.eps * queries.signs[place, :, None, None]
        moved = self.best[index] + window * change
        return torch.clamp(moved.clamp(self._low[index], self._high[index]), 0.0, 1.0)
