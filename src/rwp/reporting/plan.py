"""What targets would run: results to do and done, passes, and hours on a named device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rwp.evaluation.spec import EvaluationSpec, LandscapeSpec
from rwp.pipeline.settings import Params
from rwp.pipeline.state import Result
from rwp.reporting.passes import (
    DataSize,
    Passes,
    data_size,
    landscape_cost,
    record_cost,
    training_cost,
)
from rwp.reporting.rates import Place, Rates, all_rates, rates_on
from rwp.training.spec import TrainSpec

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


def plan_jobs(
    params: Params, results: Sequence[Result], *, root: Path, device: str | None = None
) -> tuple[list[Job], str]:
    """The jobs behind results, and where their rates come from (nothing without a device).

    Raises:
        UserError: no measured rate is of a device of that name.
    """
    if device is None:
        return [_job(result, root, {}) for result in results], ""
    name, rates = rates_on(device, all_rates(params, root))
    jobs = [_job(result, root, rates) for result in results]
    used = {job.place for job in jobs if job.hours is not None}
    origins = [
        f"{place.network}: {rate.origin}"
        for place, rate in rates.items()
        if f"{place.network} at {place.image}" in used
    ]
    return jobs, "\n  ".join([f"Hours on {name}, one job after the other; rates from", *origins])


def _job(result: Result, root: Path, rates: Rates) -> Job:
    spec, state = result.step.settings, result.state(root)
    if not isinstance(spec, TrainSpec | EvaluationSpec | LandscapeSpec):
        return Job(result, state, None, None, "")
    key = spec.key
    size = data_size(key.dataset, spec.data, root)
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
        seconds = rate.autoattack * _num_images(spec, size)
    return Job(result, state, passes, None if seconds is None else seconds / 3600, place)


def _num_images(spec: TrainSpec | EvaluationSpec | LandscapeSpec, size: DataSize) -> int:
    first = getattr(spec, "first_examples", None)
    return first or getattr(spec, "num_examples", None) or size.num_test


def _passes(result: Result, size: DataSize) -> Passes | None:
    spec = result.step.settings
    if isinstance(spec, TrainSpec):
        return training_cost(spec, size)
    if isinstance(spec, LandscapeSpec):
        return landscape_cost(spec, num_train=size.num_train)
    if isinstance(spec, EvaluationSpec) and result.attack is not None:
        return record_cost(result.attack, num_images=_num_images(spec, size))
    return None


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
    unknown = {job.place for job in todo if job.place.endswith("fetched")}
    for place in sorted(unknown):
        yield f"The number of images is not known of {place}: its passes are left out."
    if device is None:
        yield "Hours: name a device that has measured rates with --device."
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
