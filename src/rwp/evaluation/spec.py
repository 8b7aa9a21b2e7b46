"""Settings of attacks on a trained network, of the verdict, and of the landscape."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import PurePath, PurePosixPath
from typing import Literal, TypeVar, get_args

from rwp.core.threat import AnyNorm, check_length
from rwp.data.spec import DatasetSpec
from rwp.errors import UserError
from rwp.evaluation.alarms import SHORT
from rwp.factories import is_own
from rwp.spec import Amount, Count, PositiveFloat, PositiveInt, Share, Spec, merkle
from rwp.training.spec import AttackSpec, RunKey, kept_checkpoint, suite_directory

P = TypeVar("P", bound=PurePath)
Checkpoint = Literal["best", "best_on_test", "last"]
CHECKPOINTS: tuple[Checkpoint, ...] = get_args(Checkpoint)


def record_path(run: P, checkpoint: str, attack: str) -> P:
    """Where the record of one attack on a checkpoint lies, below the folder of its run."""
    return run / "evaluation" / checkpoint / f"{attack}.json"


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec(Spec):
    """Attacks on one checkpoint of one run."""

    key: RunKey
    checkpoint: Checkpoint
    data: DatasetSpec
    attacks: tuple[AttackSpec, ...]
    batch_size: PositiveInt
    num_examples: PositiveInt | None
    seed: Count
    first_examples: PositiveInt | None = None
    part_seed: Count = 0

    def record(self, attack: str) -> PurePosixPath:
        """Where the record of one attack lies, relative to the project."""
        return record_path(self.key.directory, self.checkpoint, attack)

    def num_asked(self, attack: AttackSpec) -> int | None:
        """How many test images are asked for; none: all of them."""
        return self.first_examples or attack.num_examples or self.num_examples

    def part_rule(self, attack: AttackSpec) -> Literal["first", "stratified", "all"]:
        """How these are chosen."""
        if self.first_examples:
            return "first"
        return "stratified" if self.num_asked(attack) else "all"


# What the first word of an attack's name says of its kind.
_KINDS = {
    "natural": ("natural",),
    "clean": ("natural",),
    "fgsm": ("fgsm", "fgsm_random_start"),
    "pgd": ("pgd",),
    "cw": ("cw", "cw_zero_masked"),
    "autoattack": ("autoattack",),
}
STEPPING = ("fgsm_random_start", "pgd", "cw", "cw_zero_masked")
# The attacks of the paper's Table 2 and their columns; any other attack keeps its own name.
PAPER_COLUMNS = {
    "natural": "natural",
    "fgsm": "fgsm",
    "pgd-20": "pgd20",
    "pgd-100": "pgd100",
    "cw-100": "cw",
    "autoattack": "aa",
}
_SIZES = ("num_steps", "num_restarts", "step_size", "kappa", "version")
# Settings that a kind of attack does not look at.
WITHOUT_EFFECT = {
    "natural": (*_SIZES, "draft", "norm", "epsilon"),
    "fgsm": _SIZES,
    "fgsm_random_start": ("num_steps", "num_restarts", "kappa", "version"),
    "pgd": ("kappa", "version"),
    "cw": ("version",),
    "cw_zero_masked": ("version",),
    "autoattack": ("num_steps", "num_restarts", "step_size", "kappa"),
}
_OF_ITERATIONS = ("random_start", "keep")  # which those without steps do not look at either
_FIRST_WORD = re.compile(r"[a-z]+")
_STEPS = re.compile(r"(?:pgd|cw)(?:-linf|-l2)?-?(\d+)(?:-.*)?")


def no_effect(kind: str) -> tuple[str, ...]:
    """Settings that such an attack does not look at; one of one's own has its options instead."""
    return _SIZES if is_own(kind) else WITHOUT_EFFECT.get(kind, ())


def misnamed(
    name: str, kind: str, num_steps: int | None, version: str | None, norm: str | None
) -> str:
    """How an attack differs from what its name says to whoever reads a table; empty if it fits."""
    word = _FIRST_WORD.match(name)
    kinds = _KINDS.get(word[0] if word else "", (kind,))
    if kind not in kinds:
        return f"expected an attack named {name} to be {' or '.join(kinds)}, got {kind}; rename it"
    steps = _STEPS.fullmatch(name)
    if steps and num_steps is not None and num_steps != int(steps[1]):
        return (
            f"expected {steps[1]} steps of an attack named {name}, got {num_steps}; rename it or "
            "correct num_steps"
        )
    named = next((word for word in name.split("-") if word in ("linf", "l2", "l1")), norm)
    if norm is not None and named != norm:
        return f"expected the norm {named} of an attack named {name}, got {norm}; rename it"
    for other in ("lite", "standard", "few-classes"):
        if kind == "autoattack" and other in name and other != version:
            return f"expected version {other} of an attack named {name}, got {version}; rename it"
    return ""


def check_attack(attack: AttackSpec, *, trains: bool = False) -> AttackSpec:
    """Hand an attack through whose name and sizes are what they seem.

    `trains` says that it is a training's: an objective of one's own is handed its sizes.

    Raises:
        UserError: its name says another kind or number of steps, it does not search its norm, a
            step is no length on [0, 1] pixels, or longer than the radius (a single step may be:
            projected, it ends on the edge, as Fast AT wants it); a setting without effect.
    """
    norm = None if attack.kind == "natural" else attack.threat.norm
    fault = misnamed(attack.name, attack.kind, attack.num_steps, attack.version, norm)
    if fault:
        raise UserError(f"{attack.name}: {fault}")
    if attack.threat.norm == "l1" and attack.kind in ("fgsm", *STEPPING):
        raise UserError(
            f"{attack.name}: expected the norm linf or l2 for {attack.kind}, got l1, which "
            "AutoAttack alone searches; take that attack"
        )
    own = is_own(attack.kind)
    vain = () if own and trains else no_effect(attack.kind)
    if (own and not trains) or attack.kind in WITHOUT_EFFECT.keys() - set(STEPPING):
        vain = (*vain, *_OF_ITERATIONS)
    if not own:
        vain = (*vain, "options")
    if attack.kind == "fgsm_random_start":
        vain = (*vain, "keep")  # of one step
    usual = AttackSpec(name=attack.name, kind=attack.kind, threat=attack.threat)
    for name in (item.name for item in fields(AttackSpec) if item.name in vain):
        if getattr(attack, name) != getattr(usual, name):
            raise UserError(
                f"{attack.name}: expected no {name} for {attack.kind}, where it would have no "
                f"effect, got {getattr(attack, name)}; leave it out"
            )
    if attack.step_size is None and attack.kind in STEPPING:
        raise UserError(f"{attack.name}: expected a step_size for {attack.kind}, got none; add one")
    if attack.step_size is not None:
        try:
            check_length("step_size", attack.step, norm=attack.threat.norm)
        except ValueError as error:
            raise UserError(f"{attack.name}: {error}") from error
    many = (attack.num_steps or 1) > 1 and attack.step_size is not None
    if many and attack.step > attack.threat.radius:
        raise UserError(
            f"{attack.name}: expected a step_size of at most the radius {attack.threat.epsilon}, "
            f"got {attack.step_size}, by which each step would jump across the ball; lower it"
        )
    return attack


def short_of_the_edge(attack: AttackSpec) -> tuple[str, ...]:
    """A warning where all steps together are shorter than the radius."""
    if attack.num_steps is None or attack.step_size is None:
        return ()
    if attack.num_steps * attack.step >= attack.threat.radius * (1 - 1e-9):
        return ()
    step = attack.step_size if "/" in attack.step_size else f"{attack.step:.4g}"
    return (
        f"{attack.name}: {attack.num_steps} steps of {step} {SHORT} "
        f"{attack.threat.epsilon}, so it cannot be used; take more or larger steps",
    )


def check_square_size(
    attack: str, version: str | None, norm: AnyNorm, height: int, width: int
) -> None:
    """Refuse images that AutoAttack's package cannot start Square Attack on in L2 and L1.

    Its first image is of squares of a fifth of the height, in as many rows and columns as have
    room, but with a margin before the first: at some sizes the last one lies across the edge.

    Raises:
        UserError: at such a size.
    """
    if norm == "linf" or version == "lite":  # which leaves Square out
        return
    side = height // 5
    margin = (height - 5 * side) // 2
    fits = side == 1 or all(  # a single column outside is nothing
        side and margin + side * (length // side) <= length for length in (height, width)
    )
    if not fits:
        raise UserError(
            f"{attack}: expected images that Square Attack's first squares fit in under L2 and L1, "
            f"got {height}x{width}; take another size such as 32x32, or an attack other than "
            "AutoAttack"
        )


_MIN_CLASSES = 4  # the targeted DLR loss divides by a difference that involves the fourth logit


def check_num_classes(attack: str, version: str | None, num_classes: int) -> None:
    """Refuse a version of AutoAttack that cannot be run on so many classes, or is not the usual.

    Raises:
        UserError: fewer than four classes for the usual ones, four or more for "few-classes".
    """
    few = version == "few-classes"
    if not few and num_classes < _MIN_CLASSES:
        raise UserError(
            f"{attack}: expected at least {_MIN_CLASSES} classes, got {num_classes} (AutoAttack's "
            f"targeted losses need them); take its substitute, under a name of its own: "
            "autoattack-few-classes: {kind: autoattack, version: few-classes}"
        )
    if few and num_classes >= _MIN_CLASSES:
        raise UserError(
            f"{attack}: expected two or three classes for version: few-classes, got "
            f"{num_classes}; use version: standard, which others report"
        )


def record_fingerprint(evaluation: str, attack: AttackSpec) -> str:
    """Of the record of one attack of an evaluation with that fingerprint."""
    return merkle("record", evaluation, attack.canonical())


@dataclass(frozen=True, kw_only=True)
class DiagnosisSpec(Spec):
    """The verdict on one evaluation; the twin lends adversarial images where there is doubt."""

    evaluation: EvaluationSpec  # all attacks of its suite
    objective: str  # its loss
    twin: RunKey | None

    @property
    def path(self) -> PurePosixPath:
        """Where the verdict lies, relative to the project."""
        return self.evaluation.record("diagnosis")

    @property
    def twin_checkpoint(self) -> PurePosixPath | None:
        """The network that lends images, relative to the project."""
        return None if self.twin is None else self.twin.directory / "best.pt"


@dataclass(frozen=True, kw_only=True)
class LandscapeSpec(Spec):
    """Losses of attacked images at perturbed weights, at several checkpoints of runs.

    The images are those that each run was trained on; with `test_images` as many of the test
    images beside them.
    """

    key: RunKey
    data: DatasetSpec
    attack: AttackSpec
    held_out_fraction: Share
    batch_size: PositiveInt
    seed: Count
    epochs: tuple[PositiveInt, ...]
    edges: tuple[Amount, ...]
    num_directions: PositiveInt
    num_points: PositiveInt
    radius: PositiveFloat
    num_examples: PositiveInt | None
    part_seed: Count = 0
    more_seeds: tuple[Count, ...] = ()  # of the same training
    test_images: bool = False

    @property
    def keys(self) -> tuple[RunKey, ...]:
        """The runs, one per seed."""
        return (self.key, *(self.key.replace(seed=seed) for seed in self.more_seeds))

    @property
    def checkpoints(self) -> dict[PurePosixPath, RunKey]:
        """The networks that are looked at, relative to the project, and their runs."""
        return {kept_checkpoint(key, epoch): key for key in self.keys for epoch in self.epochs}

    def result(self, name: str) -> PurePosixPath:
        """Where the losses lie that the figure of that name shows, relative to the project."""
        return suite_directory(self.key.suite) / "landscapes" / f"{name}.csv"
