"""Is the robustness real? Signs of masked gradients, read off the records of one checkpoint.

A network can resist the attacks it was trained against and still have adversarial examples that
another attack finds. The gap between PGD-20 and AutoAttack shows it; how large a gap is usual
depends on data set, norm and objective. `BANDS` holds what honest, published networks show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rwp.errors import UserError
from rwp.evaluation import alarms
from rwp.evaluation.records import (
    EvaluationRecord,
    on_common_images,
    require_search_in_fp32,
    robust_flags,
)
from rwp.factories import is_own

Level = Literal["green", "weak", "undecided", "amber", "red"]
MEANING: dict[Level, str] = {  # from the best to the worst
    "green": "nothing speaks against the numbers",
    "weak": "no better than chance, or next to nothing survives: there is no robustness to judge",
    "undecided": "another attack seed could change the verdict: evaluate more images",
    "amber": "PGD says too much, or the attacks saw too little: read AutoAttack alone, with care",
    "red": "a sign of masked gradients: do not take these numbers for robustness",
}
LEVELS: tuple[Level, ...] = tuple(MEANING)
DOUBTFUL: tuple[Level, ...] = ("undecided", "amber", "red")  # they speak against the numbers
_SURE: tuple[Level, ...] = ("green", "weak", "amber", "red")


@dataclass(frozen=True)
class Band:
    """Points between PGD-20 and AutoAttack: usual up to `green`, beyond all evidence at `red`.

    Its networks were attacked at `radius`. A general band, of no radius, is borrowed from other
    settings; no gap is red by it.
    """

    green: float
    red: float
    source: str
    radius: float | None = None


Shares = tuple[float, ...]  # of the images, one per attack seed


@dataclass(frozen=True)
class FollowUp:
    """What further attacks found, as shares of the images; robust ones unless said otherwise."""

    base: Shares  # PGD as in the table, worst iterate
    longer: Shares  # the same start, but 100 steps
    rescaled: Shares  # PGD on logits brought to a common spread, worst of two spreads
    transfer: Shares | None  # PGD images of the twin, none without one
    zero_gradients: float  # of all images: the loss has no gradient at the clean image
    not_finite_gradients: float  # of all images: it has a NaN or an infinity there
    sweep: tuple[tuple[float, float], ...]  # (radius, robust), doubling up to the largest radius
    chance: float  # share of the most frequent class
    num_examples: int
    covers: bool = True  # whether an image within the largest radius can be anything


@dataclass(frozen=True)
class Reason:
    """One observation, how bad it is, and what that rests on.

    Where noise could move the observation across a limit, the level is undecided, and `between`
    holds the lowest and the highest it could be.
    """

    level: Level
    text: str
    source: str = ""
    between: tuple[Level, Level] | None = None


@dataclass(frozen=True)
class Verdict:
    """The worst level of all reasons, or undecided where noise could make it another.

    The gap is in points, none without the two records.
    """

    level: Level
    gap: float | None
    band: Band | None
    reasons: tuple[Reason, ...]


_AT_CIFAR10 = (
    "ResNet-18: 4.3 (AT, mean of 3 seeds, DOM, ICLR 2024) and 4.6 (AT-AWP, its log against MAIR's "
    "evaluation); small-loss removal, which the same authors call vulnerable, 12.6 (DOM)"
)
_LINF, _L2 = 8 / 255, 0.5
_SAME_RADIUS = 0.02  # relative: 0.031 is meant as 8/255, and 128/255 as 0.5
# (data set, norm, objective); None stands for any. The most specific entry counts.
BANDS: dict[tuple[str | None, str, str | None], Band] = {
    ("cifar10", "linf", "at"): Band(5.5, 8.0, _AT_CIFAR10, _LINF),
    ("cifar10", "linf", "trades"): Band(
        5.0, 7.5, "TRADES and TRADES-AWP, 4.0 to 4.3 (the AWP authors' logs)", _LINF
    ),
    ("cifar10", "linf", "mart"): Band(
        8.0, 10.5, "MART, 5.7 to 7.6 on ResNet-18 and WRN-34-10", _LINF
    ),
    ("cifar100", "linf", "at"): Band(
        6.5,
        9.0,
        "ResNet-18: 4.1 (AT, DOM), 5.4 (AT-AWP: PGD-20 30.71, AutoAttack log 25.34)",
        _LINF,
    ),
    ("svhn", "linf", "at"): Band(
        10.5, 13.0, "ResNet-18: 8.0 at the best epoch, 9.8 at the last (AT, 3 seeds, DOM)", _LINF
    ),
    ("cifar10", "l2", None): Band(
        3.5, 6.0, "AT-AWP and TRADES-AWP, radius 0.5: 0.9 to 2.4 (the authors' logs)", _L2
    ),
    (None, "linf", None): Band(
        6.5, 9.0, "nothing is published for this setting; the widest band of CIFAR-10 and CIFAR-100"
    ),
    (None, "l2", None): Band(
        3.5, 6.0, "nothing is published for this setting; the band of CIFAR-10"
    ),
}

# What the warnings in a record mean; AutoAttack's documentation calls each a reason for doubt.
_ALARMS: dict[str, Level] = {
    alarms.RANDOMIZED: "red",
    alarms.DYNAMIC: "red",
    alarms.PROBABILITY: "red",
    alarms.PROBABILITIES: "red",
    alarms.FLAT: "red",
    alarms.ZERO_GRADIENT: "amber",
    alarms.UNSTEADY: "amber",
    alarms.BATCH_DEPENDENT: "red",
    alarms.GRADIENT_DEPENDENT: "red",
}
_UNTOLD = "no AutoAttack: PGD alone does not tell robustness from masked gradients"
# Points. Rules of Carlini et al., "On Evaluating Adversarial Robustness" (2019), sections 4 and 5:
# a longer, a differently scaled or a borrowed attack does not beat a sound white-box attack.
_NOTICEABLE, _LARGE = 3.0, 8.0
_SINGLE_STEP = 1.0  # points by which one step may beat many
# Points that PGD gains by rescaled logits. It is then much like an attack on the margin, which
# in the paper's table 2 is 1.9 to 2.4 below PGD-20, but 6.3 for AT-RWP (the demo's TRADES: 4.4 to
# 7.1 over five seeds); GAIRAT, which it breaks, falls by 14 and more (Zhang et al., 2021; Hitaj
# et al., 2021).
_RESCALED, _RESCALED_MUCH = 9.0, 12.0
_SQUARE, _FEWEST = 0.2, 2  # points and images by which Square may win; the package warns above 0.2
_LITTLE = 0.1  # share of the images that are right without an attack
_FEW_BLIND, _MANY_BLIND = 0.01, 0.10  # shares of images without a usable gradient
# What is called noise. Another start or another processor moves a count by an image or two on a
# few hundred: the values of all seeds have to lie on one side of a limit by `_IMAGES`.
_IMAGES = 2
_LIKELY, _SURELY = 2.0, 3.0  # standard errors: inside is noise, beyond is none, between undecided


def band_for(dataset: str, norm: str, radius: float, objective: str) -> Band:
    """The most specific band that fits."""
    for key in (
        (dataset, norm, objective),
        (dataset, norm, None),
        (None, norm, objective),
        (None, norm, None),
    ):
        band = BANDS.get(key)
        if band and math.isclose(radius, band.radius or radius, rel_tol=_SAME_RADIUS):
            return band
    raise UserError(f"norm: expected linf or l2, got {norm!r}; check the record")


def judge(
    records: Sequence[EvaluationRecord],
    *,
    dataset: str,
    objective: str,
    chance: float,
    follow_up: FollowUp | None = None,
) -> Verdict:
    """Weigh the records of one checkpoint, and the follow-up attacks where there are any.

    Args:
        records: of one checkpoint on one data set; those of other kinds are not looked at.
        dataset: its name, as in params.yaml.
        objective: natural, at, trades or mart; a natural network is not expected to resist.
        chance: accuracy of the best constant answer, the share of the most frequent class.
        follow_up: what `rwp.evaluation.followup` measured.

    Raises:
        UserError: no record, one of a draft, or records under several threat models.
    """
    if not records:
        raise UserError("diagnosis: expected records, got none; evaluate first")
    for record in records:
        require_search_in_fp32(record)
    attacks = [record.attack for record in records if record.attack.kind != "natural"]
    threats = {(attack.threat.norm, attack.threat.radius) for attack in attacks}
    if len(threats) > 1:
        several = " and ".join(f"{norm} {radius:.4g}" for norm, radius in sorted(threats))
        raise UserError(
            f"diagnosis: expected records under one threat model, got {several}; judge them apart"
        )
    common = on_common_images(records)
    autoattack = next(reversed(_of_kind(common, "autoattack")), None)
    pgd = usual_pgd(common)
    weak = _weak_reasons(records, chance)
    gap, band, reasons = None, None, []
    if objective != "natural":
        if pgd and autoattack:
            band = band_for(dataset, pgd.attack.threat.norm, pgd.attack.threat.radius, objective)
            gap = 100 * (pgd.robust_accuracy - autoattack.robust_accuracy)
            reasons.append(_gap_reason(pgd, autoattack, band, settled=follow_up is not None))
        elif autoattack:
            reasons.append(Reason("green", "no PGD: the gap to AutoAttack is unknown"))
        elif not weak:
            reasons.append(Reason("amber", _UNTOLD if attacks else "no attack was run"))
        reasons += _rival_reasons(pgd, common) if pgd else []
        reasons += _single_step_reasons(common)
        reasons += _follow_up_reasons(follow_up) if follow_up else []
    reasons += weak + _alarm_reasons(records)
    for record in records:
        reasons += _blind_reasons(record)
    unique = tuple(dict.fromkeys(reasons))
    return Verdict(_overall(unique), gap, band, unique)


def _overall(reasons: Sequence[Reason]) -> Level:
    """The worst level, if it is the same whichever way the undecided reasons fall."""
    ends = [reason.between or (reason.level, reason.level) for reason in reasons]
    low, high = (max((_SURE.index(end[i]) for end in ends), default=0) for i in (0, 1))
    return _SURE[low] if low == high else "undecided"


def _reason(low: Level, high: Level, text: str, source: str = "") -> Reason:
    if low == high:
        return Reason(low, text, source)
    return Reason("undecided", f"{text}; with this noise {low} or {high}", source, (low, high))


def _graded(value: float, amber: float, red: float) -> Level:
    return "red" if value > red else "amber" if value > amber else "green"


def usual_pgd(records: Sequence[EvaluationRecord]) -> EvaluationRecord | None:
    """Of several PGD the one nearest to the 20 steps that the bands are of."""

    def distance(record: EvaluationRecord) -> tuple[int, int]:
        steps = record.attack.num_steps or 0
        return abs(steps - 20), steps

    return min(_of_kind(records, "pgd"), key=distance, default=None)


def _of_kind(records: Sequence[EvaluationRecord], kind: str) -> list[EvaluationRecord]:
    return [record for record in records if record.attack.kind == kind]


def _lead(better: EvaluationRecord, worse: EvaluationRecord) -> tuple[float, float]:
    """Points by which one attack leaves more images than another, and the standard error.

    The error is that of a paired difference (McNemar, 1947). It holds what other starts can do:
    they move images between the attacks' disagreements. Where they disagree on none, or on all,
    it is still that of one image: of a handful none disagrees by chance.
    """
    count = better.num_examples
    ours, theirs = robust_flags(better), robust_flags(worse)
    if len(ours) != len(theirs):
        raise UserError(
            f"diagnosis: expected records of the same images, got {len(ours)} under "
            f"{better.attack.name} and {len(theirs)} under {worse.attack.name}; evaluate again"
        )
    more, fewer = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    lead = (more - fewer) / count
    error = math.sqrt(max((more + fewer) / count - lead**2, 0.0) / count)
    return 100 * lead, 100 * max(error, 1 / count)


def _gap_reason(
    pgd: EvaluationRecord, autoattack: EvaluationRecord, band: Band, *, settled: bool
) -> Reason:
    """Within noise of a limit the gap only calls for further attacks, which then decide."""
    gap, error = _lead(pgd, autoattack)
    red = band.red if band.radius else math.inf
    low = _graded(gap - _SURELY * error, band.green, red)
    high = _graded(gap + (-1 if settled else 1) * _LIKELY * error, band.green, red)
    bound = " at least" if autoattack.attack.version == "lite" else ""
    usual = f"usual is up to {band.green:g}, unheard of above {band.red:g}"
    if not band.radius:
        usual = f"usual elsewhere is up to {band.green:g}"
    text = f"PGD is{bound} {gap:.1f} points above AutoAttack (within {_LIKELY * error:.1f})"
    return _reason(low, high, f"{text}; {usual}", band.source)


def _rival_reasons(pgd: EvaluationRecord, records: Sequence[EvaluationRecord]) -> list[Reason]:
    """CW, longer PGD and attacks of one's own do not beat PGD by much."""
    reasons = []
    for other in records:
        kind, steps = other.attack.kind, other.attack.num_steps or 0
        if kind == "pgd" and steps > (pgd.attack.num_steps or 0):
            amber, red = _NOTICEABLE, _LARGE
        elif kind in ("cw", "cw_zero_masked") or is_own(kind):
            amber, red = _RESCALED, _RESCALED_MUCH
        else:
            continue
        lead, error = _lead(pgd, other)
        low = _graded(lead - _SURELY * error, amber, red)
        high = _graded(lead - _LIKELY * error, amber, red)
        if high != "green":
            text = f"{other.attack.name} fools {lead:.1f} points more than {pgd.attack.name}"
            reasons.append(_reason(low, high, text))
    return reasons


def _single_step_reasons(records: Sequence[EvaluationRecord]) -> list[Reason]:
    """One step beats the longest PGD, if that could cross the ball."""
    fgsm = next(iter(_of_kind(records, "fgsm")), None)
    several = _of_kind(records, "pgd")
    pgd = max(several, key=lambda record: record.attack.num_steps or 0, default=None)
    if not fgsm or not pgd:
        return []
    attack = pgd.attack
    if (attack.num_steps or 0) * attack.step < 2 * attack.threat.radius * (1 - 1e-9):
        return []
    lead, error = _lead(pgd, fgsm)
    if lead - _LIKELY * error <= _SINGLE_STEP:
        return []
    low: Level = "red" if lead - _SURELY * error > _SINGLE_STEP else "green"
    text = f"one step fools more than many: FGSM is {lead:.1f} points below PGD"
    return [_reason(low, "red", text)]


def _weak_reasons(records: Sequence[EvaluationRecord], chance: float) -> list[Reason]:
    """Nothing is hidden where nothing resists, or where nothing was learnt; that is no praise."""
    worst = min(records, key=lambda record: record.robust_accuracy)
    share, clean = worst.robust_accuracy, worst.clean_accuracy
    floor, count = max(chance, _LITTLE * clean), worst.num_examples
    if _lowest(share, count, _SURELY) > floor:
        return []
    high: Level = "weak"
    low: Level = "weak" if _lowest(share, count, _LIKELY) <= floor else "green"
    text = f"{worst.attack.name} leaves {100 * share:.1f} % of {100 * clean:.1f} %"
    against = f"chance, {100 * chance:.1f} %" if floor == chance else "a tenth of these"
    return [_reason(low, high, f"{text}, no more than {against} within its interval")]


def _lowest(share: float, count: int, errors: float) -> float:
    """Wilson's lower limit of a share (Wilson, 1927), at so many standard errors."""
    middle = share + errors**2 / (2 * count)
    half = errors * math.sqrt(share * (1 - share) / count + errors**2 / (4 * count**2))
    return (middle - half) / (1 + errors**2 / count)


def _alarm_reasons(records: Sequence[EvaluationRecord]) -> list[Reason]:
    texts = dict.fromkeys(text for record in records for text in record.warnings)
    reasons = [
        Reason(level, text) for text in texts for sign, level in _ALARMS.items() if sign in text
    ]
    attacks = [record for record in records if record.attack.kind != "natural"]
    if attacks and all(alarms.says(record.warnings, alarms.SHORT) for record in attacks):
        reasons.append(
            Reason("amber", f"the steps of each attack {alarms.SHORT}: none could use it")
        )
    for record in records:
        left = list(record.parts.values())
        won = left[-2] - left[-1] if "square" in record.parts else 0
        limit = max(_FEWEST, _SQUARE / 100 * record.num_examples)
        if won > limit:
            points = 100 * won / record.num_examples
            text = f"Square, which asks for no gradient, fools {points:.1f} points more than those"
            low: Level = "red" if won - _LIKELY * math.sqrt(won) > limit else "green"
            reasons.append(_reason(low, "red", f"{text} that do"))
    return reasons


def _blind_reasons(record: EvaluationRecord) -> list[Reason]:
    """Images that count as robust though the attack had no gradient to follow."""
    found = record.gradients
    if found is None:
        return []
    count, name = record.num_examples, record.attack.name
    reasons = []
    if found.blind_not_finite:
        low, high = _noisy(found.blind_not_finite / count, count, 0.0, _MANY_BLIND)
        text = f"{name} met gradients that are not finite at {found.blind_not_finite} images that"
        low = "amber" if low == "green" else low
        reasons.append(_reason(low, high, f"{text} count as robust"))
    low, high = _noisy(found.blind_zero / count, count, _FEW_BLIND, _MANY_BLIND)
    if found.blind_zero and high != "green":
        text = f"{name} met no gradient at {found.blind_zero} images that count as robust"
        reasons.append(_reason(low, high, text))
    return reasons


def _noisy(share: float, count: int, amber: float, red: float) -> tuple[Level, Level]:
    margin = _IMAGES / count
    return _graded(share - margin, amber, red), _graded(share + margin, amber, red)


def _follow_up_reasons(found: FollowUp) -> list[Reason]:
    count = found.num_examples
    usual = (_NOTICEABLE, _LARGE)
    drops = {
        "more steps fool": (found.longer, usual),
        "PGD on rescaled logits fools": (found.rescaled, (_RESCALED, _RESCALED_MUCH)),
    }
    if found.transfer is not None:
        drops["images made for its twin fool"] = (found.transfer, usual)
    reasons = []
    for text, (left, (amber, red)) in drops.items():
        points = [100 * (base - other) for base, other in zip(found.base, left, strict=True)]
        margin = 100 * _IMAGES / count
        low = _graded(min(points) - margin, amber, red)
        # no more can be fooled than are left
        high = _graded(min(max(points) + margin, 100 * max(found.base)), amber, red)
        if high != "green":
            mean = f"{sum(points) / len(points):.1f} points"
            seeds = f"{min(points):.1f} to {max(points):.1f} over {len(points)} attack seeds"
            reasons.append(_reason(low, high, f"{text} {mean} more than PGD did ({seeds})"))
    silent = {
        "no gradient at all": found.zero_gradients,
        "a gradient that is not finite": found.not_finite_gradients,
    }
    for text, share in silent.items():
        low, high = _noisy(share, count, _FEW_BLIND, _MANY_BLIND)
        if share > 0 and high != "green":
            reasons.append(_reason(low, high, f"{100 * share:.0f} % of the images have {text}"))
    return reasons + _sweep_reasons(found)


def _sweep_reasons(found: FollowUp) -> list[Reason]:
    radius, accuracy = found.sweep[-1]
    if accuracy <= found.chance or not found.covers:
        return []
    low: Level = "red" if _lowest(accuracy, found.num_examples, _LIKELY) > found.chance else "green"
    text = f"{100 * accuracy:.0f} % survive a radius of {radius:g}, at which an image can be"
    return [_reason(low, "red", f"{text} anything: the attack is lost, not the image safe")]
