"""What a suite shows: the paper's tables, sweeps of settings, figures, and a table beyond them."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rwp.config.fields import Amount, By, Frozen, Name, PositiveFloat, PositiveInt

Split = Literal["test", "held-out", "train"]


class Change(Frozen):
    """Settings in which a recipe differs from its objective and perturbation; none: as there."""

    gamma: PositiveFloat | None = None
    num_weight_steps: PositiveInt | None = None
    norm_scope: Literal["layer", "model"] | None = None
    mask: Literal["all", "below", "range", "above", "random"] | None = None
    c_min: Amount | None = None  # nats
    loss_range: tuple[Amount, Amount] | None = None  # nats: mask `range` from, to
    criterion: Literal["objective", "adversarial_ce"] | None = None
    remove_below: Amount | None = None  # nats

    @model_validator(mode="after")
    def _range(self) -> Change:
        if self.loss_range and self.loss_range[0] >= self.loss_range[1]:
            raise ValueError(f"loss_range: expected [low, high], got {list(self.loss_range)}")
        return self


class SweepEntry(Frozen):
    """Trainings that differ from a recipe's in some settings, one per combination of values."""

    recipe: Name
    vary: dict[Name, tuple[Any, ...]]

    def changes(self) -> list[dict[str, Any]]:
        """The combinations, the last setting varying fastest."""
        return [
            dict(zip(self.vary, values, strict=True)) for values in product(*self.vary.values())
        ]

    def name_of(self, change: dict[str, Any]) -> str:
        """The recipe of one combination, such as at-rwp-c_min-1.5."""
        return "-".join([self.recipe, *(f"{name}-{_text(v)}" for name, v in change.items())])


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "-".join(map(_text, value))
    return f"{value:g}" if isinstance(value, int | float) else str(value)


class Table1Entry(Frozen):
    """Best and last robust accuracy by data set and threat model."""

    datasets: tuple[Name, ...]
    threat_models: tuple[Name, ...]
    recipes: tuple[Name, ...]
    network: By[Name]


class Table2Entry(Frozen):
    """Accuracy of the best checkpoint under each attack."""

    dataset: Name
    threat_model: Name
    recipes: tuple[Name, ...]
    network: By[Name]
    reference_recipe: Name | None = None  # a naturally trained network, to compare with


class Setting(Frozen):
    """Where trainings stand; what is not given is that of Table 2, the network the suite's."""

    dataset: Name | None = None
    threat_model: Name | None = None
    network: Name | None = None


class BeyondGroup(Setting):
    """Rows of the table `beyond` that share a setting: recipes, and all of some sweeps."""

    title: str
    recipes: tuple[Name, ...] = ()
    sweeps: tuple[Name, ...] = ()


class BeyondEntry(Frozen):
    """Rivals and variants that the paper does not have, on an equal footing, with their cost."""

    attacks: tuple[Name, ...]
    groups: tuple[BeyondGroup, ...]


class CurvesFigure(Setting):
    """Robust accuracy by epoch."""

    kind: Literal["curves"]
    recipes: tuple[Name, ...]
    splits: tuple[Split, ...]


class SweepFigure(Setting):
    """Robust accuracy by a setting that a sweep varies; other recipes as level lines."""

    kind: Literal["sweep"]
    sweep: Name
    label: str  # of the axis
    references: tuple[Name, ...] = ()


class RemovalFigure(Setting):
    """Learning curves without low-loss examples, with the share removed, beside those with."""

    kind: Literal["removal"]
    sweep: Name


class LandscapeFigure(Setting):
    """Loss by loss group along random directions of the weights, at several checkpoints."""

    kind: Literal["landscape"]
    recipe: Name
    epochs: tuple[PositiveInt, ...]  # epochs done at each checkpoint
    edges: tuple[Amount, ...]  # nats, of the loss groups
    num_directions: PositiveInt
    num_points: PositiveInt
    radius: PositiveFloat  # the largest mu
    num_examples: PositiveInt | None = None  # of the training images, by class; none: all


FigureEntry = Annotated[
    CurvesFigure | SweepFigure | RemovalFigure | LandscapeFigure, Field(discriminator="kind")
]
