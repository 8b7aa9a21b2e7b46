"""The paper's claims, each judged by runs: holds, does not hold, or not told.

`claims.yaml` words them and its margins do not move after a run has been seen. A claim is a sum of
accuracies (or of columns of the training's history), taken seed by seed and image by image, so
that what is common to all networks of a seed, and to all on an image, cancels.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from scipy.stats import binomtest

from rwp.errors import UserError
from rwp.evaluation.records import EvaluationRecord, on_common_images, robust_flags
from rwp.evaluation.spec import LandscapeSpec
from rwp.evaluation.statistics import Tested, crossed_mean, interval
from rwp.pipeline.load import first_error
from rwp.pipeline.resolve import get_suite, landscape_spec, train_spec
from rwp.pipeline.settings import Frozen, Params, Setting
from rwp.pipeline.steps import Steps
from rwp.pipeline.suites import seeds_of, setting_keys
from rwp.reporting.landscapes import mean_excess
from rwp.reporting.lines import monitors_differ
from rwp.reporting.pairs import LEVEL, doubt, holm, holm_factors, images_of
from rwp.reporting.results import (
    Row,
    Run,
    read_attack,
    read_level,
    read_run,
    records,
    why_landscape_stale,
)
from rwp.reporting.tables import write_frame
from rwp.spec import Amount, Name
from rwp.strict_yaml import read_yaml
from rwp.training.spec import AttackSpec, RunKey, suite_directory

FILE = "claims.yaml"
HOLDS, FAILS, NOT_TOLD = "holds", "does not hold", "not told"
MISSING, ELSEWHERE = "missing", "of another suite"
COLUMNS = (
    "claim",
    "says",
    "wanted",
    "outcome",
    "estimate",
    "low",
    "high",
    "p_value",
    "p_holm",
    "num_tests",
    "seeds",
    "images",
    "detectable",
    "unit",
    "reason",
)
LANDSCAPE = "landscape_excess"
POINTS = "points"
_EPOCHS = re.compile(r"(-?\d+)?:(-?\d+)?")
_AROUND = re.compile(r"(\d+)/(\d+(?:\.\d+)?-\d+(?:\.\d+)?)")
_CHECKPOINTS = ("best", "best_on_test", "last")
_POWER = 0.8
_LARGEST = 1e6  # of weights
Values = NDArray[np.float64]


Terms = Annotated[dict[str, float], Field(min_length=1)]


class Claim(Frozen):
    """One claim: a sum of terms, and on which side of a margin it lies; or each of several sums.

    A `premise` is what a setting was chosen for. It is no finding, so it is judged at its own level
    and is none of the tests that the others are corrected for.
    """

    says: str
    terms: Terms | None = None
    each: Annotated[tuple[Terms, ...], Field(min_length=2)] | None = None
    above: float | None = None
    below: float | None = None
    within: Amount | None = None
    only: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    premise: bool = False

    @model_validator(mode="after")
    def _worded(self) -> Claim:
        given = [n for n in ("above", "below", "within") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected one of above, below and within, got {' and '.join(given) or 'none'};"
                f" say how it could fail"
            )
        if (self.terms is None) == (self.each is None):
            both = "none" if self.terms is None else "both"
            raise ValueError(f"expected one of terms and each, got {both}; give one")
        for terms in self.sums:
            if len({parse(term) for term in terms}) < len(terms):
                raise ValueError(
                    "terms: expected each term once, got one in two spellings; add up their weights"
                )
            for weight in terms.values():
                if not 0 < abs(weight) <= _LARGEST:
                    raise ValueError(
                        f"terms: expected weights other than 0, of at most {_LARGEST:,.0f}, got "
                        f"{weight:g}; leave the term out, or scale the claim"
                    )
            if len({parse(term).is_record for term in terms}) > 1:
                raise ValueError(
                    "terms: expected records or columns of the history, got both; split it"
                )
            if len({parse(term).what == LANDSCAPE for term in terms}) > 1:
                raise ValueError(f"terms: expected {LANDSCAPE} alone, got others too; split it")
            self._check_share(terms)
        return self

    def _check_share(self, terms: Terms) -> None:
        """A share of the seeds is tested as such, alone and as it is."""
        if not any(parse(term).what == "best_epoch" for term in terms):
            return
        if list(terms.values()) != [1.0]:
            weights = ", ".join(f"{weight:g}" for weight in terms.values())
            raise ValueError(
                "terms: expected best_epoch alone, with weight 1, as it is a share of seeds, got "
                f"weights {weights}; turn `above` into `below`, or split it"
            )
        could_hold = self.above is not None and 0 <= self.above < 100
        could_hold |= self.below is not None and 0 < self.below <= 100
        if not could_hold:
            raise ValueError(
                "expected above 0 to 99 or below 1 to 100, a share of the seeds in percent, got "
                f"{self.wanted}; say how it could fail and hold"
            )

    @property
    def sums(self) -> tuple[Terms, ...]:
        """The sum of the claim, or all of which it says the same."""
        return self.each or (self.terms or {},)

    @property
    def wanted(self) -> str:
        """What the claim says of its sum, such as "above 1"."""
        side = next(n for n in ("above", "below", "within") if getattr(self, n) is not None)
        return f"{side} {getattr(self, side):g}"


@dataclass(frozen=True)
class Term:
    """What one term looks at; `attack` of a checkpoint, or `epochs` of a column of the history."""

    recipe: str
    what: str  # a checkpoint, a column, best_epoch or landscape_excess
    how: str  # an attack, a slice, >=N, or EPOCH/GROUP

    @property
    def unit(self) -> str:
        """What its values are in; accuracies and shares of seeds are in points."""
        if self.is_record or self.what == "best_epoch" or self.what.endswith("_accuracy"):
            return POINTS
        if self.what == LANDSCAPE or "loss" in self.what:
            return "nats"
        return "steps" if self.what == "weight_steps" else ""

    @property
    def is_record(self) -> bool:
        """Whether it is an accuracy on test images."""
        return self.what in _CHECKPOINTS

    def of_run(self, run: Run) -> float:
        """The value of a term that is no record; accuracies in percent.

        Raises:
            UserError: the history lacks the column in some of the epochs.
        """
        if self.what == "best_epoch":
            first = int(self.how.removeprefix(">="))
            if first >= len(run.history):
                raise UserError(
                    f"{run.name}: expected an epoch from 0 to {len(run.history) - 1} in best_epoch "
                    f"{self.how}, got {first}; correct the claim"
                )
            return 100.0 * (run.best_epoch >= first)
        epochs, rows = self._epochs, run.history[self._epochs]
        count = len(run.history)
        for bound in (epochs.start, epochs.stop):  # a slice would be cut in silence
            if bound is not None and not -count <= bound <= count:
                raise UserError(
                    f"{run.name}: expected {self.what} in epochs {self.how}, got {count} epochs; "
                    "correct the claim, or name its suites with `only`"
                )
        values = [row.get(self.what) for row in rows]
        if not values or not all(map(_is_number, values)):
            found = "none" if not values or None in values else "no single numbers"
            known = ", ".join(run.history[-1])
            raise UserError(
                f"{run.name}: expected {self.what} in epochs {self.how}, found {found}; its "
                f"history has {known}"
            )
        scale = 100.0 if self.what.endswith("_accuracy") else 1.0
        return scale * float(np.mean([float(value) for value in values if value is not None]))

    @property
    def _epochs(self) -> slice:
        return slice(*(int(part) if part else None for part in self.how.split(":")))


def parse(text: str) -> Term:
    """A term from its three words.

    Raises:
        ValueError: it is no such text.
    """
    words = text.split()
    if len(words) == 3:
        recipe, what, how = words
        of_epochs = _EPOCHS.fullmatch(how) is not None
        chosen = what == "best_epoch" and how.startswith(">=") and how[2:].isdecimal()
        around = what == LANDSCAPE and _AROUND.fullmatch(how) is not None
        column = what not in ("best_epoch", LANDSCAPE)
        if what in _CHECKPOINTS or (column and of_epochs) or chosen or around:
            return Term(recipe, what, how)
    raise ValueError(
        f"expected a term such as 'at best pgd-20', 'at test_robust_accuracy -6:', "
        f"'at best_epoch >=16' or 'at landscape_excess 20/0.5-1', got {text!r}; correct it"
    )


def read_claims(path: Path | str = FILE) -> dict[str, Claim]:
    """The claims of a file, in its order.

    Raises:
        UserError: with the claim and what is wrong with it.
    """
    return checked_claims(read_yaml(path), where=str(path))


def checked_claims(content: Any, *, where: str) -> dict[str, Claim]:
    """Claims from parsed text.

    Raises:
        UserError: with the claim and what is wrong with it.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected a table of claims, got {type(content).__name__}")
    found = {}
    for name, entry in content.items():
        if not isinstance(entry, dict):
            raise UserError(
                f"{where}: {name}: expected a claim, a table with `says` and a sum of terms, got "
                f"{type(entry).__name__}; is this a file of claims?"
            )
        try:
            found[str(name)] = Claim.model_validate(_tuples(entry))
        except ValidationError as error:
            fault = first_error(error, entry, Claim.model_fields)
            raise UserError(f"{where}: {name}: {fault}") from error
        except ValueError as error:
            raise UserError(f"{where}: {name}: {error}; scale the claim") from error
    return found


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    numbers = {"above", "below", "within"}
    return {
        name: tuple(map(_floats, value))
        if isinstance(value, list)
        else _float(value)
        if name in numbers and isinstance(value, int) and not isinstance(value, bool)
        else _floats(value)
        for name, value in entry.items()
    }


def _floats(value: Any) -> Any:
    """The weights of terms as floats; anything else as it is."""
    if isinstance(value, dict) and all(map(_is_number, value.values())):
        return {term: _float(weight) for term, weight in value.items()}
    return value


def _float(value: float) -> float:
    """A number of a claim; YAML also reads integers that no float can hold."""
    try:
        return float(value)
    except OverflowError:
        digits = len(str(abs(value)))
        raise ValueError(
            f"expected weights and margins of at most {_LARGEST:,.0f}, got one of {digits} digits"
        ) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def unknown_names(params: Params, worded: Mapping[str, Claim]) -> Iterator[str]:
    """What no suite of the settings has, one line each: mistyped, or of a suite that was taken out.

    Such a claim is never judged.
    """
    suites = params.suites.values()
    known = {
        "suite": set(params.suites),
        "recipe": {name for suite in suites for name in suite.recipes},
        "attack": {name for suite in suites for name in suite.evaluation.attacks},
    }
    for claim_name, claim in worded.items():
        terms = [parse(text) for terms in claim.sums for text in terms]
        used = {
            "suite": claim.only or (),
            "recipe": [term.recipe for term in terms],
            "attack": [term.how for term in terms if term.is_record],
        }
        for what, names in used.items():
            for name in dict.fromkeys(names):
                if name not in known[what]:
                    close = difflib.get_close_matches(name, known[what], n=1)
                    meant = f"; did you mean {close[0]}?" if close else ""
                    yield f"{claim_name}: {what} {name}: none of that name in the settings{meant}"


def moved(then: Mapping[str, Claim], now: Mapping[str, Claim]) -> list[str]:
    """The claims whose statistic, side or margin is another than it was; new ones are not.

    A claim that was dropped after a run has been seen has moved, too.
    """
    return [
        name
        for name, claim in then.items()
        if name not in now
        or (now[name].sums, now[name].wanted, now[name].only)
        != (claim.sums, claim.wanted, claim.only)
    ]


def claims(
    params: Params, suite_name: str, judged: Mapping[str, Claim], *, root: Path | str = "."
) -> pd.DataFrame:
    """Each claim with its estimate, 95 % interval, Holm's p over the page, and its outcome.

    The interval is of seeds crossed with images (`crossed_mean`), or of seeds alone where a term is
    a column of the history; of one seed there is none, and nothing is told. A claim is judged when
    all of its runs are there, and not before: looking until it holds would be no test. For the same
    reason `num_tests` counts every claim that the suite has the recipes for, premises apart, also
    those whose runs are missing: no outcome moves because another claim's runs arrive. `detectable`
    is the distance from the margin that so many seeds would tell in four cases of five, after the
    same correction as the claim's own p.
    """
    reader = _Reader(params, suite_name, Path(root))
    rows = [{"claim": name, **_row(reader, claim)} for name, claim in judged.items()]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    premise = np.array([claim.premise for claim in judged.values()], dtype=bool)
    num_tests = int((~premise & (frame["outcome"] != ELSEWHERE)).sum())
    p_values = frame["p_value"].astype(float)
    corrected = holm(p_values[~premise], num_tests).reindex(p_values.index)
    frame = frame.assign(
        p_holm=corrected.where(~premise, p_values), num_tests=np.where(premise, 1, num_tests)
    )
    left = holm_factors(p_values[~premise], num_tests).reindex(p_values.index)
    frame["detectable"] = [
        row["tested"].detectable(_POWER, confidence=1 - LEVEL / (row.get("sums", 1) * factor))
        if row.get("tested") is not None
        else None
        for row, factor in zip(rows, left.where(~premise, 1.0), strict=True)
    ]
    frame["outcome"] = [_outcome(row) for row in frame.to_dict("records")]
    return frame.astype({"seeds": "Int64", "images": "Int64"})


def _row(reader: _Reader, claim: Claim) -> dict[str, Any]:
    units = {parse(term).unit for terms in claim.sums for term in terms}
    unit = units.pop() if len(units) == 1 else ""
    row: dict[str, Any] = {"says": claim.says, "wanted": claim.wanted, "unit": unit}
    if claim.only is not None and reader.suite_name not in claim.only:
        return row | {"outcome": ELSEWHERE, "reason": f"of {', '.join(claim.only)} alone"}
    sums = [{parse(text): weight for text, weight in terms.items()} for terms in claim.sums]
    unknown = list(dict.fromkeys(name for terms in sums for name in reader.unknown(terms)))
    if unknown:
        return row | {"outcome": ELSEWHERE, "reason": f"no {', '.join(unknown)} here"}
    apart = next(filter(None, map(reader.apart, sums)), "")
    if apart:
        return row | {"outcome": NOT_TOLD, "reason": apart}
    read = [reader.values(terms) for terms in sums]
    missing = list(dict.fromkeys(text for _, absent in read for text in absent))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return row | {"outcome": MISSING, "reason": f"{missing[0]}{more}"}
    found = [_judged(claim, terms, values) for terms, (values, _) in zip(sums, read, strict=True)]
    told = found[0] if len(found) == 1 else _together(found)
    doubts = reader.doubts(term for terms in sums for term in terms)
    return row | {"reason": doubts} | told


def _together(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of sums that must all lie where the claim says: the row of the one that decides.

    All hold where the least sure of them does (an intersection-union test, which needs no
    correction); one that does not is enough to fail, but was picked among all (Bonferroni).
    """
    untold = [row for row in found if row.get("p_value") is None]
    if untold:
        return untold[0]
    wrong = [row for row in found if row["outcome"] != HOLDS]
    if not wrong:
        return max(found, key=lambda row: row["p_value"])
    worst = min(wrong, key=lambda row: row["p_value"])
    return worst | {"p_value": min(1.0, worst["p_value"] * len(found)), "sums": len(found)}


def _judged(claim: Claim, terms: Mapping[Term, float], values: Values) -> dict[str, Any]:
    """One sum over seeds and images."""
    row: dict[str, Any] = {"seeds": len(values)}
    row["images"] = values.shape[1] if values.shape[1] > 1 else None
    if not np.isfinite(values).all():
        return row | {"outcome": NOT_TOLD, "reason": "a value is not finite: nothing can be tested"}
    if len(values) < 2:
        reason = "one training seed: how far seeds spread is not known"
        return row | {"outcome": NOT_TOLD, "estimate": float(values.mean()), "reason": reason}
    found = crossed_mean(values)
    row["estimate"] = found.estimate
    if any(term.what == "best_epoch" for term in terms):
        row["outcome"], row["p_value"] = _of_seeds(claim, values)
        share = interval(int((values > 0).sum()), len(values))
        return row | {"low": 100 * share.low, "high": 100 * share.high}
    row["outcome"], row["p_value"] = _side(claim, found)
    if found.error == 0:
        return row | {"reason": "nothing varies between seeds and images"}
    return row | {"low": found.low, "high": found.high, "tested": found}


def _side(claim: Claim, found: Tested) -> tuple[str, float]:
    """Where the estimate lies, and how likely as much is if the truth lies on the margin."""
    if claim.within is None:
        margin = claim.above if claim.above is not None else claim.below
        assert margin is not None
        right = found.estimate > margin if claim.above is not None else found.estimate < margin
        return (HOLDS if right else FAILS), found.p_value(margin)
    # Both ends must be told apart from it; outside of them that is as much as the nearer one.
    ends = (-claim.within, claim.within)
    side = HOLDS if ends[0] < found.estimate < ends[1] else FAILS
    return side, max(found.p_value(end) for end in ends)


def _of_seeds(claim: Claim, values: Values) -> tuple[str, float]:
    """Of a share of the seeds, each 0 or 100: by the exact binomial test."""
    margin = claim.above if claim.above is not None else claim.below
    assert margin is not None  # `Claim` asks for it
    count, share = int((values > 0).sum()), float(values.mean())
    right = share > margin if claim.above is not None else share < margin
    p_value = float(binomtest(count, len(values), margin / 100).pvalue)
    return (HOLDS if right else FAILS), p_value


def _outcome(row: Mapping[Any, Any]) -> str:
    if row["outcome"] not in (HOLDS, FAILS):
        return str(row["outcome"])
    return str(row["outcome"]) if row["p_holm"] <= LEVEL else NOT_TOLD  # also where none is known


class _Reader:
    """Reads what terms ask for; each run once."""

    def __init__(self, params: Params, suite_name: str, root: Path) -> None:
        self.params, self.suite_name, self.root = params, suite_name, root
        self.suite = get_suite(params, suite_name)
        self.steps, self._runs = Steps(params), dict[RunKey, Run]()
        self._figures: dict[Term, Path] = {}

    def unknown(self, terms: Iterable[Term]) -> list[str]:
        """The recipes and attacks that the suite does not have."""
        found = [term.recipe for term in terms if term.recipe not in self.suite.recipes]
        attacks = [term.how for term in terms if term.is_record]
        found += [name for name in attacks if name not in self.suite.evaluation.attacks]
        around = [term for term in terms if term.what == LANDSCAPE]
        found += [f"landscape of {t.recipe}" for t in around if self._landscape(t) is None]
        return list(dict.fromkeys(found))

    def apart(self, terms: Iterable[Term]) -> str:
        """Whether terms of the training's own accuracies are measured in different ways."""
        first: Term | None = None
        for term in terms:
            if term.what not in ("test_robust_accuracy", "held_out_robust_accuracy"):
                continue
            first = first or term
            usual, own = (self._monitor(one) for one in (first, term))
            if usual is not None and own is not None and (how := monitors_differ(usual, own)):
                return f"{term.recipe} is measured otherwise than {first.recipe}: {', '.join(how)}"
        return ""

    def _monitor(self, term: Term) -> AttackSpec | None:
        key = setting_keys(self.params, self.suite_name, Setting(), term.recipe)[0]
        return train_spec(self.params, key).monitor_of(term.what.removesuffix("_robust_accuracy"))

    def _landscape(self, term: Term) -> LandscapeSpec | None:
        """The measurement that a term looks at, with its figure's name in `self._figures`."""
        epoch, group = term.how.split("/")
        for name, entry in self.suite.figures.items():
            if entry.kind != "landscape" or entry.recipe != term.recipe or not entry.test_images:
                continue
            groups = [f"{low:g}-{high:g}" for low, high in pairwise(entry.edges)]
            if int(epoch) in entry.epochs and group in groups:
                spec = landscape_spec(self.params, self.suite_name, name)
                self._figures[term] = self.root / spec.result(name)
                return spec
        return None

    def _excesses(self, terms: Mapping[Term, float]) -> tuple[Values, list[str]]:
        """(seeds, 1) of a sum of excesses, and what is missing."""
        found, missing = [], []
        for term in terms:
            spec, path = self._landscape(term), self._figures.get(term)
            assert spec is not None
            assert path is not None
            epoch, group = term.how.split("/")
            seeds = [key.seed for key in spec.keys]
            step = self.steps.landscape(self.suite_name, path.stem)
            why = why_landscape_stale(step, self.root) if path.exists() else "not measured"
            there = {} if why else mean_excess(path, epoch=int(epoch), group=group)
            reasons = (
                [why]
                if why
                else [
                    f"seed {seed} has no images of {group} nats in both"
                    for seed in seeds
                    if seed not in there
                ]
            )
            missing += [f"{step.outputs[0]}: {reason}" for reason in reasons]
            found.append([there.get(seed, np.nan) for seed in seeds])
        weights = np.array(list(terms.values()))
        missing = list(dict.fromkeys(missing))
        shared = min(map(len, found))  # each looks at the suite's first seeds
        sums = weights @ np.array([values[:shared] for values in found])
        return (np.empty((0, 0)) if missing else sums[:, None]), missing

    def values(self, terms: Mapping[Term, float]) -> tuple[Values, list[str]]:
        """(seeds, images) of the sum, in points; and what is missing, in which case it is empty.

        Raises:
            UserError: records and columns of the history are mixed, or are of other images.
        """
        if all(term.what == LANDSCAPE for term in terms):
            return self._excesses(terms)
        seeds = min((seeds_of(self.suite, term.recipe) for term in terms), key=len)
        rows, missing = [], []
        images: set[str] = set()
        for place in range(len(seeds)):
            keys = {
                term: setting_keys(self.params, self.suite_name, Setting(), term.recipe)[place]
                for term in terms
            }
            runs = {term: self._run(key) for term, key in keys.items()}
            absent = [f"{run.name}: {run.reason}" for run in runs.values() if not run.finished]
            if absent:
                missing += absent
                for term, run in runs.items():  # a mistyped column shows with the first run
                    if run.finished and not term.is_record:
                        term.of_run(run)
            elif all(term.is_record for term in terms):
                found, gaps = self._records(keys, runs)
                missing += gaps
                if not gaps:
                    shared = on_common_images(list(found.values()))
                    images |= {f"{images_of(record)} {record.num_examples}" for record in shared}
                    if len(images) > 1:
                        raise UserError(
                            f"claims: expected outcomes of the same images, got others under seed "
                            f"{seeds[place]}; evaluate all runs on one part of one data set"
                        )
                    rows.append(_sum(shared, terms))
            else:
                numbers = [weight * term.of_run(runs[term]) for term, weight in terms.items()]
                rows.append(np.array([sum(numbers)]))
        missing = list(dict.fromkeys(missing))
        if missing:
            return np.empty((0, 0)), missing
        return np.stack(rows), []

    def doubts(self, terms: Iterable[Term]) -> str | None:
        """Which of the recipes that a claim rests on are no ground for it, and why."""
        found: dict[str, dict[str, None]] = {}  # why -> recipes
        for term in terms:
            if not term.is_record or term.how == "natural":
                continue
            for key in setting_keys(self.params, self.suite_name, Setting(), term.recipe):
                record = self._row(term, key, self._run(key))["outcome"]
                in_table2 = term.what == "best" and term.recipe in self.suite.table2.recipes
                judged = self.root / self.steps.judge(key, "best").outputs[0]
                level = read_level(judged) if in_table2 else None
                why = doubt(level, record.warnings if record else ())
                if why:
                    found.setdefault(why, {})[term.recipe] = None
        told = "; ".join(f"{', '.join(names)}: {why}" for why, names in found.items())
        return f"but {told}" if told else None

    def _row(self, term: Term, key: RunKey, run: Run) -> Row:
        return read_attack(self.steps, key, run, term.how, self.root, term.what)

    def _run(self, key: RunKey) -> Run:
        if key not in self._runs:
            self._runs[key] = read_run(self.steps, key, root=self.root)
        return self._runs[key]

    def _records(
        self, keys: Mapping[Term, RunKey], runs: Mapping[Term, Run]
    ) -> tuple[dict[Term, EvaluationRecord], list[str]]:
        found, gaps = {}, []
        for term, key in keys.items():
            row = self._row(term, key, runs[term])
            if row["outcome"] is None:
                gaps.append(f"{row['record'] or row['run']}: {row['reason']}")
            else:
                found[term] = row["outcome"]
        return found, gaps


def _sum(shared: Sequence[EvaluationRecord], terms: Mapping[Term, float]) -> Values:
    """Per image, in points; of a record for each term, on common images."""
    total = np.zeros(shared[0].num_examples)
    for weight, record in zip(terms.values(), shared, strict=True):
        total += 100 * weight * robust_flags(record)
    return total


def told(params: Params, suite_name: str, *, root: Path | str = ".") -> list[dict[str, Any]]:
    """The claims of the project's own file, in words; none without one.

    First those that this suite can judge, with those that it lacks runs for; last those of others.
    """
    path = Path(root) / FILE
    if not path.exists():
        return []
    rows = records(claims(params, suite_name, read_claims(path), root=root))
    found = [
        row
        | {
            "told": sentence(row),
            "estimate_text": number_text(row, "estimate"),
            "interval_text": interval_text(row),
        }
        for row in rows
    ]
    return sorted(found, key=lambda row: row["outcome"] == ELSEWHERE)


def sentence(row: Mapping[str, Any]) -> str:
    """How an outcome is told: with what it rests on, or with what is missing."""
    reason = f": {row['reason']}" if row["reason"] else ""
    if row["outcome"] == NOT_TOLD and row["detectable"] is not None:
        number = f"{row['detectable']:.{'1f' if row['unit'] == POINTS else '2g'}}"
        distance = f"{number} {row['unit']}".rstrip()
        return f"{NOT_TOLD}; {row['seeds']} seeds could tell {distance}{reason}"
    return f"{row['outcome']}{reason}"


def numbers(row: Mapping[str, Any]) -> str:
    """The estimate with its interval and how many seeds it rests on; empty where there is none."""
    if row["estimate"] is None:
        return ""
    known = [number_text(row, "estimate"), interval_text(row)]
    wanted = f"wanted {row['wanted']} {row['unit']}".rstrip()
    seeds = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
    return f"{', '.join(filter(None, known))}; {wanted}; {seeds}"


def number_text(row: Mapping[str, Any], name: str) -> str:
    """A number of a claim's row with the digits that its unit needs; empty where there is none."""
    if row[name] is None:
        return ""
    return f"{row[name]:+.2f}" if row["unit"] == POINTS else f"{row[name]:+.3g}"


def interval_text(row: Mapping[str, Any]) -> str:
    """Both limits of a claim's interval; empty where there is none."""
    if row["low"] is None:
        return ""
    return f"{number_text(row, 'low')} to {number_text(row, 'high')}"


def write_claims(frame: pd.DataFrame, suite_name: str, *, root: Path | str = ".") -> Path:
    """Write claims.csv into the suite's folder."""
    target = Path(root) / suite_directory(suite_name) / "claims.csv"
    write_frame(target, frame, float_format="%.4g")
    return target


def counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims came out which way."""
    found = {
        name: sum(row["outcome"] == name for row in rows)
        for name in (HOLDS, FAILS, NOT_TOLD, MISSING, ELSEWHERE)
    }
    return {name: count for name, count in found.items() if count}
