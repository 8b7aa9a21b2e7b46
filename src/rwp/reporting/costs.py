"""What steps cost: passes through the network, from the settings alone, and seconds as measured.

A training's own count, `passes` in its run.json, is of batches; costs are of single images, so
that batch sizes do not matter. A masked weight perturbation stops where no example is left to
perturb on, and attacks leave out images that are wrong anyway, so these are upper bounds. Rates,
in seconds per pass, come from benchmarks on named devices and from this project's own runs; where
a GPU has none, they are estimated from its published peak. Only an estimate imports torch, which
counts the operations of a network.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rwp.data.spec import DatasetSpec, num_classes_known, read_passport
from rwp.errors import UserError
from rwp.evaluation.spec import EvaluationSpec, LandscapeSpec
from rwp.files import object_in, read_json, read_object
from rwp.pipeline.resolve import dataset_spec, network_spec
from rwp.pipeline.settings import Params
from rwp.pipeline.state import Result
from rwp.pipeline.steps import Step
from rwp.training.spec import (
    AttackSpec,
    NetworkSpec,
    OwnNetworkSpec,
    RunKey,
    TrainSpec,
    check_held_out,
)

# Images of training and test, and the size of one: known before anything is fetched.
_SOURCES = {
    "cifar10": (50_000, 10_000, "32x32x3"),
    "cifar100": (50_000, 10_000, "32x32x3"),
    "svhn": (73_257, 26_032, "32x32x3"),
}
_DIGITS = 1797  # both splits; the test share is a setting

BYTES_PER_LOOK = 6  # per image and epoch: two losses of 16 bits, two answers of a byte

# Forward passes of one outer loss: TRADES and MART look at the clean images, too.
_OUTER_PASSES = {"natural": 1, "at": 1, "trades": 2, "mart": 2}


@dataclass(frozen=True)
class Passes:
    """Forward passes, backward passes to the images alone (attacks), and all other ones."""

    forward: float = 0
    attack: float = 0
    weights: float = 0

    @property
    def backward(self) -> float:
        """Backward passes of both kinds, as run.json counts them."""
        return self.attack + self.weights

    @property
    def units(self) -> float:
        """In forward passes, a gradient of the weights being two more and one of images one."""
        return self.forward + self.attack + 2 * self.weights

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            self.forward + other.forward,
            self.attack + other.attack,
            self.weights + other.weights,
        )

    def __mul__(self, factor: float) -> Passes:
        return Passes(self.forward * factor, self.attack * factor, self.weights * factor)


@dataclass(frozen=True)
class DataSize:
    """Images of a data set, as training finds them, and the size of one, such as "32x32x3"."""

    num_train: int
    num_test: int
    image: str
    num_drawn: int | None = None  # of them, for one training, where `per_class` says so


def data_size(
    name: str, definition: DatasetSpec, root: Path, *, fingerprint: str | None = None
) -> DataSize | None:
    """Of a data set: from its passport, or by its source; none for a folder not yet read.

    Args:
        name: of the data set.
        definition: where the images come from, and how many.
        root: the project.
        fingerprint: of its fetching as the settings are now; a passport of another tells nothing.

    Raises:
        UserError: a passport that does not say what the images are.
    """
    passport = root / "data" / name / "passport.json"
    if passport.exists():
        found = read_passport(passport)
        if fingerprint is None or found.get("fingerprint") == fingerprint:
            train, test = (found["files"][split]["count"] for split in ("train.pt", "test.pt"))
            channels, height, width = found["shape"]
            drawn = definition.per_class and definition.per_class * found["num_classes"]
            return DataSize(train, test, f"{height}x{width}x{channels}", drawn)
    if definition.source == "digits":
        num_test = round(_DIGITS * (definition.test_share or 0))
        num_train, image = _DIGITS - num_test, "8x8x1"
    elif definition.source in _SOURCES:
        num_train, num_test, image = _SOURCES[definition.source]
    else:
        return None
    if definition.image_size is not None:
        image = f"{definition.image_size}x{definition.image_size}x{image.rsplit('x', 1)[1]}"
    classes = num_classes_known(definition, root / "data" / name)
    drawn = definition.per_class and classes and definition.per_class * classes
    labeled = num_train - round(num_train * (definition.unlabeled_share or 0))
    return DataSize(labeled, num_test, image, drawn)


def training_passes(spec: TrainSpec, *, num_train: int, num_drawn: int | None = None) -> Passes:
    """Of batches, measuring left out: what run.json counts, at most.

    Each step attacks (K1 steps), perturbs the weights (K2 steps, after the warm-up), and takes
    the outer step: one backward pass, and as many forward passes as the loss has parts.
    """
    epochs, perturbation = spec.optimization.epochs, spec.perturbation
    attack_steps = (spec.attack.num_steps or 0) if spec.attack else 0
    outer = _OUTER_PASSES.get(spec.objective.loss, 1)  # of one's own: at least
    plain = Passes(attack_steps + outer, attack_steps, 1)
    total = plain * (epochs - spec.first_epoch)
    if perturbation is not None:
        first = max(perturbation.warmup_epochs, spec.first_epoch)
        steps = perturbation.num_weight_steps * max(0, epochs - first)
        total += Passes(outer * steps, 0, steps)
    return total * steps_per_epoch(spec, num_train=num_train, num_drawn=num_drawn)


def steps_per_epoch(spec: TrainSpec, *, num_train: int, num_drawn: int | None = None) -> int:
    """Batches of an epoch; with unlabeled images its length is a setting."""
    return math.ceil(epoch_images(spec, num_train, num_drawn) / spec.optimization.batch_size)


def epoch_images(spec: TrainSpec, num_train: int, num_drawn: int | None = None) -> int:
    """Images that an epoch trains on."""
    if spec.unlabeled is not None:  # whole batches
        size = spec.optimization.batch_size
        return math.ceil(spec.unlabeled.epoch_size / size) * size
    return num_drawn or num_train - round(num_train * spec.held_out_fraction)


def training_cost(spec: TrainSpec, size: DataSize) -> Passes:
    """Of images: the training and what it measures after each epoch.

    Raises:
        UserError: as `check_held_out`.
    """
    check_held_out(spec, size.num_train)
    passes = training_passes(spec, num_train=size.num_train, num_drawn=size.num_drawn)
    cost = priced(spec, passes, size)
    counts = {"held_out": round(size.num_train * spec.held_out_fraction)}
    counts["test"] = (spec.curve_examples or size.num_test) if spec.needs_test else 0
    last = spec.optimization.epochs
    for split, count in counts.items():
        monitor = spec.monitor_of(split)
        each = Passes(1) if monitor is None else _attacked(monitor)
        times = sum(spec.measures(split, epoch) for epoch in range(spec.first_epoch, last))
        cost += each * (count * times)
    images = epoch_images(spec, size.num_train, size.num_drawn)
    looks = 2 * images * (last - spec.first_epoch) if spec.keep_losses else 0
    return cost + Passes(looks)


def losses_bytes(spec: TrainSpec, size: DataSize) -> int:
    """Of a run's losses.npz before it is compressed; 0 where it keeps none."""
    images = size.num_drawn or size.num_train - round(size.num_train * spec.held_out_fraction)
    return images * spec.optimization.epochs * BYTES_PER_LOOK if spec.keep_losses else 0


def counted_cost(spec: TrainSpec, counted: dict[str, int], size: DataSize) -> Passes:
    """Of images: what a finished training's run.json counted of batches, measuring left out."""
    each = steps_per_epoch(spec, num_train=size.num_train, num_drawn=size.num_drawn)
    steps = spec.optimization.epochs * each
    attack = steps * ((spec.attack.num_steps or 0) if spec.attack else 0)
    batches = Passes(counted["forward"], attack, counted["backward"] - attack)
    return priced(spec, batches, size, since=0)  # run.json counts the epochs of a parent, too


def priced(spec: TrainSpec, batches: Passes, size: DataSize, *, since: int | None = None) -> Passes:
    """Passes of a training's batches as passes of images; `since` an epoch, or its own first.

    A backward pass runs back through all forward passes of its loss, and the attack on the
    divergence looks at the clean images once; run.json counts neither.
    """
    steps = steps_per_epoch(spec, num_train=size.num_train, num_drawn=size.num_drawn)
    loss = spec.objective.loss
    epochs = spec.optimization.epochs - (spec.first_epoch if since is None else since)
    clean = steps * epochs if loss == "trades" else 0
    weights = batches.weights * _OUTER_PASSES.get(loss, 1)
    images = epoch_images(spec, size.num_train, size.num_drawn) / steps
    return Passes(batches.forward + clean, batches.attack, weights) * images


def record_cost(attack: AttackSpec, *, num_images: int) -> Passes | None:
    """Of images, one attack of an evaluation; none for AutoAttack, which stops image by image."""
    if attack.kind == "autoattack":
        return None
    return (Passes(1) if attack.kind == "natural" else _attacked(attack)) * num_images


def landscape_cost(spec: LandscapeSpec, *, num_train: int, num_drawn: int | None = None) -> Passes:
    """Of images: an attack per checkpoint, and a forward pass per point of each direction."""
    trained_on = num_drawn or num_train - round(num_train * spec.held_out_fraction)
    num_images = min(spec.num_examples or trained_on, trained_on)
    points = Passes(spec.num_directions * (spec.num_points + 1))
    looks = len(spec.epochs) * len(spec.keys) * (2 if spec.test_images else 1)
    return (_attacked(spec.attack) + points) * (num_images * looks)


def _attacked(attack: AttackSpec) -> Passes:
    """One image before, during and after an attack."""
    known = attack.options.get("num_steps")  # of an attack of one's own, if it is called so
    steps = (attack.num_steps or (known if isinstance(known, int) else 1)) * attack.num_restarts
    return Passes(steps + 1 + attack.num_restarts, steps)


SHIPPED = Path(__file__).parent / "rates.csv"


@dataclass(frozen=True)
class Rate:
    """Seconds per image on one device for one network and image size; none: not measured."""

    forward: float | None
    attack: float | None  # a backward pass to the images alone
    weights: float | None  # any other backward pass
    autoattack: float | None
    origin: str

    def scaled(self, factor: float, origin: str) -> Rate:
        """Of a network that takes so many times as long."""
        names = ("forward", "attack", "weights", "autoattack")
        values = {name: getattr(self, name) for name in names}
        longer = {name: None if v is None else v * factor for name, v in values.items()}
        return Rate(**longer, origin=origin)

    def seconds(self, passes: Passes) -> float | None:
        """How long passes over single images take."""
        if self.forward is None or self.attack is None or self.weights is None:
            return None
        return (
            passes.forward * self.forward
            + passes.attack * self.attack
            + passes.weights * self.weights
        )


@dataclass(frozen=True)
class Place:
    """What a rate holds for."""

    device: str
    network: str
    image: str  # height x width x channels


Rates = dict[Place, Rate]


def shipped_rates(path: Path = SHIPPED) -> Rates:
    """The rates that the package's benchmarks measured; none where the file does not lie there.

    Raises:
        UserError: a rate is no number.
    """
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {place_of(row): _shipped(row, path) for row in rows}


def place_of(row: Mapping[str, str]) -> Place:
    """What a line of a file of rates holds for."""
    return Place(row["device"], row["network"], row["image_size"])


def _shipped(row: dict[str, str], path: Path) -> Rate:
    def number(name: str) -> float | None:
        text = row.get(name) or ""
        try:
            return float(text) if text else None
        except ValueError as error:
            raise UserError(
                f"{path}: expected seconds in the column {name}, got {text!r}; measure it again"
            ) from error

    weights = number("backward_seconds")
    attack = number("attack_backward_seconds")
    return Rate(
        forward=number("forward_seconds"),
        attack=weights if attack is None else attack,
        weights=weights,
        autoattack=number("autoattack_seconds"),
        origin=row["command"],
    )


def all_rates(params: Params, root: Path) -> Rates:
    """Own rates, which know this project best, and where there are none those that ship."""
    shipped = shipped_rates()
    own = {
        place: rate
        if rate.autoattack is not None or place not in shipped
        else replace(rate, autoattack=shipped[place].autoattack)
        for place, rate in own_rates(params, root).items()
    }
    return shipped | own


def own_rates(params: Params, root: Path) -> Rates:
    """What this project's finished runs took: per pass of any kind alike, and for AutoAttack."""
    times: dict[Place, list[_Timing]] = {}
    for path in sorted(root.glob("results/**/run.json")):
        timing = _timing(params, path, root)
        if timing is not None:
            times.setdefault(timing.place, []).append(timing)
    return {place: _rate(timings) for place, timings in times.items()}


@dataclass(frozen=True)
class _Timing:
    place: Place
    seconds: float
    passes: float  # of images, forward and backward
    attack_seconds: float  # AutoAttack's
    attack_images: int


def _network(params: Params, name: str) -> NetworkSpec | None:
    return network_spec(params, name) if name in params.networks else None


def _timing(params: Params, path: Path, root: Path) -> _Timing | None:
    """Of one run; none where it is unfinished, or of other networks or data than today's."""
    document = read_object(path)
    passes = object_in(document, "passes")
    counted = [document.get("seconds"), passes.get("forward"), passes.get("backward")]
    if document.get("status") != "finished" or not all(isinstance(n, int | float) for n in counted):
        return None  # of a damaged run the tables tell
    try:
        key = RunKey.parse(document.get("key"), where=str(path))
        spec = TrainSpec.parse(document.get("spec"), where=str(path))
    except UserError:
        return None  # an older version's; `rwp verify` names it
    if key.dataset not in params.datasets or dataset_spec(params, key) != spec.data:
        return None
    size = data_size(key.dataset, spec.data, root)
    if size is None or _network(params, key.network) != spec.architecture:
        return None
    cost = counted_cost(spec, passes, size)
    record = _autoattack(path.parent, str(document["device"]))
    return _Timing(
        place=Place(str(document["device"]), key.network, size.image),
        seconds=float(document["seconds"]),
        passes=cost.forward + cost.backward,
        attack_seconds=float(record["seconds"]) if record else 0.0,
        attack_images=int(record["num_examples"]) if record else 0,
    )


def _autoattack(folder: Path, device: str) -> dict[str, Any] | None:
    """The record of AutoAttack on the run, where the same device made it."""
    path = folder / "evaluation" / "best" / "autoattack.json"
    record = read_json(path) if path.exists() else None
    # A record names a GPU in full, a processor as "cpu".
    return record if record and device.split(" (")[0] == record["device"] else None


def _rate(timings: list[_Timing]) -> Rate:
    each = sum(t.seconds for t in timings) / sum(t.passes for t in timings)
    images = sum(t.attack_images for t in timings)
    attacked = sum(t.attack_seconds for t in timings) / images if images else None
    return Rate(each, each, each, attacked, f"{len(timings)} finished trainings of this project")


def rates_on(device: str, rates: Rates) -> tuple[str, Rates]:
    """The device that a part of its name means, and its rates; none of one that is only published.

    Raises:
        UserError: no device that is known has this in its name, or several do.
    """
    measured = list(dict.fromkeys(place.device for place in rates))
    found = _named(device, measured) or _named(device, [peak.device for peak in published_peaks()])
    if len(found) != 1:
        raise UserError(
            f"--device: expected (a part of) one device's name, got {device!r}"
            f" ({'; '.join(found) + ' have it' if found else 'no device has it'});"
            f" `rwp plan --device` lists them"
        )
    return found[0], {place: rate for place, rate in rates.items() if place.device == found[0]}


def _named(device: str, known: Sequence[str]) -> list[str]:
    """The names that are this one, or else that have it as words or the beginning of words."""
    part = re.compile(rf"(?<![a-z0-9]){re.escape(device.casefold())}")
    return [name for name in known if name == device] or [
        name for name in known if part.search(name.casefold())
    ]


def device_lines(rates: Rates) -> Iterator[str]:
    """The devices that a plan can give hours on, and what it knows of each."""
    measured: dict[str, list[str]] = {}
    for place in rates:
        measured.setdefault(place.device, []).append(f"{place.network} at {place.image}")
    for device, places in measured.items():
        yield f"{device}: measured, {', '.join(places)}"
    for peak in published_peaks():
        if peak.device not in measured:
            yield f"{peak.device}: estimated, {peak.teraflops:g} TFLOP/s of fp32 ({peak.source})"


@dataclass(frozen=True)
class Peak:
    """What a vendor publishes of a device."""

    device: str
    teraflops: float  # of fp32 arithmetic, at most
    source: str


def published_peaks() -> list[Peak]:
    """Devices whose hours can be estimated where none were measured."""
    with (Path(__file__).parent / "devices.csv").open(encoding="utf-8", newline="") as stream:
        return [
            Peak(row["device"], float(row["fp32_teraflops"]), row["source"])
            for row in csv.DictReader(stream)
        ]


# Of the peak; an assumption, near what large convolutions reach. Small networks reach far less.
ASSUMED_SHARE = 0.3
# AutoAttack's passes on an image that survives all of it, counted by benchmarks/scale_rates.py.
AUTOATTACK_PASSES = Passes(forward=7865, attack=1910)


def estimated_rates(device: str, params: Params, places: Iterable[tuple[str, str]]) -> Rates:
    """Rates of networks at image sizes from a device's published peak; nothing is measured."""
    peak = next(peak for peak in published_peaks() if peak.device == device)
    origin = (
        f"an estimate, nothing measured: {ASSUMED_SHARE:.0%} of {peak.teraflops:g} TFLOP/s of fp32"
        f" ({peak.source})"
    )
    found: Rates = {}
    for network, image in places:
        flops = _operations(params, network, image)
        if flops is None:
            continue
        forward = flops / (peak.teraflops * 1e12 * ASSUMED_SHARE)
        rate = Rate(forward, forward, 2 * forward, None, origin)
        place = Place(device, network, image)
        found[place] = replace(rate, autoattack=rate.seconds(AUTOATTACK_PASSES))
    return found


def _operations(params: Params, network: str, image: str) -> float | None:
    """Of a forward pass of one image; none for a network of one's own, which has to run to tell."""
    import torch

    from rwp.core.models import build_network
    from rwp.training.flops import forward_flops

    shape = _network(params, network)
    if shape is None or isinstance(shape, OwnNetworkSpec):
        return None
    height, width, channels = (int(number) for number in image.split("x"))
    with torch.device("meta"):
        model = build_network(
            **vars(shape), num_classes=10, in_channels=channels, mean=None, std=None
        )
        return forward_flops(model, torch.empty(1, channels, height, width))


def scaled_rates(
    device: str, params: Params, rates: Rates, places: Iterable[tuple[str, str]]
) -> Rates:
    """Rates of what was not measured on a device, from what was, by the number of operations.

    From the network that is next in operations, as small ones reach fewer in a second.
    """
    known = {
        place: flops
        for place, rate in rates.items()
        if rate.forward is not None and (flops := _operations(params, place.network, place.image))
    }
    found: Rates = {}
    for network, image in places:
        place, flops = Place(device, network, image), None
        if known and place not in rates:
            flops = _operations(params, network, image)
        if flops is None:
            continue
        near = min(known, key=lambda other: abs(math.log(known[other] / flops)))
        factor = flops / known[near]
        found[place] = rates[near].scaled(
            factor,
            f"an estimate: {near.network} at {near.image} was measured there, {network} at {image} "
            f"takes {factor:.3g} times its operations",
        )
    return found


KINDS = {
    "train": "trainings",
    "label": "pseudo-labels",
    "landscape": "landscapes",
    "evaluate": "attacks",
    "judge": "verdicts",
}
_HEADER = ("", "done", "stale", "to do", "forward", "backward", "hours")


@dataclass(frozen=True)
class Job:
    """One result and what it costs; no passes or hours where they cannot be told beforehand."""

    result: Result
    state: str
    passes: Passes | None  # of single images
    hours: float | None
    place: str  # network and image size that a rate has to be of
    kept_bytes: int = 0  # of losses.npz, at most


def plan_jobs(
    params: Params, results: Sequence[Result], *, root: Path, device: str | None = None
) -> tuple[list[Job], str]:
    """The jobs behind results, and where their rates come from (nothing without a device).

    Raises:
        UserError: no device that is known has that name.
    """
    if device is None:
        return [_job(result, root, {}) for result in results], ""
    name, rates = rates_on(device, all_rates(params, root))
    places = sorted(set(_places(results, root)))
    if rates:
        rates |= scaled_rates(name, params, rates, places)
    else:
        rates = estimated_rates(name, params, places)
    jobs = [_job(result, root, rates) for result in results]
    used = {job.place for job in jobs if job.hours is not None}
    origins = [
        f"{place.network}: {rate.origin}"
        for place, rate in rates.items()
        if f"{place.network} at {place.image}" in used
    ]
    return jobs, "\n  ".join([f"Hours on {name}, one job after the other; rates from", *origins])


def _places(results: Sequence[Result], root: Path) -> Iterator[tuple[str, str]]:
    """The networks and image sizes of trainings, evaluations and landscapes."""
    for result in results:
        spec = result.step.settings
        if isinstance(spec, TrainSpec | EvaluationSpec | LandscapeSpec):
            size = _size(result.step, spec, root)
            if size is not None:
                yield spec.key.network, size.image


def _size(
    step: Step, spec: TrainSpec | EvaluationSpec | LandscapeSpec, root: Path
) -> DataSize | None:
    """Of the images that a step reads, as they are fetched or will be."""
    folder = f"data/{spec.key.dataset}/"
    data = next((made for place, made in step.inputs.items() if place.startswith(folder)), None)
    fingerprint = data.fingerprint if data else None
    return data_size(spec.key.dataset, spec.data, root, fingerprint=fingerprint)


def _job(result: Result, root: Path, rates: Rates) -> Job:
    spec, state = result.step.settings, result.state(root)
    if not isinstance(spec, TrainSpec | EvaluationSpec | LandscapeSpec):
        return Job(result, state, None, None, "")
    key = spec.key
    size = _size(result.step, spec, root)
    if size is None:
        return Job(result, state, None, None, f"{key.dataset} before it is fetched")
    passes = _passes(result, size)
    place = f"{key.network} at {size.image}"
    rate = next(
        (
            rate
            for where, rate in rates.items()
            if where == Place(where.device, key.network, size.image)
        ),
        None,
    )
    seconds = None
    if rate is not None and passes is not None:
        seconds = rate.seconds(passes)
    elif rate is not None and rate.autoattack is not None:
        seconds = rate.autoattack * _num_images(spec, size, result.attack)
    hours = None if seconds is None else seconds / 3600
    kept = losses_bytes(spec, size) if isinstance(spec, TrainSpec) else 0
    return Job(result, state, passes, hours, place, kept)


def _num_images(
    spec: TrainSpec | EvaluationSpec | LandscapeSpec,
    size: DataSize,
    attack: AttackSpec | None = None,
) -> int:
    first = getattr(spec, "first_examples", None) or (attack and attack.num_examples)
    return first or getattr(spec, "num_examples", None) or size.num_test


def _passes(result: Result, size: DataSize) -> Passes | None:
    spec = result.step.settings
    if isinstance(spec, TrainSpec):
        return training_cost(spec, size)
    if isinstance(spec, LandscapeSpec):
        return landscape_cost(spec, num_train=size.num_train, num_drawn=size.num_drawn)
    if isinstance(spec, EvaluationSpec) and result.attack is not None:
        return record_cost(result.attack, num_images=_num_images(spec, size, result.attack))
    return None


def detail_line(job: Job) -> str:
    """One result: its state, millions of passes forward and backward, hours, and its path."""
    passes = job.passes
    numbers = (
        passes.forward / 1e6 if passes else None,
        passes.backward / 1e6 if passes else None,
        job.hours,
    )
    cells = [f"{'-' if number is None else f'{number:,.3f}':>10}" for number in numbers]
    return "  ".join([f"{job.state:>6}", *cells, job.result.path])


def plan_lines(jobs: Sequence[Job], *, device: str | None, origin: str) -> Iterator[str]:
    """The plan as a person reads it."""
    rows = [_HEADER, *(_row(name, kind, jobs) for kind, name in KINDS.items())]
    rows.append(_row("together", None, jobs))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
    yield ""
    yield (
        "Passes of what is stale or to do, in millions, of one image each; at most, as RWP and"
        " attacks stop early."
    )
    todo = [job for job in jobs if job.state != "done"]
    if any(job.result.attack and job.passes is None for job in todo):
        yield "AutoAttack's passes depend on the network and are not counted."
    keeping = [job.kept_bytes for job in todo if job.kept_bytes]
    if keeping:
        yield (
            f"losses.npz: {sum(keeping) / 1e6:,.1f} MB at most in {len(keeping)} trainings, which "
            "keep every image's losses."
        )
    unknown = {job.place for job in todo if job.place.endswith("fetched")}
    for place in sorted(unknown):
        yield f"The number of images is not known of {place}: its passes are left out."
    if device is None:
        yield "Hours: name a device with --device; without a name it lists those that are known."
        return
    yield origin
    without = {job.place for job in todo if job.hours is None and job.place} - unknown
    for place in sorted(without):
        count = sum(job.hours is None and job.place == place for job in todo)
        kinds = "AutoAttack" if _has_passes_rate(place, todo) else "passes"
        yield f"No rate of {kinds} is measured there for {place}: {count} results have no hours."


def _has_passes_rate(place: str, jobs: Sequence[Job]) -> bool:
    return any(job.place == place and job.hours is not None for job in jobs)


def _row(name: str, kind: str | None, jobs: Sequence[Job]) -> tuple[str, ...]:
    """Counts by state, and the cost of what is not done."""
    chosen = [job for job in jobs if kind in (None, job.result.step.kind)]
    todo = [job for job in chosen if job.state != "done"]
    counts = [str(sum(job.state == state for job in chosen)) for state in _HEADER[1:4]]
    passes = sum((job.passes for job in todo if job.passes), Passes())
    hours = [job.hours for job in todo if job.hours is not None]
    return (
        name,
        *counts,
        f"{passes.forward / 1e6:,.2f}" if passes.forward else "-",
        f"{passes.backward / 1e6:,.2f}" if passes.backward else "-",
        f"{sum(hours):,.2f}" if hours else "-",
    )
