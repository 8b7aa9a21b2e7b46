"""Seconds per pass, as measured: by benchmarks on named devices, and by this project's own runs."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rwp.errors import UserError
from rwp.files import read_json
from rwp.pipeline.settings import Params
from rwp.reporting.passes import Passes, counted_cost, data_size
from rwp.training.spec import RunKey, TrainSpec

SHIPPED = Path(__file__).parent / "rates.csv"


@dataclass(frozen=True)
class Rate:
    """Seconds per image on one device for one network and image size; none: not measured."""

    forward: float | None
    attack: float | None  # a backward pass to the images alone
    weights: float | None  # any other backward pass
    autoattack: float | None
    origin: str

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
    return {
        Place(row["device"], row["network"], row["image_size"]): _shipped(row, path) for row in rows
    }


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


def _timing(params: Params, path: Path, root: Path) -> _Timing | None:
    """Of one run; none where it is unfinished, or of other networks or data than today's."""
    document = read_json(path)
    if document.get("status") != "finished":
        return None
    try:
        key = RunKey.parse(document.get("key"), where=str(path))
        spec = TrainSpec.parse(document.get("spec"), where=str(path))
    except UserError:
        return None  # an older version's; `rwp verify` names it
    size = data_size(key.dataset, spec.data, root)
    if size is None or params.networks.get(key.network) != spec.architecture:
        return None
    cost = counted_cost(spec, document["passes"], size)
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
    """The device that a part of its name means, and its rates.

    Raises:
        UserError: no device with measured rates has this in its name, or several do.
    """
    known = list(dict.fromkeys(place.device for place in rates))
    found = [name for name in known if name == device] or [
        name for name in known if device.casefold() in name.casefold()
    ]
    if len(found) != 1:
        raise UserError(
            f"--device: expected (a part of) one device's name with measured rates"
            f" ({'; '.join(known) or 'none yet'}), got {device!r}; a device gets rates with the"
            f" first training on it"
        )
    return found[0], {place: rate for place, rate in rates.items() if place.device == found[0]}
