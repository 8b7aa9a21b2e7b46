"""The shape of params.yaml. Every table here is written by a person; see params.yaml itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rwp.config.definitions import DatasetSpec, NetworkSpec, UnlabeledSpec
from rwp.config.fields import (
    Amount,
    By,
    Count,
    Frozen,
    Name,
    PositiveFloat,
    PositiveInt,
    Radius,
    Share,
)
from rwp.config.results import (
    BeyondEntry,
    Change,
    FigureEntry,
    SweepEntry,
    Table1Entry,
    Table2Entry,
)

RandomStart = Literal["uniform", "gaussian", "off_ball", "none"]


class ThreatModelEntry(Frozen):
    """What the attacker may do: a norm and a radius on [0, 1] pixels; its usual step size."""

    norm: Literal["linf", "l2"]
    epsilon: By[Radius]
    step_size: By[Radius]


class TrainingEntry(Frozen):
    """How networks are trained; each value may differ by data set, threat model, objective."""

    epochs: By[PositiveInt]
    batch_size: By[PositiveInt]
    learning_rate: By[PositiveFloat]
    schedule: By[Literal["piecewise_by_step", "piecewise_by_epoch", "cosine_by_epoch", "constant"]]
    decay_epochs: tuple[PositiveInt, ...]
    decay_factor: PositiveFloat
    momentum: By[Amount]
    nesterov: By[bool]
    weight_decay: By[Amount]
    normalize: By[bool]
    crop_padding: By[Count]
    padding_mode: By[Literal["zero", "reflect"]]
    flip: By[bool]
    rotation_degrees: By[Amount]
    precision: Literal["fp32", "tf32", "bf16"]
    attack_num_steps: By[PositiveInt]
    attack_bn_mode: By[Literal["train", "eval"]]
    attack_epsilon: By[Radius] | None = None  # where training uses another radius than the threat
    attack_step_size: By[Radius] | None = None
    attack_random_start: By[RandomStart] | None = None  # none: the objective's own
    gpus: By[PositiveInt] | None = None  # for one training, each with its share of every batch
    batch_statistics: Literal["batch", "share"] = "batch"  # of several GPUs' batch normalization
    compile: bool = False  # torch.compile; changes the last digits


class UnlabeledEntry(Frozen):
    """RST's unlabeled part of each batch and the teacher that labels it."""

    source: By[Name]
    fraction: Share  # share of each batch that is pseudo-labeled
    weight: PositiveFloat  # lambda of Eq. 6
    epoch_size: By[PositiveInt]  # images drawn in what is called an epoch
    teacher_recipe: Name
    teacher_network: By[Name]
    min_confidence: Share | None = None  # pseudo-labels below it are left out
    per_class: PositiveInt | None = None  # so many of each class, the most confident ones


class ObjectiveEntry(Frozen):
    """What is minimized: a loss, its settings, and unlabeled data where it uses them."""

    loss: Literal["natural", "at", "trades", "mart"]
    beta: Amount | None = None
    clean_updates: Literal[1, 2] = 1  # times the clean pass counts in the running statistics
    unlabeled: UnlabeledEntry | None = None

    @model_validator(mode="after")
    def _beta(self) -> ObjectiveEntry:
        if (self.loss in ("trades", "mart")) != (self.beta is not None):
            raise ValueError(
                f"expected beta with the losses trades and mart and no other, got loss {self.loss}"
                f" with beta {self.beta}"
            )
        return self


class PerturbationEntry(Frozen):
    """How weights are perturbed; AWP and RWP differ in mask, steps and norm scope."""

    gamma: By[PositiveFloat]
    num_weight_steps: By[PositiveInt]
    norm_scope: Literal["layer", "model"]
    mask: Literal["all", "below", "range", "above", "random"]
    c_min: By[Amount] | None = None  # nats
    c_max: By[Amount] | None = None  # nats
    criterion: Literal["objective", "adversarial_ce"] = "objective"  # what c_min is compared with
    warmup_epochs: By[Count]  # epochs at the start without perturbation


class RecipeEntry(Frozen):
    """A defense: an objective and a weight perturbation (none if not given)."""

    objective: Name
    perturbation: Name | None = None
    change: Change = Change()
    average_decay: Share | None = None  # the moving average of the weights is what is measured
    attack_num_steps: PositiveInt | None = None  # none: that of the training


class AttackEntry(Frozen):
    """An attack of the evaluation; sizes come from the threat model unless given here."""

    kind: Literal[
        "natural", "fgsm", "fgsm_random_start", "pgd", "cw", "cw_zero_masked", "autoattack"
    ]
    num_steps: PositiveInt | None = None
    num_restarts: PositiveInt = 1
    step_size: By[Radius] | None = None
    kappa: Amount | None = None
    version: Literal["standard", "lite"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> AttackEntry:
        needed = {"pgd": ("num_steps",), "cw": ("num_steps", "kappa")}
        for name in needed.get(self.kind.removesuffix("_zero_masked"), ()):
            if getattr(self, name) is None:
                raise ValueError(f"expected {name} for {self.kind}, got none; add {name}")
        return self


class EvaluationEntry(Frozen):
    """Which attacks are run, on how many test images, in what batches."""

    attacks: dict[Name, AttackEntry]
    batch_size: PositiveInt
    num_examples: PositiveInt | None = None  # stratified by class; none: the whole test split
    first_examples: PositiveInt | None = None  # instead: the first in the published order
    part_seed: Count = 0  # which images num_examples draws, for all recipes and seeds
    seed: Count

    @model_validator(mode="after")
    def _one_part(self) -> EvaluationEntry:
        if self.num_examples and self.first_examples:
            raise ValueError(
                f"expected num_examples (stratified) or first_examples (in the published order), "
                f"got both ({self.num_examples} and {self.first_examples}); leave one out"
            )
        return self

    @model_validator(mode="after")
    def _no_attack_is_called_diagnosis(self) -> EvaluationEntry:
        if "diagnosis" in self.attacks:
            raise ValueError("attacks: expected another name, got diagnosis, which the verdict has")
        return self


class Suite(Frozen):
    """One complete set of experiments."""

    description: str
    seeds: tuple[Count, ...]
    selection: Literal["held_out", "test"]  # where `best` is chosen
    held_out_fraction: Share
    test_curve: bool  # measure the test split each epoch (never used to choose, if held_out)
    monitor_num_steps: PositiveInt  # PGD steps of the per-epoch measurement
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
    reported: tuple[Name, ...] = ()  # the figures and `beyond`, if the report waits for them

    @model_validator(mode="after")
    def _selection(self) -> Suite:
        if self.selection == "held_out" and not self.held_out_fraction:
            raise ValueError("selection held_out: expected a held_out_fraction above 0, got 0")
        if self.selection == "test" and self.held_out_fraction:
            raise ValueError("selection test: expected held_out_fraction 0, got more")
        if self.selection == "test" and not self.test_curve:
            raise ValueError("selection test: expected test_curve true, got false")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected distinct seeds, got {list(self.seeds)}")
        return self


class Params(Frozen):
    """params.yaml as a whole."""

    build: tuple[Name, ...]  # the suites that `snakemake` without a target and `dvc repro` build
    datasets: dict[Name, DatasetSpec]
    unlabeled: dict[Name, UnlabeledSpec]
    networks: dict[Name, NetworkSpec]
    suites: dict[Name, Suite]
