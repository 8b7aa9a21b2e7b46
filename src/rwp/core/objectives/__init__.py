"""The objectives by name; a new one is one file here, a line in `_BUILDERS` and its word in
`rwp.core.settings.Loss`.
"""

from collections.abc import Callable

from rwp.core.objectives.at import AdversarialTraining
from rwp.core.objectives.base import ExampleLosses, Objective
from rwp.core.objectives.mart import Mart
from rwp.core.objectives.natural import NaturalTraining
from rwp.core.objectives.trades import Trades
from rwp.core.settings import Criterion, Loss, ObjectiveSettings, RandomStart

__all__ = [
    "AdversarialTraining",
    "ExampleLosses",
    "Mart",
    "NaturalTraining",
    "Objective",
    "Trades",
    "build_objective",
    "make_objective",
]


def build_objective(settings: ObjectiveSettings) -> Objective:
    """The attack and the losses that `settings` name."""
    return _BUILDERS[settings.loss](settings)


def make_objective(
    name: Loss,
    *,
    beta: float | None = None,
    criterion: Criterion = "objective",
    clean_updates: int | None = None,
    random_start: RandomStart | None = None,
    label_smoothing: float = 0.0,
) -> Objective:
    """`build_objective` with the settings as arguments.

    Raises:
        ValueError: as `rwp.core.settings.ObjectiveSettings`.
    """
    return build_objective(
        ObjectiveSettings(name, beta, criterion, clean_updates, random_start, label_smoothing)
    )


def _trades(settings: ObjectiveSettings) -> Objective:
    return Trades(
        float(settings.beta or 0.0),
        settings.criterion,
        settings.clean_updates or 2,
        settings.random_start or "gaussian",
        settings.label_smoothing,
    )


def _mart(settings: ObjectiveSettings) -> Objective:
    return Mart(
        float(settings.beta or 0.0), settings.criterion, settings.random_start or "gaussian"
    )


_BUILDERS: dict[Loss, Callable[[ObjectiveSettings], Objective]] = {
    "natural": lambda settings: NaturalTraining(
        label_smoothing=settings.label_smoothing, criterion=settings.criterion
    ),
    "at": lambda settings: AdversarialTraining(
        settings.random_start or "uniform", settings.label_smoothing, settings.criterion
    ),
    "trades": _trades,
    "mart": _mart,
}
