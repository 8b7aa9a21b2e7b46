"""What targets need: results done, stale and to do, their passes, and hours on a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rwp.data.spec import DataSize, data_size
from rwp.evaluation.spec import EvaluationSpec, LandscapeSpec
from rwp.pipeline.settings import Params
from rwp.pipeline.state import Result
from rwp.pipeline.steps import Step
from rwp.reporting.costs import (
    Passes,
    landscape_cost,
    losses_bytes,
    record_cost,
    training_cost,
)
from rwp.reporting.rates import Rates, all_rates, estimated_rates, rate_for, rates_on, scaled_rates
from rwp.training.spec import AttackSpec, TrainSpec

KINDS = {
    "train": "trainings",
    "label": "pseudo-labels",
    "landscape": "landscapes",
    "evaluate": "attacks",
    "judge": "verdicts",
}
_UNCOUNTED = ("judge", "label")  # further attacks on some images; a pass over the unlabeled
_HEADER = ("", "done", "stale", "to do", "forward", "backward", "hours")


@dataclass(frozen=True)
class Job:
    """One result and what it costs; no passes or hours where they cannot be told beforehand."""

    result: Result
    state: str
    passes: Passes | None  # of single images
    hours: float | None
    place: str  # network and image size that a rate has to be of
    unfetched: str = ""  # the data set, where its number of images is not known yet
    kept_bytes: int = 0  # of losses.npz, at most
    origin: str = ""  # of the rate behind the hours
    lacking: str = ""  # an output that is not there, though the result is done


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
    origins = dict.fromkeys(job.origin for job in jobs if job.hours is not None)
    if not origins:
        return jobs, f"No hours on {name}: no job here has a rate and a known number of images"
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
    beside = result.step.outputs if result.step.record else ()  # records of attacks stand alone
    lost = (path for path in beside if not (root / path).exists())
    lacking = next(lost, "") if state == "done" else ""
    if not isinstance(spec, TrainSpec | EvaluationSpec | LandscapeSpec):
        return Job(result, state, None, None, "", lacking=lacking)
    key = spec.key
    size = _size(result.step, spec, root)
    if size is None:
        return Job(result, state, None, None, "", unfetched=key.dataset, lacking=lacking)
    passes = _passes(result, size)
    place = f"{key.network} at {size.image}"
    precision = (spec.optimization.precision,) if isinstance(spec, TrainSpec) else ()
    rate = rate_for(rates, key.network, size.image, *precision)
    seconds = None
    if rate is not None and passes is not None:
        seconds = rate.seconds(passes)
    elif rate is not None and rate.autoattack is not None and (attack := result.attack):
        seconds = rate.autoattack * _num_attacked(result, attack, size)
    hours = None if seconds is None else seconds / 3600
    kept = losses_bytes(spec, size) if isinstance(spec, TrainSpec) else 0
    origin = f"{key.network}: {rate.origin}" if rate is not None else ""
    return Job(result, state, passes, hours, place, kept_bytes=kept, origin=origin, lacking=lacking)


def _passes(result: Result, size: DataSize) -> Passes | None:
    spec = result.step.settings
    if isinstance(spec, TrainSpec):
        return training_cost(spec, size)
    if isinstance(spec, LandscapeSpec):
        return landscape_cost(spec, size)
    if isinstance(spec, EvaluationSpec) and result.attack is not None:
        images = _num_attacked(result, result.attack, size)
        return record_cost(result.attack, num_images=images)
    return None


def _num_attacked(result: Result, attack: AttackSpec, size: DataSize) -> int:
    return result.step.settings_as(EvaluationSpec).num_asked(attack) or size.num_test


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
    """The plan as a person reads it: the table, what it leaves out, and where hours come from."""
    yield from _table_lines(jobs)
    yield ""
    yield from _remarks(jobs)
    if device is None:
        yield "Hours: name a device with --device; without a name it lists those that are known."
    else:
        yield origin
        yield from _remarks_on_hours(jobs)


def _table_lines(jobs: Sequence[Job]) -> Iterator[str]:
    rows = [_HEADER, *(_row(name, kind, jobs) for kind, name in KINDS.items())]
    rows.append(_row("together", None, jobs))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()


def _remarks(jobs: Sequence[Job]) -> Iterator[str]:
    """What the numbers of the table are, and what they leave out."""
    yield (
        "Passes of what is stale or to do, in millions, of one image each; at most, as RWP and"
        " attacks stop early."
    )
    todo = [job for job in jobs if job.state != "done"]
    if any(job.result.attack and job.passes is None for job in todo):
        yield (
            "AutoAttack's passes depend on the network and are not counted; its hours are at most"
            " these where this project has measured none: each image would stand to the end."
        )
    for kind in KINDS:
        lost = [job.lacking for job in jobs if job.lacking and _is_of(job, kind)]
        if lost:
            yield (
                f"{len(lost)} of the {KINDS[kind]} that are done lack files, {lost[0]} first: "
                "Snakemake makes them again for whatever reads these."
            )
    if uncounted := [KINDS[kind] for kind in _UNCOUNTED if any(_is_of(job, kind) for job in todo)]:
        yield f"Passes of {' and '.join(uncounted)} are not counted."
    keeping = [job.kept_bytes for job in todo if job.kept_bytes]
    if keeping:
        yield (
            f"losses.npz: {sum(keeping) / 1e6:,.1f} MB at most in {len(keeping)} trainings, which "
            "keep every image's losses."
        )
    for name in sorted({job.unfetched for job in todo if job.unfetched}):
        yield (
            f"The number of images is not known of {name} before it is fetched: its passes are "
            "left out."
        )


def _remarks_on_hours(jobs: Sequence[Job]) -> Iterator[str]:
    """Where the hours of what is to do may be wrong or lack."""
    todo = [job for job in jobs if job.state != "done"]
    shared = sorted({job.result.step.gpus for job in todo if job.result.step.gpus > 1})
    if shared:
        yield f"Hours of trainings on {' or '.join(map(str, shared))} GPUs are as on one."
    without = Counter(
        (job.place, "AutoAttack" if job.passes is None else "passes")
        for job in todo
        if job.hours is None and job.place
    )
    for (place, kind), count in sorted(without.items()):
        yield f"No rate of {kind} is measured there for {place}: {count} results have no hours."


def _is_of(job: Job, kind: str) -> bool:
    return job.result.step.kind == kind


def _row(name: str, kind: str | None, jobs: Sequence[Job]) -> tuple[str, ...]:
    """Counts by state, and the cost of what is not done."""
    chosen = [job for job in jobs if kind is None or _is_of(job, kind)]
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
