"""What one step needs, with every choice made: the canonical slice of params.yaml behind a job."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any, Literal, Self

from pydantic import ValidationError

from rwp.config.definitions import DatasetSpec, NetworkSpec, UnlabeledSpec
from rwp.config.fields import (
    Amount,
    Count,
    Frozen,
    Name,
    PositiveFloat,
    PositiveInt,
    Radius,
    Share,
    radius_value,
)
from rwp.errors import UserError


class Spec(Frozen):
    """Base of the resolved slices; `canonical` is what is hashed and handed to a command."""

    def canonical(self) -> str:
        """One line of JSON with sorted keys: equal specs give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @classmethod
    def parse(cls, content: str | Any, *, where: str) -> Self:
        """Read a slice back, from its line of JSON or from a parsed part of a record.

        Raises:
            UserError: it is another kind of text or lacks a part; `where` says whose it was.
        """
        text = content if isinstance(content, str) else json.dumps(content)
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the text"
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(
                f"{where}: expected a complete {cls.__name__}, got a fault at {place}"
                f" ({message}); build it again"
            ) from error


class RunKey(Spec):
    """The coordinates of a training. They become folders, so they are names and nothing else."""

    suite: Name
    dataset: Name
    threat: Name  # "none" for natural training
    network: Name
    recipe: Name
    seed: Count

    @property
    def name(self) -> str:
        """How people and MLflow call the run."""
        return (
            f"{self.suite}/{self.dataset}/{self.threat}/{self.network}/{self.recipe}"
            f"/seed{self.seed}"
        )

    @property
    def directory(self) -> PurePosixPath:
        """The run's folder, relative to the project."""
        return suite_directory(self.suite) / "runs" / self.name.split("/", 1)[1]


def suite_directory(suite: str) -> PurePosixPath:
    """`results` for the paper's own suite, `results/<suite>` for any other."""
    root = PurePosixPath("results")
    return root if suite == "paper" else root / suite


class ThreatSpec(Spec):
    """A norm and a radius; the radius is kept as it was written."""

    norm: Literal["linf", "l2"]
    epsilon: Radius

    @property
    def radius(self) -> float:
        """The radius on [0, 1] pixels."""
        return radius_value(self.epsilon)


class AttackSpec(Spec):
    """One attack with its sizes resolved."""

    name: Name
    kind: str
    threat: ThreatSpec
    step_size: Radius | None = None
    num_steps: PositiveInt | None = None
    num_restarts: PositiveInt = 1
    kappa: Amount | None = None
    version: str | None = None
    random_start: Literal["uniform", "gaussian", "off_ball", "none"] | None = None
    bn_mode: Literal["train", "eval"] = "eval"

    @property
    def step(self) -> float:
        """The step size on [0, 1] pixels."""
        if self.step_size is None:
            raise ValueError(f"attack {self.name}: expected a step size, got none")
        return radius_value(self.step_size)


class ObjectiveSpec(Spec):
    """The loss that is minimized."""

    loss: Literal["natural", "at", "trades", "mart"]
    beta: Amount | None
    clean_updates: Literal[1, 2]
    criterion: Literal["objective", "adversarial_ce"]


class PerturbationSpec(Spec):
    """The weight perturbation, and how many epochs pass before it starts."""

    name: Name
    gamma: PositiveFloat
    num_weight_steps: PositiveInt
    norm_scope: Literal["layer", "model"]
    mask: Literal["all", "below", "range", "above", "random"]
    c_min: Amount | None
    c_max: Amount | None
    warmup_epochs: Count


class OptimizationSpec(Spec):
    """SGD and its schedule."""

    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    schedule: Literal["piecewise_by_step", "piecewise_by_epoch", "cosine_by_epoch", "constant"]
    decay_epochs: tuple[PositiveInt, ...]
    decay_factor: PositiveFloat
    momentum: Amount
    nesterov: bool
    weight_decay: Amount
    precision: Literal["fp32", "tf32", "bf16"]
    batch_statistics: Literal["batch", "share"]
    compile: bool


class AugmentationSpec(Spec):
    """Random crop, flip and rotation of the training images."""

    crop_padding: Count
    padding_mode: Literal["zero", "reflect"]
    flip: bool
    rotation_degrees: Amount


class UnlabeledMix(Spec):
    """The pseudo-labeled part of each batch."""

    source: Name
    definition: UnlabeledSpec
    fraction: Share
    weight: PositiveFloat
    epoch_size: PositiveInt
    teacher: RunKey
    min_confidence: Share | None
    per_class: PositiveInt | None


class TrainSpec(Spec):
    """Everything that decides the bits of one training."""

    key: RunKey
    data: DatasetSpec
    architecture: NetworkSpec
    normalize: bool
    threat: ThreatSpec | None
    objective: ObjectiveSpec
    perturbation: PerturbationSpec | None
    attack: AttackSpec | None
    optimization: OptimizationSpec
    augmentation: AugmentationSpec
    unlabeled: UnlabeledMix | None
    selection: Literal["held_out", "test"]
    held_out_fraction: Share
    test_curve: bool
    monitor: AttackSpec | None  # the attack measured after each epoch; none: clean accuracy
    remove_below: Amount | None = None  # nats: examples of a smaller loss do not count
    average_decay: Share | None = None  # of the moving average of the weights that is measured
    keep_epochs: tuple[PositiveInt, ...] = ()  # checkpoints to keep, by epochs done

    @property
    def needs_test(self) -> bool:
        """Whether the training reads the test split at all."""
        return self.test_curve or self.selection == "test"


class PseudoLabelSpec(Spec):
    """Labels that one teacher gives to one unlabeled source."""

    source: Name
    definition: UnlabeledSpec
    teacher: RunKey
    min_confidence: Share | None
    per_class: PositiveInt | None

    @property
    def path(self) -> PurePosixPath:
        """Where the labels lie, relative to the project."""
        folder = suite_directory(self.teacher.suite) / "pseudo_labels" / self.teacher.dataset
        return folder / f"{self.source}-seed{self.teacher.seed}.pt"


def kept_checkpoint(key: RunKey, epoch: int) -> PurePosixPath:
    """Where a run keeps its network after so many epochs, relative to the project."""
    return key.directory / "checkpoints" / f"epoch{epoch}.pt"


class EvaluationSpec(Spec):
    """Attacks on one checkpoint of one run."""

    key: RunKey
    checkpoint: Literal["best", "best_on_test", "last"]
    data: DatasetSpec
    attacks: tuple[AttackSpec, ...]
    batch_size: PositiveInt
    num_examples: PositiveInt | None
    seed: Count
    first_examples: PositiveInt | None = None
    part_seed: Count = 0

    def record(self, attack: str) -> PurePosixPath:
        """Where the record of one attack lies, relative to the project."""
        return self.key.directory / "evaluation" / self.checkpoint / f"{attack}.json"
