"""The paper's claims, each judged by runs: holds, does not hold, or not told.

A claim's sum is taken seed by seed and image by image, so that what is common to all networks of a
seed, and to all on an image, cancels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from rwp.errors import UserError
from rwp.evaluation.records import EvaluationRecord, on_common_images, robust_flags
from rwp.evaluation.spec import LandscapeSpec
from rwp.evaluation.statistics import MeanEstimate, crossed_mean, interval
from rwp.pipeline.lookup import get_suite
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import Params, Setting
from rwp.pipeline.steps import Steps
from rwp.pipeline.suites import seeds_of, setting_key, setting_keys
from rwp.reporting.claims import FILE, LANDSCAPE, POINTS, Claim, Term, parse, read_claims
from rwp.reporting.landscapes import FEWEST_POINTS, mean_excess, read_landscape
from rwp.reporting.lines import monitors_differ
from rwp.reporting.pairs import LEVEL, doubt, holm, images_of
from rwp.reporting.results import Row, read_attack, read_level, records
from rwp.reporting.runs import Run, read_run, why_landscape_stale
from rwp.reporting.tables import write_frame
from rwp.training.spec import AttackSpec, RunKey, suite_directory

HOLDS, FAILS, NOT_TOLD = "holds", "does not hold", "not told"
MISSING, OTHER_SUITE = "missing", "of another suite"
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
_POWER = 0.8
Values = NDArray[np.float64]


def judge_claims(
    params: Params, suite_name: str, judged: Mapping[str, Claim], *, root: Path | str = "."
) -> pd.DataFrame:
    """Each claim with its estimate, 95 % interval, Holm's p over the page, and its outcome.

    The interval is of seeds crossed with images (`crossed_mean`), or of seeds alone where a term is
    a column of the history; of one seed there is none, and nothing is told. A claim is judged when
    all of its runs are there, and not before: looking until it holds would be no test. For the same
    reason `num_tests` counts every claim that the suite has the recipes for, premises apart, also
    those whose runs are missing: nothing told is taken back as other claims' runs arrive.
    `detectable` is the distance from the margin that so many seeds would tell in four cases of
    five, after Holm's correction by all claims that are not told yet.
    """
    reader = _Reader(params, suite_name, Path(root))
    rows = [{"claim": name, **_named_row(reader, name, claim)} for name, claim in judged.items()]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    premise = np.array([claim.premise for claim in judged.values()], dtype=bool)
    num_tests = int((~premise & (frame["outcome"] != OTHER_SUITE)).sum())
    p_values = frame["p_value"].astype(float)
    corrected = holm(p_values[~premise], num_tests).reindex(p_values.index)
    frame = frame.assign(
        p_holm=corrected.where(~premise, p_values), num_tests=np.where(premise, 1, num_tests)
    )
    # A claim that far from its margin would have the smallest p of those not told.
    left = max(1, num_tests - int((corrected <= LEVEL).sum()))
    frame["detectable"] = [
        row["tested"].detectable_difference(
            _POWER, confidence=1 - LEVEL / (row.get("sums", 1) * factor)
        )
        if row.get("tested") is not None
        else None
        for row, factor in zip(rows, np.where(premise, 1, left), strict=True)
    ]
    frame["outcome"] = [_outcome(row) for row in frame.to_dict("records")]
    return frame.astype({"seeds": "Int64", "images": "Int64"})


def _named_row(reader: _Reader, name: str, claim: Claim) -> dict[str, Any]:
    try:
        return _row(reader, claim)
    except UserError as error:
        raise UserError(f"{FILE}: {name}: {error}") from error


def _row(reader: _Reader, claim: Claim) -> dict[str, Any]:
    units = {parse(term).unit for terms in claim.sums for term in terms}
    unit = units.pop() if len(units) == 1 else ""
    row: dict[str, Any] = {"says": claim.says, "wanted": claim.wanted, "unit": unit}
    if claim.only is not None and reader.suite_name not in claim.only:
        return row | {"outcome": OTHER_SUITE, "reason": f"of {', '.join(claim.only)} alone"}
    sums = [{parse(text): weight for text, weight in terms.items()} for terms in claim.sums]
    asked = list(dict.fromkeys(term for terms in sums for term in terms))
    unknown, untrainable = reader.unknown(asked), reader.untrainable(asked)
    if untrainable and not unknown:  # it counts as a test: the claim may be told one day
        return row | {"outcome": MISSING, "reason": untrainable}
    unknown = unknown or reader.unmeasured(asked)
    if unknown:
        return row | {"outcome": OTHER_SUITE, "reason": f"no {', '.join(unknown)} here"}
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
    row["images"] = values.shape[1] if any(term.is_record for term in terms) else None
    if not np.isfinite(values).all():
        return row | {"outcome": NOT_TOLD, "reason": "a value is not finite: nothing can be tested"}
    if len(values) < 2:
        reason = "one training seed: how far seeds spread is not known"
        return row | {"outcome": NOT_TOLD, "estimate": float(values.mean()), "reason": reason}
    if row["images"] == 1:
        reason = "one image: how far images spread is not known"
        return row | {"outcome": NOT_TOLD, "estimate": float(values.mean()), "reason": reason}
    found = crossed_mean(values)
    row["estimate"] = found.estimate
    if any(term.what == "best_epoch" for term in terms):
        row["outcome"], row["p_value"] = _of_seeds(claim, values)
        share = interval(int((values > 0).sum()), len(values))
        return row | {"low": 100 * share.low, "high": 100 * share.high}
    row["outcome"], row["p_value"] = _side(claim, found)
    if found.standard_error == 0:
        return row | {"reason": "nothing varies between seeds and images"}
    return row | {"low": found.low, "high": found.high, "tested": found}


def _side(claim: Claim, found: MeanEstimate) -> tuple[str, float]:
    """Where the estimate lies, and how likely as much is if the truth lies on the margin."""
    if claim.within is None:
        margin, right = _against(claim, found.estimate)
        return (HOLDS if right else FAILS), found.p_value(margin)
    # Both ends must be told apart from it; outside of them that is as much as the nearer one.
    ends = (-claim.within, claim.within)
    side = HOLDS if ends[0] < found.estimate < ends[1] else FAILS
    return side, max(found.p_value(end) for end in ends)


def _against(claim: Claim, estimate: float) -> tuple[float, bool]:
    """The margin of a claim with one, and whether an estimate is on the side that it says."""
    if claim.above is not None:
        return claim.above, estimate > claim.above
    if claim.below is None:
        raise TypeError("expected a claim with above or below, got neither")
    return claim.below, estimate < claim.below


def _of_seeds(claim: Claim, values: Values) -> tuple[str, float]:
    """Of a share of the seeds, each 0 or 100: by the exact binomial test."""
    margin, right = _against(claim, float(values.mean()))
    count = int((values > 0).sum())
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

    def untrainable(self, terms: Iterable[Term]) -> str:
        """Why a recipe cannot be trained where table 2 is, or lacks its code; or an empty text."""
        for recipe in dict.fromkeys(term.recipe for term in terms):
            if recipe in self.suite.recipes:
                try:
                    for key in setting_keys(self.params, self.suite_name, Setting(), recipe):
                        train_spec(self.params, key)
                except UserError as error:
                    return str(error)
        return ""

    def unknown(self, terms: Sequence[Term]) -> list[str]:
        """The recipes, attacks and landscapes that the suite does not have."""
        found = [term.recipe for term in terms if term.recipe not in self.suite.recipes]
        attacks = [term.how for term in terms if term.is_record]
        found += [name for name in attacks if name not in self.suite.evaluation.attacks]
        with suppress(UserError):  # a place where it cannot be trained
            around = (term for term in terms if term.what == LANDSCAPE)
            found += [f"landscape of {t.recipe}" for t in around if not any(self._landscapes(t))]
        return list(dict.fromkeys(found))

    def unmeasured(self, terms: Iterable[Term]) -> list[str]:
        """The epochs and curves that the suite's trainings do not have."""
        found = []
        for term in terms:
            if term.is_record or term.what == LANDSCAPE:
                continue
            key = setting_keys(self.params, self.suite_name, Setting(), term.recipe)[0]
            spec = train_spec(self.params, key)
            if not term.fits(count := spec.optimization.epochs):
                found.append(f"epochs {term.how} of {term.recipe}, which has {count},")
            if term.what.startswith("test_") and not self.suite.test_curve:
                found.append(f"{term.what} (test_curve is false)")
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

    def _landscapes(self, term: Term) -> Iterator[str]:
        """The figures that measure what a term looks at."""
        epoch, group = term.how.split("/")
        for name, entry in self.suite.figures.items():
            if entry.kind != "landscape" or entry.recipe != term.recipe or not entry.test_images:
                continue
            places = (
                setting_key(self.suite, self.suite_name, setting, term.recipe, seed=0)
                for setting in (entry, Setting())
            )
            if len(set(places)) > 1:  # every other term is of table 2's place
                continue
            groups = [f"{low:g}-{high:g}" for low, high in pairwise(entry.edges)]
            if int(epoch) in entry.epochs and group in groups:
                yield name

    def _excesses(self, terms: Mapping[Term, float]) -> tuple[Values, list[str]]:
        """(seeds, 1) of a sum of excesses, and what is missing."""
        found, missing = [], []
        for term in terms:
            name = next(self._landscapes(term))  # asked for after `unknown`
            step = self.steps.landscape(self.suite_name, name)
            spec = step.settings_as(LandscapeSpec)
            path = self.root / spec.result(name)
            epoch, group = term.how.split("/")
            seeds = [key.seed for key in spec.keys]
            why = why_landscape_stale(step, self.root) if path.exists() else "not measured"
            if spec.num_points < FEWEST_POINTS:
                why = (
                    f"num_points {spec.num_points} are too few to have one within half of the "
                    f"radius beside the middle; take {FEWEST_POINTS} or more"
                )
            there, reasons = dict[int, float](), [why]
            if not why:
                there = mean_excess(read_landscape(path, spec), epoch=int(epoch), group=group)
                lacking = [seed for seed in seeds if seed not in there]
                reasons = [f"seed {seed} has no images of {group} nats in both" for seed in lacking]
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
                            f"expected outcomes of the same images, got others under seed "
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
    rows = records(judge_claims(params, suite_name, read_claims(path), root=root))
    found = [
        row
        | {
            "told": sentence(row),
            "estimate_text": number_text(row, "estimate"),
            "interval_text": interval_text(row),
        }
        for row in rows
    ]
    return sorted(found, key=lambda row: row["outcome"] == OTHER_SUITE)


def sentence(row: Mapping[str, Any]) -> str:
    """How an outcome is told: with what it rests on, or with what is missing."""
    reason = f": {row['reason']}" if row["reason"] else ""
    if row["outcome"] == NOT_TOLD and row["detectable"] is not None:
        distance, margin = row["detectable"], float(row["wanted"].split()[1])
        never_alike = row["wanted"].startswith("within") and distance > margin
        if never_alike:  # the estimate is at most the margin away from the nearer end
            distance += margin
        number = f"{distance:.{'1f' if row['unit'] == POINTS else '2g'}} {row['unit']}".rstrip()
        more = f", but no sameness {row['wanted']}" if never_alike else ""
        what = "differences of " if never_alike else ""
        return f"{NOT_TOLD}; {row['seeds']} seeds could tell {what}{number}{more}{reason}"
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
    return f"{row[name]:+z.2f}" if row["unit"] == POINTS else f"{row[name]:+z.3g}"


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
        for name in (HOLDS, FAILS, NOT_TOLD, MISSING, OTHER_SUITE)
    }
    return {name: count for name, count in found.items() if count}
