"""The training logs that the AWP authors and others published, and a run's curve beside its log."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from rwp.core.settings import WeightPerturbation
from rwp.data.official import OFFICIAL
from rwp.errors import UserError
from rwp.factories import is_own
from rwp.files import object_in
from rwp.reporting.labels import norm_text
from rwp.reporting.runs import Run, read_run_folder
from rwp.spec import radius_value
from rwp.training.spec import (
    NetworkSpec,
    PreActResNetSpec,
    TrainSpec,
    WideResNetSpec,
)

_LONGEST_WARMUP = 5  # epochs without AWP, as published on SVHN
PUBLISHED = Path(__file__).parent / "published"  # published/README.md tells the origin

AWP_LOGS = "csdongxian/AWP"

# Chosen on the published logs themselves: with these, none of the independent runs of one setting
# leaves the band of another, while AT leaves AWP's, and other learning rates or schedules leave
# AT's (tests/reporting/test_published_curves.py). A width in epochs, because curves jump from one
# epoch to the next before the learning rate decays, and not always in the same epoch.
WINDOW = 3
PATIENCE = 5

# By which the epochs are measured; the AWP authors took one log from the others.
OTHER_LOGS = "locuslab/robust_overfitting"
_ATTACKS = {AWP_LOGS: "PGD-20", OTHER_LOGS: "PGD-10"}
_TAKEN_OVER = (AWP_LOGS, "cifar10_linf/wrn34_standard")

_RADII = {"linf": "8/255", "l2": "128/255"}
# Where the attack does not start uniformly in the ball (params.yaml), or it is not known where.
_STARTS = {(AWP_LOGS, "svhn_l2"): "off_ball", (OTHER_LOGS, "svhn_standard_l2"): ""}
_WEIGHT_DECAYS = (OTHER_LOGS, "cifar10_l2")  # its "l2" is no norm of an attack
_UNKNOWN = ("cifar10_trades", "cifar10_trades_l2")  # their program attacks in another way
_NETWORKS: dict[NetworkSpec, str] = {
    PreActResNetSpec(family="preact_resnet", blocks=(2, 2, 2, 2), width=64): "preactresnet18",
    WideResNetSpec(family="wide_resnet", depth=34, widen_factor=10): "wrn34",
}


@cache
def published_curves() -> pd.DataFrame:
    """The published training logs, as fractions: source, setting, epoch (from 0), accuracies."""
    return pd.read_csv(PUBLISHED / "curves.csv.gz")


def published_curve(setting: str, source: str = AWP_LOGS) -> pd.DataFrame:
    """One published log, indexed by epoch; empty where there is none of that name."""
    curves = published_curves()
    chosen = curves[(curves["source"] == source) & (curves["setting"] == setting)]
    return chosen.set_index("epoch")


@dataclass(frozen=True)
class BesidePublished:
    """A run beside a published log; accuracies in percent, epochs from 0."""

    run: str
    setting: str
    source: str
    frame: pd.DataFrame  # epoch, ours, published, low, high, inside
    num_published: int  # epochs of the whole published log
    attacks: tuple[str, str]  # by which the epochs are measured: ours, the log's
    other: str = ""  # of what else than the log the run is, as far as it is known

    @property
    def first_outside(self) -> int | None:
        """The first epoch of the first stretch of at least PATIENCE epochs outside the band."""
        stretches = [one for one in self._stretches if len(one) >= PATIENCE]
        return stretches[0][0] if stretches else None

    @property
    def _stretches(self) -> list[list[int]]:
        """Epochs outside the band, each stretch of them; the last may be one that goes on."""
        found: list[list[int]] = [[]]
        for epoch, inside in zip(self.frame["epoch"], self.frame["inside"], strict=True):
            if not inside:
                found[-1].append(int(epoch))
            elif found[-1]:
                found.append([])
        return found

    @property
    def verdict(self) -> str:
        """Whether the curve leaves the band, as far as its epochs tell."""
        first, open_stretch = self.first_outside, self._stretches[-1]
        if first is not None:
            return f"the curve leaves the band at epoch {first}"
        if open_stretch:
            count = len(open_stretch)
            return (
                f"not told: outside the band since epoch {open_stretch[0]}, {count} "
                f"epoch{'s' * (count > 1)}; {PATIENCE} in a row tell"
            )
        if len(self.frame) < PATIENCE:
            return f"not told: {len(self.frame)} epochs; {PATIENCE} or more tell"
        return f"the curve never leaves the band for {PATIENCE} epochs in a row"

    def text(self) -> str:
        """What a person wants to know, in a few lines."""
        gap = (self.frame["ours"] - self.frame["published"]).abs()
        at = int(gap.to_numpy().argmax())
        outside = int((~self.frame["inside"]).sum())
        lines = [
            f"{self.run} against {self.source} {self.setting},"
            f" {len(self.frame)} of {self.num_published} epochs",
            f"largest difference {gap[at]:.2f} points at epoch {self.frame['epoch'][at]}"
            f" (ours {self.frame['ours'][at]:.2f}, published {self.frame['published'][at]:.2f})",
            f"{outside} of {len(self.frame)} epochs are outside the band",
        ]
        ours, theirs = self.attacks
        if ours and ours != theirs:
            lines.append(
                f"not the same attack: our epochs are measured by {ours}, the log's by {theirs}"
            )
        if self.other:
            lines.append(f"not the same setting: {self.other}; the band is that of equal trainings")
        lines.append(self.verdict)
        return "\n".join(lines)


def beside_published(
    folder: Path | str, *, setting: str | None = None, source: str = AWP_LOGS
) -> BesidePublished:
    """Lay a run's robust test accuracy over the published log of its setting.

    Raises:
        UserError: no run lies there, it measured no test curve, or no such log is published.
    """
    run = read_run_folder(folder)
    if not run.history:
        raise UserError(f"{folder}: expected a run with a history.jsonl, got none; train it first")
    if run.status == "inconsistent":
        raise UserError(f"{folder}: expected a whole curve, got: {run.reason}; train it again")
    if any(row.get("test_robust_accuracy") is None for row in run.history):
        raise UserError(
            f"{folder}: expected test_robust_accuracy in each epoch, got epochs without;"
            f" train with test_curve: true"
        )
    other = _another_setting(run, setting, source) if setting else ""
    setting = setting or published_setting(run)
    published = published_curve(setting, source)
    if published.empty:
        known = published_curves().query("source == @source")["setting"].unique()
        raise UserError(
            f"--setting: expected a published log of {source}, got {setting!r};"
            f" choose one of {', '.join(known) or 'another source'}"
        )
    images = OFFICIAL[setting.split("_")[0]].num_test
    own = object_in(run.document, "spec").get("curve_examples")
    band = curve_band(published["test_robust_accuracy"], num_examples=images, num_own=own)
    ours = pd.Series({row["epoch"]: row["test_robust_accuracy"] for row in run.history})
    attacks = _attacks(run, source, setting)
    frame = overlay(ours, band)
    return BesidePublished(run.name, setting, source, frame, len(published), attacks, other)


def _another_setting(run: Run, setting: str, source: str) -> str:
    """What a run is of, where the named log is not of that; empty too where nothing says it."""
    try:
        spec = TrainSpec.parse(run.document.get("spec"), where=str(run.path))
    except UserError:  # a training that goes on has no run.json
        return ""
    with suppress(UserError):
        if source != AWP_LOGS or published_setting(run) == setting:
            return ""
    key = spec.key
    size = f" at {side}x{side}" if (side := spec.data.image_size) else ""
    return f"{key.recipe} on {key.dataset}{size} under {key.threat}, network {key.network}"


def _attacks(run: Run, source: str, setting: str) -> tuple[str, str]:
    """By which the epochs are measured, ours and the log's, with all in which they differ.

    Ours is empty as long as the run has no run.json.
    """
    taken_over = (source, setting) == _TAKEN_OVER
    name = _ATTACKS[OTHER_LOGS if taken_over else source]
    monitor = object_in(object_in(run.document, "spec"), "monitor")
    if monitor.get("kind") != "pgd":
        return str(monitor.get("kind", "")), name
    theirs = _details_of_log(source, setting.partition("/")[0])
    threat = object_in(monitor, "threat")
    ours = {
        "radius": _radius(str(threat.get("norm")), str(threat.get("epsilon"))),
        "start": f"{monitor.get('random_start') or 'uniform'} start",
        "keep": f"the {monitor.get('keep', 'last')} image",
    }
    differing = [part for part, text in theirs.items() if ours[part] != text]
    return _told(f"PGD-{monitor.get('num_steps')}", ours, differing), _told(name, theirs, differing)


def _details_of_log(source: str, folder: str) -> dict[str, str]:
    """How a log's attack goes, as far as it is known."""
    if folder in _UNKNOWN:
        return {}
    norm = "l2" if folder.endswith("_l2") and (source, folder) != _WEIGHT_DECAYS else "linf"
    start = _STARTS.get((source, folder), "uniform")
    return {
        "radius": _radius(norm, _RADII[norm]),
        **({"start": f"{start} start"} if start else {}),
        "keep": "the last image",
    }


def _radius(norm: str, text: str) -> str:
    """A norm and a radius in words; one number has one text."""
    usual = _RADII.get(norm, text)
    with suppress(ValueError, ArithmeticError):  # run.json may hold anything
        if radius_value(text) == radius_value(usual):
            text = usual
    return f"{norm_text(norm)} radius {text}"


def _told(name: str, details: dict[str, str], differing: list[str]) -> str:
    return f"{name} ({', '.join(details[part] for part in differing)})" if differing else name


def overlay(ours: pd.Series, band: pd.DataFrame) -> pd.DataFrame:
    """Both curves (fractions, by epoch) in percent, at the epochs that both have."""
    frame = band.assign(ours=ours)[["ours", "published", "low", "high"]].dropna() * 100
    frame["inside"] = frame["ours"].between(frame["low"], frame["high"])
    return frame.rename_axis("epoch").reset_index()


def curve_band(
    published: pd.Series, *, num_examples: int, num_own: int | None = None
) -> pd.DataFrame:
    """What an equal run may show at each epoch: published, low, high, as fractions.

    The range of the published curve over WINDOW epochs to either side, widened by two standard
    errors of the difference between two evaluations: the published one on `num_examples` images,
    that of the run on `num_own` of them (none: on all).
    """
    near = published.rolling(2 * WINDOW + 1, center=True, min_periods=1)
    looks = 1 + num_examples / (num_own or num_examples)  # 2 where both look at all images
    error = 2 * (looks * published * (1 - published) / num_examples) ** 0.5
    return pd.DataFrame(
        {"published": published, "low": near.min() - error, "high": near.max() + error}
    )


def published_setting(run: Run) -> str:
    """The published log of the same data, threat model, network and method.

    Raises:
        UserError: there is none, as for RWP, TRADES with AWP and RST.
    """
    try:
        spec = TrainSpec.parse(run.document.get("spec"), where=str(run.path))
    except UserError as error:
        raise UserError(
            f"{run.path}: expected the settings of a training in run.json, got none that fit;"
            f" name the published log with --setting"
        ) from error
    method = _method(spec)
    network = _NETWORKS.get(spec.architecture)
    setting = f"{spec.data.source}_{spec.threat.norm if spec.threat else 'none'}/{network}_{method}"
    whole = spec.data.image_size is None and spec.data.per_class is None
    threat = spec.threat
    usual = _RADII.get(threat.norm) if threat else None
    radius = threat is not None and usual is not None and threat.radius == radius_value(usual)
    known = whole and radius and method is not None and network is not None
    if not known or published_curve(setting).empty:
        raise UserError(
            f"{run.path}: expected a setting with a published log (AT or AT-AWP on CIFAR-10,"
            f" CIFAR-100 or SVHN, all images in their size, at 8/255 or 128/255), got"
            f" {spec.key.recipe} on {spec.key.dataset} under {spec.key.threat};"
            f" name another log with --setting"
        )
    return setting


def _method(spec: TrainSpec) -> str | None:
    """What a log is of: plain AT of ten attack steps, alone or with AWP as published."""
    steps = spec.attack.num_steps if spec.attack else None
    if (spec.objective.loss, steps, spec.optimization.weight_decay) != ("at", 10, 5e-4):
        return None
    added = ("unlabeled", "remove_below", "average_decay", "start")
    if spec.objective.label_smoothing or any(getattr(spec, name) is not None for name in added):
        return None
    perturbation = spec.perturbation
    if perturbation is None:
        return "standard"
    if perturbation.factory is not None or is_own(perturbation.mask):
        return None
    usual = (perturbation.climbs, perturbation.step_at) == ("objective", "perturbed")
    late = perturbation.warmup_epochs > _LONGEST_WARMUP
    is_awp = perturbation.options == WeightPerturbation.awp(gamma=0.01)
    return "awp" if is_awp and usual and not late else None
