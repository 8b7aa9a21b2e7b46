"""Settings of one training, with every choice made, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args

from rwp.core.settings import (
    ActivationName,
    BatchNormMode,
    Criterion,
    Direction,
    Keep,
    Length,
    Loss,
    Mask,
    NormScope,
    Precision,
    RandomStart,
    Tensors,
    WeightPerturbation,
)
from rwp.core.threat import AnyNorm, ThreatModel, check_length
from rwp.data.spec import AugmentationSpec, DatasetSpec, UnlabeledSpec
from rwp.errors import UserError
from rwp.factories import is_own
from rwp.spec import (
    Amount,
    Check,
    Count,
    Name,
    OwnName,
    PositiveFloat,
    PositiveInt,
    Radius,
    Share,
    Spec,
    radius_value,
    word_or_own,
)

BatchStatistics = Literal["batch", "share"]  # of several GPUs
Schedule = Literal["piecewise_by_step", "piecewise_by_epoch", "cosine_by_epoch", "constant"]
WITHOUT_STEPS = frozenset({"cosine_by_epoch", "constant"})  # schedules that no decay acts on
Selection = Literal["held_out", "test"]
Compilation = Literal["off", "default", "graphs"]
Climbs = Literal["objective", "clean_ce", "adversarial_ce"]  # which loss a perturbation raises
StepAt = Literal["perturbed", "original"]  # the weights that the optimizer steps from
# A word, or `package.module:factory` of the user's own with its options beside it.
AnyLoss = Annotated[str, word_or_own(*get_args(Loss))]
AnyMask = Annotated[str, word_or_own(*get_args(Mask))]
Draft = Literal["tf32", "bf16"]


@dataclass(frozen=True, kw_only=True)
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


def kept_checkpoint(key: RunKey, epoch: int) -> PurePosixPath:
    """Where a run keeps its network after so many epochs, relative to the project."""
    return key.directory / "checkpoints" / f"epoch{epoch}.pt"


def kept_start(key: RunKey, epoch: int) -> PurePosixPath:
    """Where a run keeps its whole state after so many epochs, for others to start from."""
    return key.directory / "checkpoints" / f"start{epoch}.pt"


@dataclass(frozen=True, kw_only=True)
class PreActResNetSpec(Spec):
    """PreAct ResNet (He et al., 2016): stages of basic blocks, width doubling with each stage."""

    family: Literal["preact_resnet"]
    blocks: tuple[PositiveInt, ...]
    width: PositiveInt
    activation: ActivationName = "relu"

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("blocks: expected a number for each stage, got none; add one")

    @property
    def num_layers(self) -> int:
        """Kernels: of the stem, of each block two, of each further stage's shortcut, the head."""
        return 2 + 2 * sum(self.blocks) + len(self.blocks) - 1


@dataclass(frozen=True, kw_only=True)
class WideResNetSpec(Spec):
    """Wide ResNet (Zagoruyko & Komodakis, 2016) of a depth 6n + 4."""

    family: Literal["wide_resnet"]
    depth: PositiveInt
    widen_factor: PositiveInt
    activation: ActivationName = "relu"

    def __post_init__(self) -> None:
        if (self.depth - 4) % 6:
            raise ValueError(f"expected a depth of 6n + 4, got {self.depth}")
        if self.depth < 10:
            raise ValueError(f"expected a depth of 10 or more, got {self.depth}")

    @property
    def num_layers(self) -> int:
        """Kernels: of the stem, of each block two, of each stage's shortcut, the head."""
        return 2 + (self.depth - 4) + (2 if self.widen_factor == 1 else 3)


@dataclass(frozen=True, kw_only=True)
class OwnNetworkSpec(Spec):
    """A network of the user's own; `source` is a hash of its code, which a plan fills in."""

    family: OwnName
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    source: str = ""


NetworkSpec = PreActResNetSpec | WideResNetSpec | OwnNetworkSpec


@dataclass(frozen=True, kw_only=True)
class ThreatSpec(Spec):
    """A norm and a radius; the radius is kept as it was written."""

    norm: AnyNorm
    epsilon: Radius

    def __post_init__(self) -> None:
        check_length("epsilon", self.radius, norm=self.norm)

    @property
    def radius(self) -> float:
        """The radius on [0, 1] pixels."""
        return radius_value(self.epsilon)

    @property
    def model(self) -> ThreatModel:
        """As attacks take it."""
        return ThreatModel(self.norm, self.radius)


@dataclass(frozen=True, kw_only=True)
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
    random_start: RandomStart | None = None
    bn_mode: BatchNormMode = "eval"
    keep: Keep = "last"  # of all iterates of a run, the start included
    num_examples: PositiveInt | None = None  # test images, by class; none: those of its evaluation
    options: dict[str, Any] = field(default_factory=dict, hash=False)  # of an attack of one's own
    source: str = ""  # a hash of its code
    # Search in this arithmetic, for development: what a weaker search finds is an upper bound.
    draft: Draft | None = None

    @property
    def step(self) -> float:
        """The step size on [0, 1] pixels."""
        if self.step_size is None:
            raise ValueError(f"attack {self.name}: expected a step size, got none")
        return radius_value(self.step_size)


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec(Spec):
    """The loss that is minimized."""

    loss: AnyLoss
    beta: Amount | None
    clean_updates: Literal[1, 2]
    criterion: Criterion
    label_smoothing: Share = 0.0
    options: dict[str, Any] = field(default_factory=dict, hash=False)  # of a loss of one's own
    source: str = ""  # a hash of its code


@dataclass(frozen=True, kw_only=True)
class PerturbationSpec(Spec):
    """The weight perturbation, the loss it raises, and how many epochs pass before it starts.

    What is not said here stands at `rwp.core.settings.WeightPerturbation`.
    """

    name: Name
    gamma: PositiveFloat
    num_weight_steps: PositiveInt
    norm_scope: NormScope
    mask: AnyMask
    c_min: Amount | None  # nats
    c_max: Amount | None  # nats
    warmup_epochs: Count
    c_min_quantile: float | None = None
    c_max_quantile: float | None = None
    tensors: Tensors = "kernels"
    layers: tuple[int, int] | None = None
    depth_profile: tuple[Amount, ...] = ()
    length: Length = "relative"
    direction: Direction = "gradient"
    climbs: Climbs = "objective"
    step_at: StepAt = "perturbed"
    factory: OwnName | None = None  # a perturbation of one's own, in the place of all of the above
    own_options: dict[str, Any] = field(default_factory=dict, hash=False)  # of it, or of a mask
    source: str = ""  # a hash of its code

    @property
    def options(self) -> WeightPerturbation:
        """As the core takes it; a mask of one's own is put in its place when training starts.

        Raises:
            ValueError: a number out of its range, or one missing or given in vain.
        """
        given = {item.name: getattr(self, item.name) for item in fields(WeightPerturbation)}
        return WeightPerturbation(**given | ({"mask": "all"} if is_own(self.mask) else {}))


def _compilation(value: Any) -> Any:
    """Records of earlier versions say true or false."""
    return {True: "default", False: "off"}.get(value, value) if isinstance(value, bool) else value


@dataclass(frozen=True, kw_only=True)
class OptimizationSpec(Spec):
    """SGD and its schedule."""

    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    schedule: Schedule
    decay_epochs: tuple[PositiveInt, ...]
    decay_factor: PositiveFloat
    momentum: Amount
    nesterov: bool
    weight_decay: Amount
    precision: Precision
    batch_statistics: BatchStatistics
    processes: PositiveInt | None = None  # of `share`, whose statistics depend on it; none: one
    compile: Annotated[Compilation, Check(_compilation, before=True)] = "off"


@dataclass(frozen=True, kw_only=True)
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

    @property
    def labeling(self) -> PseudoLabelSpec:
        """The step that labels the images."""
        return PseudoLabelSpec(
            source=self.source,
            definition=self.definition,
            teacher=self.teacher,
            min_confidence=self.min_confidence,
            per_class=self.per_class,
        )


@dataclass(frozen=True, kw_only=True)
class StartSpec(Spec):
    """Where a training begins: at a run of another recipe after some epochs, or at a file.

    Attributes:
        recipe: that run's; data, threat model, network and seed are those of the training itself.
        epoch: epochs that it had done.
        file: weights to begin with, relative to the project.
    """

    recipe: Name | None = None
    epoch: Count = 0
    file: str | None = None

    def parent(self, key: RunKey) -> RunKey | None:
        """The run that the training of `key` starts from."""
        return None if self.recipe is None else key.replace(recipe=self.recipe)

    def path(self, key: RunKey) -> PurePosixPath:
        """The file that the training of `key` starts from, relative to the project."""
        parent = self.parent(key)
        if parent is None:
            return PurePosixPath(self.file or "")
        return kept_start(parent, self.epoch)


@dataclass(frozen=True, kw_only=True)
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
    selection: Selection
    held_out_fraction: Share
    test_curve: bool
    monitor: AttackSpec | None  # the attack measured after each epoch; none: clean accuracy
    remove_below: Amount | None = None  # nats: examples of a smaller loss do not count
    remove_at_random: bool = False  # as many as lie below, whatever their losses: a control
    average_decay: Share | None = None  # of the moving average of the weights that is measured
    keep_epochs: tuple[PositiveInt, ...] = ()  # checkpoints to keep, by epochs done
    keep_losses: bool = False  # losses.npz: of every training image, every epoch
    start: StartSpec | None = None  # none: at random weights
    keep_starts: tuple[PositiveInt, ...] = ()  # states that others start from, by epochs done
    curve_examples: PositiveInt | None = None  # test images measured each epoch; none: all
    selection_monitor: AttackSpec | None = None  # on the held-out images; none: `monitor`
    selection_every: PositiveInt = 1  # epochs from one look at the held-out images to the next

    @property
    def first_epoch(self) -> int:
        """Epochs that were done before, by the run that this one starts from."""
        return 0 if self.start is None else self.start.epoch

    @property
    def needs_test(self) -> bool:
        """Whether the training reads the test split at all."""
        return self.test_curve or self.selection == "test"

    def monitor_of(self, split: str) -> AttackSpec | None:
        """The attack measured on a split after each epoch."""
        own = self.selection_monitor if split == "held_out" else None
        return own or self.monitor

    def measures(self, split: str, epoch: int) -> bool:
        """Whether a split is measured after an epoch; after the last one each is."""
        last = epoch == self.optimization.epochs - 1
        return split != "held_out" or last or epoch % self.selection_every == 0


@dataclass(frozen=True, kw_only=True)
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


def check_held_out(spec: TrainSpec, num_train: int) -> None:
    """Refuse a held-out share that is no image, or all of them.

    Without one nothing would choose `best`, and the final network would stand in for it.

    Raises:
        UserError: with the share.
    """
    taken = round(num_train * spec.held_out_fraction)
    if spec.held_out_fraction and not 0 < taken < num_train:
        raise UserError(
            f"params.yaml: suites.{spec.key.suite}.held_out_fraction: expected some of the "
            f"{num_train} training images of {spec.key.dataset}, and not all, got {taken} at "
            f"{spec.held_out_fraction:g}; {'lower' if taken else 'raise'} it"
        )
