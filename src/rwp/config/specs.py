"""What one step needs, with every choice made: the canonical slice of params.yaml behind a job."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any, Literal, Self

from pydantic import ValidationError

from rwp.config.definitions import DatasetSpec, NetworkSpec, UnlabeledSpec
from rwp.config.fields import Frozen, radius_value
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
            raise UserError(
                f"{where}: expected a complete {cls.__name__}, got a fault at {place}"
                f" ({first['msg']}); build it again"
            ) from error


class RunKey(Spec):
    """The coordinates of a training."""

    suite: str
    dataset: str
    threat: str  # "none" for natural training
    network: str
    recipe: str
    seed: int

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
    epsilon: str

    @property
    def radius(self) -> float:
        """The radius on [0, 1] pixels."""
        return radius_value(self.epsilon)


class AttackSpec(Spec):
    """One attack with its sizes resolved."""

    name: str
    kind: str
    threat: ThreatSpec
    step_size: str | None = None
    num_steps: int | None = None
    num_restarts: int = 1
    kappa: float | None = None
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
    beta: float | None
    clean_updates: int
    criterion: Literal["objective", "adversarial_ce"]


class PerturbationSpec(Spec):
    """The weight perturbation, and how many epochs pass before it starts."""

    name: str
    gamma: float
    num_weight_steps: int
    norm_scope: Literal["layer", "model"]
    mask: Literal["all", "below", "range", "above", "random"]
    c_min: float | None
    c_max: float | None
    warmup_epochs: int


class OptimizationSpec(Spec):
    """SGD and its schedule."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Literal["piecewise_by_step", "piecewise_by_epoch", "cosine_by_epoch", "constant"]
    decay_epochs: tuple[int, ...]
    decay_factor: float
    momentum: float
    nesterov: bool
    weight_decay: float
    precision: Literal["fp32", "tf32", "bf16"]
    batch_statistics: Literal["batch", "share"]
    compile: bool


class AugmentationSpec(Spec):
    """Random crop, flip and rotation of the training images."""

    crop_padding: int
    padding_mode: Literal["zero", "reflect"]
    flip: bool
    rotation_degrees: float


class UnlabeledMix(Spec):
    """The pseudo-labeled part of each batch."""

    source: str
    definition: UnlabeledSpec
    fraction: float
    weight: float
    epoch_size: int
    teacher: RunKey
    min_confidence: float | None
    per_class: int | None


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
    held_out_fraction: float
    test_curve: bool
    monitor: AttackSpec | None  # the attack measured after each epoch; none: clean accuracy
    remove_below: float | None = None  # nats: examples of a smaller loss do not count
    average_decay: float | None = None  # of the moving average of the weights that is measured
    keep_epochs: tuple[int, ...] = ()  # checkpoints to keep, by epochs done

    @property
    def needs_test(self) -> bool:
        """Whether the training reads the test split at all."""
        return self.test_curve or self.selection == "test"


class PseudoLabelSpec(Spec):
    """Labels that one teacher gives to one unlabeled source."""

    source: str
    definition: UnlabeledSpec
    teacher: RunKey
    min_confidence: float | None
    per_class: int | None

    @property
    def path(self) -> PurePosixPath:
        """Where the labels lie, relative to the project."""
        folder = suite_directory(self.teacher.suite) / "pseudo_labels" / self.teacher.dataset
        return folder / f"{self.source}-seed{self.teacher.seed}.pt"


class LandscapeSpec(Spec):
    """Losses of attacked training images at perturbed weights, at several checkpoints of a run."""

    key: RunKey
    data: DatasetSpec
    attack: AttackSpec
    held_out_fraction: float
    batch_size: int
    seed: int
    epochs: tuple[int, ...]
    edges: tuple[float, ...]
    num_directions: int
    num_points: int
    radius: float
    num_examples: int | None

    def checkpoint(self, epoch: int) -> PurePosixPath:
        """The network after so many epochs, relative to the project."""
        return kept_checkpoint(self.key, epoch)

    def result(self, name: str) -> PurePosixPath:
        """Where the losses lie that the figure of that name shows, relative to the project."""
        return suite_directory(self.key.suite) / "landscapes" / f"{name}.csv"


def kept_checkpoint(key: RunKey, epoch: int) -> PurePosixPath:
    """Where a run keeps its network after so many epochs, relative to the project."""
    return key.directory / "checkpoints" / f"epoch{epoch}.pt"


class EvaluationSpec(Spec):
    """Attacks on one checkpoint of one run."""

    key: RunKey
    checkpoint: Literal["best", "best_on_test", "last"]
    data: DatasetSpec
    attacks: tuple[AttackSpec, ...]
    batch_size: int
    num_examples: int | None
    seed: int

    def record(self, attack: str) -> PurePosixPath:
        """Where the record of one attack lies, relative to the project."""
        return self.key.directory / "evaluation" / self.checkpoint / f"{attack}.json"
