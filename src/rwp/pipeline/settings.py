"""The tables of params.yaml as classes, with the checks of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from itertools import product
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from rwp.core.settings import (
    BatchNormMode,
    Criterion,
    Direction,
    Keep,
    Length,
    NormScope,
    Precision,
    RandomStart,
    Tensors,
)
from rwp.core.threat import AnyNorm, Norm, check_length
from rwp.data.spec import DatasetSpec, PaddingMode, UnlabeledSpec
from rwp.evaluation.spec import PAPER_COLUMNS, STEPPING, WITHOUT_EFFECT, misnamed, no_effect
from rwp.factories import is_own
from rwp.spec import (
    LARGEST_SEED,
    Amount,
    Count,
    Name,
    OwnName,
    PositiveFloat,
    PositiveInt,
    Radius,
    Share,
    radius_value,
    word_or_own,
)
from rwp.training.spec import (
    AnyLoss,
    AnyMask,
    BatchStatistics,
    Climbs,
    Compilation,
    Draft,
    OwnNetworkSpec,
    PreActResNetSpec,
    Schedule,
    Selection,
    StepAt,
    WideResNetSpec,
)

T = TypeVar("T")

# YAML reads the word off as false.
_YAML_OFF = BeforeValidator(lambda value: "off" if value is False else value)
_LIST = Field(strict=False)  # a list is a tuple of them, also after a validator that comes before
MOST_EPOCHS = 100_000


class Frozen(BaseModel):
    """Base of every model here: immutable, no unknown keys, no silent conversion of strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _settings_table(value: Any) -> Any:
    """A plain value as the table {"default": value}; keys of a table in a table joined by "/".

    Raises:
        ValueError: two keys mean the same setting.
    """
    if not isinstance(value, dict):
        return {"default": value}
    if not value:
        raise ValueError("expected a value, or a table of values, got an empty one; add one")
    table: dict[Any, Any] = {}
    for key, entry in value.items():
        inner = _settings_table(entry) if isinstance(entry, dict) else {"default": entry}
        for rest, leaf in inner.items():
            joined = key if rest == "default" else f"{key}/{rest}"
            same = [other for other in table if _parts(other) == _parts(joined)]
            if same:
                raise ValueError(
                    f"expected one value for {joined}, got two (also {same[0]}); leave one out"
                )
            table[joined] = leaf
    return table


def _at_most(largest: int) -> Callable[[int], int]:
    """A check of a count that people mistype and a plan would count to."""

    def check(value: int) -> int:
        if value > largest:
            raise ValueError(f"expected at most {largest}, got {value}; lower it")
        return value

    return check


Seed = Annotated[Count, AfterValidator(_at_most(LARGEST_SEED))]


def _parts(key: Any) -> list[str]:
    return sorted(str(key).split("/"))


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    """A name given twice would be a row twice, and its tests counted twice."""
    again = [value for place, value in enumerate(values) if value in values[:place]]
    if again:
        raise ValueError(f"expected each name once, got {again[0]} twice; leave one out")
    return values


Names = Annotated[tuple[Name, ...], AfterValidator(_distinct)]
SomeNames = Annotated[Names, Field(min_length=1)]

# A value, or a table from settings to values: {default: 0.1, svhn: 0.01, at: {cifar10: 0.2}}. A key
# names a data set, threat model, network or objective; a table in a table narrows it further, and
# so does a key that joins several by "/", which is how the table is kept.
By = Annotated[dict[str, T], BeforeValidator(_settings_table)]


Split = Literal["test", "held-out", "train"]


class SweepEntry(Frozen):
    """Trainings that differ from a recipe's in some settings, one per combination of values."""

    recipe: Name
    vary: dict[str, tuple[Any, ...]]
    num_seeds: PositiveInt | None = None  # as of a recipe; none: as many as of the one varied

    @model_validator(mode="after")
    def _one_name_each(self) -> SweepEntry:
        if not self.vary:
            raise ValueError("vary: expected settings with their values, got none; add one")
        for name, values in self.vary.items():
            if None in values:
                raise ValueError(f"vary.{name}: expected values, got null, which changes nothing")
            texts = [_text(value) for value in values]  # of six digits: part of a folder's name
            again = [text for place, text in enumerate(texts) if text in texts[:place]]
            if again:
                raise ValueError(
                    f"vary.{name}: expected values that differ in their first six digits, got "
                    f"{again[0]} twice; leave one out"
                )
        return self

    def changes(self) -> list[dict[str, Any]]:
        """The combinations, the last setting varying fastest; an option as `options.NAME`."""
        return [
            dict(zip(self.vary, values, strict=True)) for values in product(*self.vary.values())
        ]

    def name_of(self, change: dict[str, Any]) -> str:
        """The recipe of one combination, such as at-rwp-c_min-1.5."""
        parts = (f"{name.lower()}-{_text(value)}" for name, value in change.items())
        return "-".join([self.recipe, *parts])


OPTIONS = "options."  # before the name of an option that a sweep varies


def nested(change: dict[str, Any]) -> dict[str, Any]:
    """A combination of a sweep as the `change` of a recipe."""
    plain = {name: value for name, value in change.items() if not name.startswith(OPTIONS)}
    own = {n.removeprefix(OPTIONS): v for n, v in change.items() if n.startswith(OPTIONS)}
    return plain | {"options": own} if own else plain


def _text(value: Any) -> str:
    """A value as part of a folder's name, such as 8_255 for a radius."""
    if isinstance(value, list | tuple):
        return "-".join(map(_text, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    return re.sub(r"[^a-z0-9._-]+", "_", str(value).lower())


class Table1Entry(Frozen):
    """Best and last robust accuracy by data set and threat model."""

    datasets: SomeNames
    threat_models: SomeNames
    recipes: SomeNames
    network: By[Name]


class Table2Entry(Frozen):
    """Accuracy of the best checkpoint under each attack."""

    dataset: Name
    threat_model: Name
    recipes: SomeNames
    network: By[Name]
    reference_recipe: Name | None = None  # a naturally trained network, to compare with


class Setting(Frozen):
    """Data set, threat model and network of trainings; by default Table 2's and the suite's own."""

    dataset: Name | None = None
    threat_model: Name | None = None
    network: Name | None = None


class BeyondGroup(Setting):
    """Rows of the table `beyond` that share a setting: recipes, and all of some sweeps."""

    title: str
    recipes: Names = ()
    sweeps: Names = ()

    @model_validator(mode="after")
    def _some(self) -> BeyondGroup:
        if not (self.recipes or self.sweeps):
            raise ValueError("expected recipes or sweeps, got none; name some")
        return self


class BeyondEntry(Frozen):
    """Rivals and variants that the paper does not have, on an equal footing, with their cost."""

    attacks: SomeNames
    groups: Annotated[tuple[BeyondGroup, ...], Field(min_length=1)]


class CurvesFigure(Setting):
    """Robust accuracy by epoch."""

    kind: Literal["curves"]
    recipes: SomeNames
    splits: Annotated[tuple[Split, ...], Field(min_length=1), AfterValidator(_distinct)]


class SweepFigure(Setting):
    """Robust accuracy by a setting that a sweep varies; other recipes as level lines."""

    kind: Literal["sweep"]
    sweep: Name
    label: str  # of the axis
    references: Names = ()


class RemovalFigure(Setting):
    """Learning curves without low-loss examples, with the share removed, beside those with."""

    kind: Literal["removal"]
    sweep: Name


class LandscapeFigure(Setting):
    """Loss by loss group along random directions of the weights, at several checkpoints."""

    kind: Literal["landscape"]
    recipe: Name
    epochs: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]  # done at each checkpoint
    edges: Annotated[tuple[Amount, ...], Field(min_length=2)]  # nats, of the loss groups
    num_directions: PositiveInt
    num_points: PositiveInt
    radius: PositiveFloat  # the largest mu
    num_examples: PositiveInt | None = None  # of the training images, by class; none: all
    num_seeds: PositiveInt = 1  # trainings that are looked at: of the recipe's first seeds
    test_images: bool = False  # as many of them as of training images, for the excess over these

    @model_validator(mode="after")
    def _rising(self) -> LandscapeFigure:
        for name in ("epochs", "edges"):
            values = list(getattr(self, name))
            if values != sorted(set(values)):
                raise ValueError(f"{name}: expected rising numbers, got {values}; order them")
        return self


class SearchFigure(Setting):
    """A choice of settings: accuracy on the held-out images of all trainings of some sweeps.

    No test image is looked at; the best of each recipe is marked.
    """

    kind: Literal["search"]
    sweeps: SomeNames


class MovementFigure(Setting):
    """Which images are memorized: by their loss group at an epoch, the share in the lowest.

    For suites with `keep_losses`.
    """

    kind: Literal["movement"]
    recipes: SomeNames
    epoch: Count  # from 0, at which images are sorted into groups
    edges: tuple[Amount, ...]  # nats, of the loss groups; what lies above is one more


FigureEntry = Annotated[
    CurvesFigure | SweepFigure | RemovalFigure | LandscapeFigure | MovementFigure | SearchFigure,
    Field(discriminator="kind"),
]


class ThreatModelEntry(Frozen):
    """What the attacker may do: a norm and a radius on [0, 1] pixels; its usual step size."""

    norm: Norm
    epsilon: By[Radius]
    step_size: By[Radius]

    @field_validator("epsilon", "step_size")
    @classmethod
    def _lengths_of_the_norm(cls, found: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        for text in found.values():
            if norm := info.data.get("norm"):  # none: it is wrong itself, and told
                try:
                    check_length("", radius_value(text), norm=norm)
                except ValueError as error:
                    raise ValueError(str(error).removeprefix(": ")) from error
        return found


class TrainingEntry(Frozen):
    """How networks are trained; those of type `By` may differ by data set, threat model, network
    and objective."""

    epochs: By[Annotated[PositiveInt, AfterValidator(_at_most(MOST_EPOCHS))]]
    batch_size: By[PositiveInt]
    learning_rate: By[PositiveFloat]
    schedule: By[Schedule]
    decay_epochs: tuple[PositiveInt, ...]
    decay_factor: PositiveFloat
    momentum: By[Share]
    nesterov: By[bool]
    weight_decay: By[Amount]
    normalize: By[bool]
    crop_padding: By[Count]
    padding_mode: By[PaddingMode]
    flip: By[bool]
    rotation_degrees: By[Annotated[Amount, Field(le=180)]]
    precision: Precision
    attack_num_steps: By[PositiveInt]
    attack_bn_mode: By[BatchNormMode]
    attack_epsilon: By[Radius] | None = None  # where training uses another radius than the threat
    attack_step_size: By[Radius] | None = None
    attack_random_start: By[RandomStart] | None = None  # none: the objective's own
    monitor_epsilon: By[Radius] | None = None  # of what is measured each epoch; none: the threat's
    monitor_step_size: By[Radius] | None = None
    monitor_random_start: By[RandomStart] | None = None  # none: the training attack's, or uniform
    monitor_keep: By[Keep] | None = None  # worst: right at every iterate; none: the last one
    gpus: By[PositiveInt] | None = None  # for one training, each with its share of every batch
    batch_statistics: BatchStatistics = "batch"  # of several GPUs' batch normalization
    compile: Annotated[Compilation, _YAML_OFF] = "off"  # torch.compile; changes the last digits

    @model_validator(mode="after")
    def _decays(self) -> TrainingEntry:
        self.check_decays()
        return self

    def check_decays(self) -> None:
        """The learning rate falls, in order and before the end; a ValueError where it does not."""
        if self.decay_factor >= 1:
            advice = "leave decay_epochs empty for none"
            if self.decay_factor > 1:
                advice = f"did you mean {1 / self.decay_factor:g}?"
            raise ValueError(
                f"decay_factor: expected a number below 1, which the learning rate is multiplied "
                f"by, got {self.decay_factor:g}; {advice}"
            )
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            raise ValueError(
                f"decay_epochs: expected rising epochs, got {list(self.decay_epochs)}; order them"
            )
        longest = max(self.epochs.values(), default=0)
        if any(name.startswith("piecewise") for name in self.schedule.values()):
            self.check_end(longest)

    def check_end(self, epochs: int) -> None:
        """The learning rate falls within so many epochs; a ValueError where it does not."""
        late = [epoch for epoch in self.decay_epochs if epoch >= epochs]
        if late:
            raise ValueError(
                f"decay_epochs: expected epochs before the end of training ({epochs} epochs), got "
                f"{late[0]}, when nothing would be left to train; lower it or raise epochs"
            )


# A recipe may change any of them but how many GPUs share the work.
CHANGEABLE = tuple(name for name in TrainingEntry.model_fields if name != "gpus")


def _or_none(field: FieldInfo) -> Any:
    """The same type of field, which need not be given."""
    kind: Any = field.annotation
    kind = Annotated[(kind, *field.metadata)] if field.metadata else kind
    return (kind | None, None)


_ChangeOfTraining: Any = create_model(
    "_ChangeOfTraining",
    __base__=Frozen,
    **{name: _or_none(TrainingEntry.model_fields[name]) for name in CHANGEABLE},
)


def _check_quantiles(entry: Change | PerturbationEntry) -> None:
    """A bound of the losses is one in nats or a quantile."""
    bounds = ("c_min", "c_max")
    pairs = [(getattr(entry, n, None), getattr(entry, f"{n}_quantile"), n) for n in bounds]
    for value, quantile, name in pairs:
        if value is not None and quantile is not None:
            raise ValueError(
                f"{name}_quantile: expected none beside {name}, got {quantile}; remove one of them"
            )


class Change(_ChangeOfTraining):
    """Settings in which a recipe differs from its suite, objective and perturbation.

    Any setting of `training`, and these; none: as there.
    """

    gamma: PositiveFloat | None = None
    num_weight_steps: PositiveInt | None = None
    norm_scope: NormScope | None = None
    mask: AnyMask | None = None
    options: dict[str, Any] = Field(default_factory=dict)  # of the recipe's own factories
    c_min: Amount | None = None  # nats
    loss_range: tuple[Amount, Amount] | None = None  # nats: mask `range` from, to
    criterion: Criterion | None = None
    warmup_epochs: Count | None = None
    c_min_quantile: float | None = None  # of the batch's losses, in the place of c_min
    c_max_quantile: float | None = None
    tensors: Tensors | None = None
    layers: tuple[int, int] | None = None
    depth_profile: tuple[Amount, ...] | None = None
    length: Length | None = None
    direction: Direction | None = None
    climbs: Climbs | None = None
    step_at: StepAt | None = None
    remove_below: Amount | None = None  # nats
    remove_at_random: bool | None = None  # as many as lie below, drawn at random
    beta: Amount | None = None  # of TRADES and MART
    label_smoothing: Share | None = None
    average_decay: Share | None = None  # of the moving average of the weights
    start_epoch: PositiveInt | None = None  # of the recipe that this one starts from

    @model_validator(mode="after")
    def _range(self) -> Change:
        if self.loss_range and self.loss_range[0] >= self.loss_range[1]:
            raise ValueError(f"loss_range: expected [low, high], got {list(self.loss_range)}")
        _check_quantiles(self)
        return self

    @property
    def of_training(self) -> dict[str, Any]:
        """The settings of the training that are given."""
        given = ((name, getattr(self, name)) for name in CHANGEABLE)
        return {name: value for name, value in given if value is not None}


class UnlabeledEntry(Frozen):
    """RST's unlabeled part of each batch and the teacher that labels it."""

    source: By[Name]
    fraction: Annotated[Share, Field(gt=0)]  # share of each batch that is pseudo-labeled
    weight: PositiveFloat  # of their losses in the mean; lambda of Eq. 6 at a fraction of 0.5
    epoch_size: By[PositiveInt]  # images drawn in what is called an epoch
    teacher_recipe: Name
    teacher_network: By[Name]
    min_confidence: Share | None = None  # pseudo-labels below it are left out
    per_class: PositiveInt | None = None  # so many of each class, the most confident ones


def _refuse_options(options: dict[str, Any], word: str) -> None:
    if options and not is_own(word):
        raise ValueError(
            f"options: expected none for {word}, got {', '.join(options)}; they are for a "
            "package.module:factory of your own"
        )


class ObjectiveEntry(Frozen):
    """What is minimized: a loss, its settings, and unlabeled data where it uses them."""

    loss: AnyLoss
    options: dict[str, Any] = Field(default_factory=dict)  # of a loss of one's own
    beta: Amount | None = None
    # How often TRADES' clean pass counts in the running statistics; none: as published, twice, and
    # once where one pass serves both terms, with unlabeled images.
    clean_updates: Literal[1, 2] | None = None
    label_smoothing: Share = 0.0
    unlabeled: UnlabeledEntry | None = None

    @model_validator(mode="after")
    def _beta(self) -> ObjectiveEntry:
        _refuse_options(self.options, self.loss)
        of_ours = ("beta", "clean_updates", "label_smoothing")
        vain = [n for n in of_ours if getattr(self, n) != type(self).model_fields[n].default]
        if self.clean_updates == 1:
            vain.remove("clean_updates")  # that of all losses but TRADES
        if is_own(self.loss) and vain:
            raise ValueError(
                f"expected the settings of {self.loss} under options, got {vain[0]} beside them; "
                "move it there"
            )
        if self.clean_updates not in (None, 1) and self.loss != "trades":
            raise ValueError(
                f"clean_updates: expected it with the loss trades alone, got {self.clean_updates} "
                f"with {self.loss}; leave it out"
            )
        if (self.loss in ("trades", "mart")) != (self.beta is not None):
            raise ValueError(
                f"expected beta with the losses trades and mart and no other, got loss {self.loss}"
                f" with beta {self.beta}"
            )
        if self.label_smoothing and self.loss == "mart":
            raise ValueError(
                f"label_smoothing: expected 0 for mart, got {self.label_smoothing}; leave it out"
            )
        return self


class PerturbationEntry(Frozen):
    """How weights are perturbed; AWP and RWP differ in mask, steps and norm scope.

    The settings from `c_min_quantile` on span the family around them (docs/algorithm.md).
    """

    gamma: By[PositiveFloat]
    num_weight_steps: By[PositiveInt]
    norm_scope: NormScope
    mask: AnyMask
    c_min: By[Amount] | None = None  # nats
    c_max: By[Amount] | None = None  # nats
    factory: OwnName | None = None  # a perturbation of one's own, in the place of all of the above
    options: dict[str, Any] = Field(default_factory=dict)  # of it, or of a mask of one's own
    criterion: Criterion = "objective"  # what c_min is compared with
    warmup_epochs: By[Count]  # epochs at the start without perturbation
    c_min_quantile: float | None = None  # of the batch's losses, in the place of c_min
    c_max_quantile: float | None = None
    tensors: Tensors = "kernels"
    # the first and the last layer, -1 is the network's last; factors of the strength along these
    layers: Annotated[tuple[int, int], _LIST] | None = None
    depth_profile: Annotated[tuple[Amount, ...], _LIST] = ()
    length: Length = "relative"  # to that of the weights
    direction: Direction = "gradient"
    climbs: Climbs = "objective"  # the loss that is raised
    step_at: StepAt = "perturbed"  # the weights that the optimizer steps from

    @model_validator(mode="before")
    @classmethod
    def _of_its_own(cls, given: Any) -> Any:
        """A factory says all but when to start; the other settings get values without effect."""
        if not isinstance(given, dict) or given.get("factory") is None:
            return given
        vain = sorted(given.keys() - {"factory", "options", "criterion", "warmup_epochs"})
        if vain:
            raise ValueError(
                f"expected the settings of {given['factory']} under options, got {vain[0]} beside "
                "them; move it there"
            )
        without_effect = {
            "gamma": 0.01,
            "num_weight_steps": 1,
            "norm_scope": "model",
            "mask": "all",
        }
        return {"warmup_epochs": 0} | without_effect | given

    @model_validator(mode="after")
    def _losses(self) -> PerturbationEntry:
        if self.factory is None:
            _refuse_options(self.options, self.mask)
        if is_own(self.mask) and (self.c_min or self.c_max):
            raise ValueError(
                f"expected no c_min and c_max with the mask {self.mask}, got one; its thresholds "
                "go under options"
            )
        if self.mask == "all" and (self.c_min or self.c_max):
            raise ValueError(
                "expected no c_min and c_max with mask all, where they would have no effect, got "
                "one; leave it out or choose another mask"
            )
        if self.mask in ("below", "above", "random") and self.c_max:
            raise ValueError(
                f"expected no c_max with mask {self.mask}, where it would have no effect, got one; "
                "leave it out (null where it is inherited) or choose mask: range"
            )
        _check_quantiles(self)
        return self


# What a recipe may change of its perturbation: what AWP and RWP have, and what others near them do.
OF_PERTURBATION = tuple(
    n for n in PerturbationEntry.model_fields if n in Change.model_fields and n != "options"
)
_OF_AWP_AND_RWP = ("gamma", "num_weight_steps", "norm_scope", "mask", "c_min", "criterion")
FAMILY = tuple(n for n in OF_PERTURBATION if n not in (*_OF_AWP_AND_RWP, "warmup_epochs"))


class StartEntry(Frozen):
    """Where trainings of a recipe begin: at another recipe's after some epochs, or at a file."""

    recipe: Name | None = None
    epoch: PositiveInt | None = None  # epochs that the other recipe has done
    file: str | None = None  # weights; relative to the project

    @model_validator(mode="after")
    def _one(self) -> StartEntry:
        if (self.recipe is None) == (not self.file):
            got = "both" if self.file else "none"
            raise ValueError(f"expected a recipe (with an epoch) or a file, got {got}; name one")
        if (self.recipe is None) != (self.epoch is None):
            raise ValueError(
                f"expected an epoch with a recipe and with nothing else, got recipe {self.recipe} "
                f"with epoch {self.epoch}; name both, or a file alone"
            )
        return self


class RecipeEntry(Frozen):
    """A defense: an objective and a weight perturbation (none if not given)."""

    objective: Name
    perturbation: Name | None = None
    start: StartEntry | None = None  # none: at random weights
    change: Change = Change()
    average_decay: Share | None = None  # the moving average of the weights is what is measured
    attack_num_steps: PositiveInt | None = None  # none: that of the training
    num_seeds: PositiveInt | None = None  # the first so many of the suite's seeds, if it has more


# What tables and their details call other columns; that of a spread over seeds ends in _std.
OTHER_COLUMNS = (
    *("group", "threat_model", "method", "dataset", "defense", "network", "num_seeds"),
    *("best", "last", "best_on_test", "last_epochs_mean", "robust_overfitting_gap"),
    *("selection_optimism", "worst_case", "verdict"),
    *("forward_passes", "backward_passes", "training_hours", "device", "seed", "status"),
    *("reason", "run", "commit", "fingerprint", "evaluation_seconds", "records"),
)


class AttackEntry(Frozen):
    """An attack of the evaluation; norm and sizes are the threat model's unless given here."""

    kind: Annotated[str, word_or_own(*WITHOUT_EFFECT)]
    options: dict[str, Any] = Field(default_factory=dict)  # of an attack of one's own
    num_steps: PositiveInt | None = None
    num_restarts: PositiveInt = 1
    step_size: By[Radius] | None = None
    norm: AnyNorm | None = None  # another threat model than the network's own
    epsilon: By[Radius] | None = None
    kappa: Amount | None = None
    version: Literal["standard", "lite", "few-classes"] | None = None
    num_examples: PositiveInt | None = None  # fewer images than its evaluation's, by class
    draft: Draft | None = None  # the arithmetic of the search; no table takes what it finds

    @property
    def has_other_threat(self) -> bool:
        """Whether it attacks under a threat model of its own."""
        return self.epsilon is not None

    @model_validator(mode="after")
    def _threat_model(self) -> AttackEntry:
        if self.norm is not None and self.epsilon is None:
            raise ValueError(
                f"expected an epsilon with the norm {self.norm}, got none; radii of two norms do "
                "not compare, so name one"
            )
        if self.norm == "l1" and self.kind != "autoattack":
            raise ValueError(
                f"norm: expected linf or l2 for {self.kind}, got l1, which AutoAttack alone "
                "searches; take kind autoattack"
            )
        if self.has_other_threat and self.step_size is None and self.kind in STEPPING:
            raise ValueError(
                f"expected a step_size for {self.kind} with a radius of its own, got none; add one"
            )
        return self

    @model_validator(mode="after")
    def _complete(self) -> AttackEntry:
        needed = {"pgd": ("num_steps",), "cw": ("num_steps", "kappa")}
        for name in needed.get(self.kind.removesuffix("_zero_masked"), ()):
            if getattr(self, name) is None:
                raise ValueError(f"expected {name} for {self.kind}, got none; add {name}")
        _refuse_options(self.options, self.kind)
        for name in no_effect(self.kind):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"expected no {name} for {self.kind}, where it would have no effect, got "
                    f"{getattr(self, name)}; leave it out"
                )
        return self


class EvaluationEntry(Frozen):
    """Which attacks are run, on how many test images, in what batches."""

    attacks: Annotated[dict[Name, AttackEntry], Field(min_length=1)]
    batch_size: PositiveInt
    num_examples: PositiveInt | None = None  # stratified by class; none: the whole test split
    first_examples: PositiveInt | None = None  # instead: the first in the published order
    part_seed: Seed = 0  # which images num_examples draws, for all recipes and seeds
    seed: Seed

    @model_validator(mode="after")
    def _one_part(self) -> EvaluationEntry:
        if self.num_examples and self.first_examples:
            raise ValueError(
                f"expected num_examples (stratified) or first_examples (in the published order), "
                f"got both ({self.num_examples} and {self.first_examples}); leave one out"
            )
        return self

    @model_validator(mode="after")
    def _parts_of_the_part(self) -> EvaluationEntry:
        for name, attack in self.attacks.items():
            own, most = attack.num_examples, self.num_examples
            if own is not None and self.first_examples:
                raise ValueError(
                    f"attacks.{name}.num_examples: expected none with first_examples, got {own};"
                    f" leave one out"
                )
            if own is not None and most is not None and own > most:
                raise ValueError(
                    f"attacks.{name}.num_examples: expected at most the {most} of the evaluation,"
                    f" got {own}; lower it"
                )
        return self

    @model_validator(mode="after")
    def _few_classes_have_a_name_of_their_own(self) -> EvaluationEntry:
        entry = self.attacks.get("autoattack")
        if entry is not None and entry.version == "few-classes":
            raise ValueError(
                "attacks.autoattack: expected another name for version: few-classes, which is not "
                "what others report as AutoAttack; call it autoattack-few-classes"
            )
        return self

    @model_validator(mode="after")
    def _names_say_what_is_done(self) -> EvaluationEntry:
        for name, entry in self.attacks.items():
            version = entry.version or ("standard" if entry.kind == "autoattack" else None)
            fault = misnamed(name, entry.kind, entry.num_steps, version, entry.norm)
            if fault:
                raise ValueError(f"attacks.{name}: {fault}")
            of = next((other for other, column in PAPER_COLUMNS.items() if column == name), name)
            if name in OTHER_COLUMNS or name.endswith("_std") or of != name:
                raise ValueError(
                    f"attacks.{name}: expected a name that no other column of the tables has, got "
                    f"{name}{f', that of {of}' if of != name else ''}; rename it"
                )
            if entry.has_other_threat and name in PAPER_COLUMNS:  # natural has no radius
                raise ValueError(
                    f"attacks.{name}: expected another name for an attack with a radius of its "
                    f"own, as tables show {name} under the threat model of the network; call it "
                    f"{name}-{entry.norm or 'other'}"
                )
            same = [other for other, settings in self.attacks.items() if settings == entry]
            if same[0] != name:
                raise ValueError(
                    f"attacks.{name}: expected attacks that differ, got the settings of {same[0]}; "
                    "leave one out, or use num_restarts for more starts"
                )
        return self

    @model_validator(mode="after")
    def _no_attack_is_called_diagnosis(self) -> EvaluationEntry:
        if "diagnosis" in self.attacks:
            raise ValueError("attacks: expected another name, got diagnosis, which the verdict has")
        return self


class AlsoAttacked(Frozen):
    """Recipes of which other networks than `best` are attacked, too."""

    last: Names = ()
    best_on_test: Names = ()

    def of(self, recipe: str) -> list[str]:
        """The checkpoints of a recipe."""
        return [name for name in type(self).model_fields if recipe in getattr(self, name)]


class Suite(Frozen):
    """One complete set of experiments."""

    description: str
    seeds: tuple[Seed, ...]
    selection: Selection  # where `best` is chosen
    held_out_fraction: Share
    test_curve: bool  # measure the test split each epoch (never used to choose, if held_out)
    monitor_num_steps: PositiveInt  # PGD steps of the per-epoch measurement
    keep_losses: bool = False  # losses.npz of each run: of every training image, every epoch
    curve_examples: PositiveInt | None = None  # test images of it, by class; none: all
    # Of the held-out images alone, where a cheaper attack chooses `best`; none: as all images.
    selection_num_steps: PositiveInt | None = None
    selection_step_size: By[Radius] | None = None
    selection_every: PositiveInt = 1  # epochs from one look at them to the next
    threat_models: dict[Name, ThreatModelEntry]
    network: By[Name]
    training: TrainingEntry
    objectives: dict[Name, ObjectiveEntry]
    perturbations: dict[Name, PerturbationEntry]
    recipes: dict[Name, RecipeEntry]
    evaluation: EvaluationEntry
    table1: Table1Entry
    table2: Table2Entry
    beyond: BeyondEntry | None = None
    sweeps: dict[Name, SweepEntry] = Field(default_factory=dict)
    figures: dict[Name, FigureEntry] = Field(default_factory=dict)
    reported: Names = ()  # the figures and `beyond`, if the report waits for them
    # Networks besides `best` that Table 2's attacks are run on, of these recipes, for the claims.
    also_attacked: AlsoAttacked = AlsoAttacked()

    @model_validator(mode="after")
    def _selection(self) -> Suite:
        if self.selection == "held_out" and not self.held_out_fraction:
            raise ValueError("selection held_out: expected a held_out_fraction above 0, got 0")
        if self.selection == "test" and self.held_out_fraction:
            raise ValueError("selection test: expected held_out_fraction 0, got more")
        if self.selection == "test" and not self.test_curve:
            raise ValueError("selection test: expected test_curve true, got false")
        for name in ("selection_num_steps", "selection_step_size", "selection_every"):
            if self.selection == "test" and getattr(self, name) != Suite.model_fields[name].default:
                raise ValueError(
                    f"{name}: expected none with selection test, where no image is held out, got"
                    f" {getattr(self, name)}; leave it out"
                )
        if self.curve_examples is not None and (self.selection == "test" or not self.test_curve):
            raise ValueError(
                f"curve_examples: expected none with selection test, which looks at all images, or"
                f" test_curve false, got {self.curve_examples}; leave it out"
            )
        if self.also_attacked.best_on_test and not self.test_curve:
            raise ValueError(
                "also_attacked.best_on_test: expected test_curve true, by which it is chosen, got"
                " false; measure the test curve, or leave it out"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected distinct seeds, got {list(self.seeds)}")
        return self


def _family(value: Any) -> Any:
    """Which kind of network an entry is; own ones are named by their factories."""
    family = value.get("family") if isinstance(value, dict) else getattr(value, "family", None)
    return "own" if is_own(family) else family


_Network = Annotated[
    Annotated[PreActResNetSpec, Tag("preact_resnet")]
    | Annotated[WideResNetSpec, Tag("wide_resnet")]
    | Annotated[OwnNetworkSpec, Tag("own")],
    Discriminator(
        _family,
        custom_error_type="family",
        custom_error_message="preact_resnet, wide_resnet or package.module:factory",
    ),
]


class Params(Frozen):
    """params.yaml as a whole."""

    build: Names  # the suites that `snakemake` without a target and `dvc repro` build
    datasets: dict[Name, DatasetSpec]
    unlabeled: dict[Name, UnlabeledSpec]
    networks: dict[Name, _Network]
    suites: dict[Name, Suite]

    @field_validator("networks")
    @classmethod
    def _hashes_are_ours(cls, networks: dict[str, _Network]) -> dict[str, _Network]:
        for name, entry in networks.items():
            if isinstance(entry, OwnNetworkSpec) and entry.source:
                raise ValueError(
                    f"{name}.source: expected none, as the hash of a network's code is computed, "
                    f"got {entry.source!r}; remove it"
                )
        return networks


@cache
def known_keys() -> frozenset[str]:
    """The fields of all tables that people write."""
    known: set[str] = set()
    todo: list[type[BaseModel]] = [Frozen]
    while todo:
        model = todo.pop()
        todo.extend(model.__subclasses__())
        known |= set(model.model_fields)
    for spec in (DatasetSpec, UnlabeledSpec, PreActResNetSpec, WideResNetSpec, OwnNetworkSpec):
        known |= {field.name for field in fields(spec)}
    return frozenset(known)
