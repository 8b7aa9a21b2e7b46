"""The sums behind docs/scaling.md."""

from __future__ import annotations

import pytest
from benchmarks.scale_bill import jobs_of, makespan, rates
from benchmarks.scale_rates import NETWORKS

from rwp.data.spec import DataSize
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import Params
from rwp.reporting.costs import Passes, epoch_images, priced, training_passes
from rwp.reporting.rates import shipped_rates
from tests.conftest import ROOT

# In forward passes, a backward pass to the weights being two and one to the images one.
DOCUMENTED = {
    "at": 23,
    "at-awp": 26,
    "at-rwp": 53,
    "trades": 27,
    "trades-awp": 33,
    "trades-rwp": 87,
    "rst-rwp": 87,
    "natural": 3,
}


@pytest.mark.parametrize("recipe", DOCUMENTED)
def test_a_step_costs_what_is_documented(recipe: str, params: Params) -> None:
    place = {"dataset": "cifar10", "threat": "linf", "seed": 0}
    spec = train_spec(params, run_key(params, "paper", recipe=recipe, **place))
    spec = spec.replace(optimization=spec.optimization.replace(epochs=1))
    if spec.perturbation is not None:
        spec = spec.replace(perturbation=spec.perturbation.replace(warmup_epochs=0))
    size = DataSize(num_train=1280, num_test=100, image="32x32x3")
    passes = priced(spec, training_passes(spec, num_train=size.num_train), size)
    units = passes.units / epoch_images(spec, size.num_train)
    assert units == pytest.approx(DOCUMENTED[recipe], rel=1e-12)


def test_the_paper_has_28_trainings_and_9_evaluations() -> None:
    jobs = jobs_of("paper", survivors=0.5)
    evaluations = [job for job in jobs if job.name.startswith("evaluation")]
    assert (len(jobs), len(evaluations)) == (37, 9)
    teacher = next(job.name for job in jobs if "/natural/" in job.name)
    assert sum(job.after == teacher for job in jobs) == 3


@pytest.mark.parametrize(("workers", "end"), [(1, 10), (2, 5), (64, 5)])
def test_when_the_last_job_ends(workers: int, end: float) -> None:
    costs = {"a": 3.0, "after a": 2.0, "b": 4.0, "c": 1.0}
    after = {"a": None, "after a": "a", "b": None, "c": None}
    assert makespan(costs, after, workers) == end


def test_every_network_has_its_rates() -> None:
    found = rates()
    assert found.keys() >= NETWORKS.keys()
    assert all(rate.seconds(Passes(1, 1, 1)) > 0 for _, rate in found.values())


def test_the_page_has_the_rates_that_ship() -> None:
    """docs/scaling.md gives backward passes in forward passes, and AutoAttack in seconds."""
    lines = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "x3 |" in line]
    shown = {row[0].lower().removeprefix("preact "): row for row in cells if len(row) == 8}
    shown = {name.replace("resnet", "preact-resnet"): row for name, row in shown.items()}
    found = 0
    for place, rate in shipped_rates().items():
        row = shown.get(place.network)
        if row is None or rate.forward is None or rate.weights is None or rate.attack is None:
            continue
        assert row[1] == place.image
        assert float(row[4]) == pytest.approx(1000 * rate.forward, rel=5e-3)
        assert float(row[5]) == pytest.approx(rate.weights / rate.forward, abs=6e-3)
        assert float(row[6]) == pytest.approx(rate.attack / rate.forward, abs=6e-3)
        assert float(row[7]) == pytest.approx(rate.autoattack, abs=0.6)
        found += 1
    assert found == 3
