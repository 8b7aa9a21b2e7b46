"""The objectives by name; a new one is one file here and one line in `_BUILDERS`."""

import math
from collections.abc import Callable
from typing import get_args

from rwp.core.checks import check_choice
from rwp.core.geometry import RandomStart
from rwp.core.objectives.at import AdversarialTraining
from rwp.core.objectives.base import Criterion, ExampleLosses, Objective
from rwp.core.objectives.mart import Mart
from rwp.core.objectives.natural import NaturalTraining
from rwp.core.objectives.trades import Trades

__all__ = [
    "AdversarialTraining",
    "Criterion",
    "ExampleLosses",
    "Mart",
    "NaturalTraining",
    "Objective",
    "Trades",
    "make_objective",
]


def make_objective(
    name: str,
    *,
    beta: float | None = None,
    criterion: Criterion = "objective",
    clean_updates: int | None = None,
    random_start: RandomStart | None = None,
) -> Objective:
    """Build an objective.

    Args:
        name: "natural", "at", "trades" (also RST: the same on mixed batches) or "mart".
        beta: weight of the divergence; TRADES and MART only.
        criterion: what the mask of the weight perturbation looks at; see `example_losses`.
        clean_updates: TRADES only: 2 (its published code, and the default) or 1 (RST's).
        random_start: start of the attack; None for the published one ("uniform" for AT,
            "gaussian" for TRADES and MART).

    Raises:
        ValueError: an unknown name or option, beta missing or given in vain.
    """
    check_choice("objective", name, tuple(_BUILDERS))
    check_choice("criterion", criterion, get_args(Criterion))
    if random_start is not None:
        check_choice("random_start", random_start, get_args(RandomStart))
    takes_beta = name in ("trades", "mart")
    if takes_beta and (beta is None or not math.isfinite(beta) or beta < 0):
        raise ValueError(f"beta: expected a weight >= 0 for {name}, got {beta}; name one")
    if not takes_beta and beta is not None:
        raise ValueError(f"beta: expected none for {name}, got {beta}; remove it")
    if clean_updates is not None and (name != "trades" or clean_updates not in (1, 2)):
        raise ValueError(
            f"clean_updates: expected 1 or 2, with trades, got {clean_updates} with {name}; "
            "remove it"
        )
    return _BUILDERS[name](beta, criterion, clean_updates, random_start)


def _trades(
    beta: float | None,
    criterion: Criterion,
    clean_updates: int | None,
    random_start: RandomStart | None,
) -> Objective:
    return Trades(float(beta or 0.0), criterion, clean_updates or 2, random_start or "gaussian")


_Builder = Callable[[float | None, Criterion, int | None, RandomStart | None], Objective]
_BUILDERS: dict[str, _Builder] = {
    "natural": lambda beta, criterion, updates, start: NaturalTraining(),
    "at": lambda beta, criterion, updates, start: AdversarialTraining(start or "uniform"),
    "trades": _trades,
    "mart": lambda beta, criterion, updates, start: Mart(
        float(beta or 0.0), criterion, start or "gaussian"
    ),
}
