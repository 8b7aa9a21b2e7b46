"""What `claims.yaml` says: each claim is a sum of terms, and the side of a margin it lies on.

A term is an accuracy, or a column of the training's history. Margins do not move after a run has
been seen. `rwp.reporting.claim_verdicts` judges claims by runs.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from rwp.errors import UserError
from rwp.evaluation.spec import CHECKPOINTS
from rwp.pipeline.load import first_error
from rwp.pipeline.settings import Frozen, Params
from rwp.reporting.runs import Run, is_number
from rwp.spec import Name, PositiveFloat, short
from rwp.strict_yaml import read_yaml

FILE = "claims.yaml"
LANDSCAPE = "landscape_excess"
POINTS = "points"
_EPOCHS = re.compile(r"(-?\d+)?:(-?\d+)?")
_AROUND = re.compile(r"(\d+)/(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")
_LARGEST = 1e6  # of weights
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
    within: PositiveFloat | None = None
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
        units = dict.fromkeys(parse(term).unit for terms in self.sums for term in terms)
        if len(units) > 1:
            found = " and ".join(unit or "numbers without a unit" for unit in units)
            raise ValueError(f"terms: expected values of one unit, got {found}; split it")
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
        return self.what in CHECKPOINTS

    def fits(self, num_epochs: int) -> bool:
        """Whether a training of so many epochs has those that are looked at."""
        if self.what == "best_epoch":
            return int(self.how.removeprefix(">=")) < num_epochs
        epochs = self._epochs
        bounds = (bound for bound in (epochs.start, epochs.stop) if bound is not None)
        inside = all(-num_epochs <= bound <= num_epochs for bound in bounds)
        return inside and len(range(num_epochs)[epochs]) > 0

    def of_run(self, run: Run) -> float:
        """The value of a term that is no record; accuracies in percent.

        NaN where the training could not know it. Of weight steps, epochs of the warm-up say nothing
        and are left out.

        Raises:
            UserError: the history lacks the column in some of the epochs.
        """
        count = len(run.history)
        if not self.fits(count):  # a slice would be cut in silence
            raise UserError(
                f"{run.name}: expected {self.what} in epochs {self.how}, got {count} epochs; "
                "correct the claim, or name its suites with `only`"
            )
        if self.what == "best_epoch":
            return 100.0 * (run.best_epoch >= int(self.how.removeprefix(">=")))
        rows = run.history[self._epochs]
        if self.what == "weight_steps":
            rows = [row for row in rows if row["epoch"] >= run.warmup_epochs]
            if not rows:
                return math.nan
        values = [row.get(self.what) for row in rows]
        if None in values and all(self.what in row for row in rows):
            return math.nan
        if not values or not all(map(is_number, values)):
            count = sum(map(is_number, values))
            none = "none" if None in values else "no single numbers"
            found = f"it in {count} of {len(values)}" if count else none
            known = ", ".join(sorted(set().union(*run.history)))
            raise UserError(
                f"{run.name}: expected {self.what} in epochs {self.how}, found {found}; correct "
                f"the term: its history has {known}"
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
        around = _AROUND.fullmatch(how) if what == LANDSCAPE else None
        if of_epochs and not _may_have_epochs(how):
            raise ValueError(
                f"expected epochs of which there are some, such as -6: or 16:20, got {text!r}; "
                "correct it"
            )
        column = what not in ("best_epoch", LANDSCAPE)
        if around:
            epoch, low, high = around.groups()
            return Term(recipe, what, f"{int(epoch)}/{float(low):g}-{float(high):g}")
        if what in CHECKPOINTS or (column and of_epochs) or chosen:
            return Term(recipe, what, how)
    raise ValueError(
        f"expected a term such as 'at best pgd-20', 'at test_robust_accuracy -6:', "
        f"'at best_epoch >=16' or 'at landscape_excess 20/0.5-1', got {text!r}; correct it"
    )


def _may_have_epochs(how: str) -> bool:
    """Whether some training has epochs from the first to before the second bound."""
    start, stop = (int(part) if part else None for part in how.split(":"))
    if stop == 0:
        return False
    return start is None or stop is None or (start < 0) != (stop < 0) or start < stop


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
        raise UserError(
            f"{where}: expected a table of claims, got {short(content) if content else 'nothing'}; "
            "begin each with its name"
        )
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
    if isinstance(value, dict) and all(map(is_number, value.values())):
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

    A claim that was dropped after a run has been seen has moved, too; so has one that is a premise
    now or is one no longer, as that changes what the others are corrected for.
    """
    same = ("sums", "wanted", "only", "premise")
    return [
        name
        for name, claim in then.items()
        if name not in now or any(getattr(now[name], n) != getattr(claim, n) for n in same)
    ]
