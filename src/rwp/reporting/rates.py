"""Seconds per pass on a device: as measured, or estimated.

Rates come from benchmarks on named devices and from this project's own runs; where a GPU has none,
they are estimated from its published peak. Only an estimate imports torch, which counts the
operations of a network.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rwp.data.spec import data_size
from rwp.errors import UserError
from rwp.evaluation.records import EvaluationRecord, read_record
from rwp.evaluation.spec import record_path
from rwp.files import object_in, objects_in, read_object
from rwp.pipeline.resolve import dataset_spec, network_spec
from rwp.pipeline.settings import Params
from rwp.reporting.costs import Passes, counted_cost
from rwp.training.spec import NetworkSpec, OwnNetworkSpec, RunKey, TrainSpec

SHIPPED = Path(__file__).parent / "rates.csv"
_FP32 = "fp32"  # in which evaluations compute, and what ships was measured


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
    precision: str = _FP32

    def __str__(self) -> str:
        return f"{self.network} at {self.image}{_in(self.precision)}"


Rates = dict[Place, Rate]


def _in(precision: str) -> str:
    return "" if precision == _FP32 else f" in {precision}"


def rate_for(rates: Rates, network: str, image: str, precision: str = _FP32) -> Rate | None:
    """A device's rate in an arithmetic; where none was measured in it, that in fp32, called so."""
    found = {
        place.precision: rate
        for place, rate in rates.items()
        if (place.network, place.image) == (network, image)
    }
    rate = found.get(precision, found.get(_FP32))
    if rate is None or precision in found:
        return rate
    return replace(rate, origin=f"{rate.origin}, all in fp32: {precision} may take less")


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
            found = float(text) if text else None
        except ValueError:
            found = math.nan
        if found is not None and not is_amount(found):
            raise UserError(
                f"{path}: expected seconds in the column {name}, got {text!r}; measure it again"
            )
        return found

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
    shipped, own = shipped_rates(), own_rates(params, root)
    return shipped | {
        place: _filled(rate, shipped[place]) if place in shipped else rate
        for place, rate in own.items()
    }


def _filled(own: Rate, shipped: Rate) -> Rate:
    autoattack = shipped.autoattack if own.autoattack is None else own.autoattack
    return replace(shipped if own.forward is None else own, autoattack=autoattack)


def own_rates(params: Params, root: Path) -> Rates:
    """What this project's finished runs took: per pass of any kind alike, and for AutoAttack.

    A training in another arithmetic gives a rate of its own; its network is attacked in fp32.
    """
    trained: dict[Place, list[_Timing]] = {}
    attacked: dict[Place, list[_Timing]] = {}
    for path in sorted(root.glob("results/**/run.json")):
        timing = _timing(params, path, root)
        if timing is not None:
            trained.setdefault(timing.place, []).append(timing)
            if timing.attack_images:
                attacked.setdefault(replace(timing.place, precision=_FP32), []).append(timing)
    return {
        place: _rate(trained.get(place, []), attacked.get(place, []))
        for place in dict.fromkeys([*trained, *attacked])
    }


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
    """Of one run; none where it is unfinished, or of other networks or data than today's.

    None either where it was compiled, shared by several processes or threads of a processor, or
    begun on another device.
    """
    document = read_object(path)
    passes = object_in(document, "passes")
    counted = [document.get("seconds"), passes.get("forward"), passes.get("backward")]
    device = document.get("device")
    if document.get("status") != "finished" or not all(map(is_amount, counted)):
        return None  # of a damaged run the tables tell
    if not isinstance(device, str):
        return None
    try:
        key = RunKey.parse(document.get("key"), where=str(path))
        spec = TrainSpec.parse(document.get("spec"), where=str(path))
    except UserError:
        return None  # an older version's; `rwp verify` names it
    shares = ("processes", "threads") if device.startswith("cpu") else ("processes",)
    made_by = [document, *objects_in(document, "earlier")]
    shared = any(each.get(name, 1) != 1 for name in shares for each in made_by)
    if shared or {each.get("device") for each in made_by} != {device}:
        return None
    if spec.optimization.compile != "off":
        return None
    if key.dataset not in params.datasets or dataset_spec(params, key) != spec.data:
        return None
    size = data_size(key.dataset, spec.data, root)
    if size is None or _network(params, key.network) != spec.architecture:
        return None
    cost = counted_cost(spec, passes, size)
    if cost.forward + cost.backward <= 0:
        return None
    record = _autoattack(path.parent, device)
    return _Timing(
        place=Place(device, key.network, size.image, spec.optimization.precision),
        seconds=float(document["seconds"]),
        passes=cost.forward + cost.backward,
        attack_seconds=record.seconds if record else 0.0,
        attack_images=record.num_examples if record else 0,
    )


def is_amount(value: Any) -> bool:
    """Whether it is a number that a measurement can have given."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= sys.float_info.max


def _autoattack(folder: Path, device: str) -> EvaluationRecord | None:
    """The record of AutoAttack on the run, where the same device made it; none of a damaged one."""
    path = record_path(folder, "best", "autoattack")
    try:
        record = read_record(path) if path.exists() else None
    except UserError:
        return None
    if record and (record.attack.version == "lite" or record.attack.draft):
        return None  # shortened: it would make the standard one look as fast
    # A record names a GPU in full, a processor as "cpu".
    return record if record and device.split(" (")[0] == record.device else None


def _rate(trained: list[_Timing], attacked: list[_Timing]) -> Rate:
    passes = sum(t.passes for t in trained)
    each = sum(t.seconds for t in trained) / passes if passes else None
    images = sum(t.attack_images for t in attacked)
    attack = sum(t.attack_seconds for t in attacked) / images if images else None
    origin = f"{len(trained)} finished trainings of this project"
    if not trained:
        return Rate(None, None, None, attack, "AutoAttack on networks of this project")
    return Rate(each, each, each, attack, origin + _in(trained[0].place.precision))


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
        measured.setdefault(place.device, []).append(str(place))
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
        if rate.forward is not None
        and place.precision == _FP32
        and (flops := _operations(params, place.network, place.image))
    }
    found: Rates = {}
    for network, image in places:
        place, flops = Place(device, network, image), None
        own = rates.get(place)
        if known and (own is None or own.forward is None):
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
        if own is not None:
            found[place] = replace(found[place], autoattack=own.autoattack)
    return found
