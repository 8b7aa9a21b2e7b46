"""What a suite costs: its passes, in operations and in hours at the rates of rates.csv.

    python benchmarks/scale_bill.py [--suite paper] [--teraflops T] [--survivors 0.55]

A sum, not a measurement: of the passes that the settings ask for, each at its measured price. All
ten weight steps are counted, as if no batch stopped early, and the test images of each epoch as if
all were attacked. --teraflops is what one GPU sustains; measure it there with scale_rates.py.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))

import torch

from benchmarks.scale_rates import NETWORKS, network, pictures
from rwp.data.spec import data_size
from rwp.pipeline.load import load_params
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.resolve_evaluation import evaluation_spec
from rwp.pipeline.suites import runs_of
from rwp.reporting.costs import Passes, record_cost, training_cost
from rwp.reporting.rates import AUTOATTACK_PASSES, Rate, shipped_rates
from rwp.training.flops import forward_flops
from rwp.training.spec import AttackSpec, RunKey

ROOT = Path(__file__).resolve().parents[1]
FIRST_ATTACK = 101  # APGD-CE, at which nearly all that is not robust is lost


@dataclass(frozen=True)
class Job:
    """A training or an evaluation, and what must be done before."""

    name: str
    network: str
    passes: Passes
    after: str | None = None


def evaluation_passes(attacks: Iterable[AttackSpec], images: int, survivors: float) -> Passes:
    """All attacks on one network."""
    total = Passes()
    for attack in attacks:
        cost = record_cost(attack, num_images=images)
        if cost is None:
            cost = AUTOATTACK_PASSES * (images * survivors)
            cost += Passes(forward=FIRST_ATTACK + 2, attack=FIRST_ATTACK) * (
                images * (1 - survivors)
            )
        total += cost
    return total


def jobs_of(suite: str, survivors: float) -> list[Job]:
    """Trainings of both tables, the teachers of RST, and the evaluations of Table 2."""
    params = load_params(ROOT / "params.yaml")
    second = runs_of(params, suite, "table2")
    jobs: dict[str, Job] = {}
    sizes = {  # of the published sets, whatever lies in a data folder here
        name: data_size(name, definition, Path("nowhere"))
        for name, definition in params.datasets.items()
    }

    def add(key: RunKey) -> None:
        spec = train_spec(params, key)
        teacher = spec.unlabeled.teacher if spec.unlabeled else None
        if teacher is not None:
            add(teacher)
        after = teacher.name if teacher else None
        jobs[key.name] = Job(key.name, key.network, training_cost(spec, sizes[key.dataset]), after)

    for key in (*runs_of(params, suite, "table1"), *second):
        add(key)
    for key in second:
        attacks = evaluation_spec(params, key).attacks
        passes = evaluation_passes(attacks, sizes[key.dataset].num_test, survivors)
        name = f"evaluation of {key.name}"
        jobs[name] = Job(name, key.network, passes, key.name)
    return list(jobs.values())


def makespan(costs: dict[str, float], after: dict[str, str | None], workers: int) -> float:
    """When the last job ends, the longest that may start going first."""
    free, done = [0.0] * workers, dict[str, float]()
    waiting = dict(costs)
    while waiting:
        may = [name for name in waiting if after[name] is None or after[name] in done]
        ready = {name: done.get(after[name] or "", 0.0) for name in may}
        start = heapq.heappop(free)
        soon = [name for name in ready if ready[name] <= start] or [min(ready, key=ready.get)]
        name = max(soon, key=lambda name: costs[name])
        done[name] = max(start, ready[name]) + waiting.pop(name)
        heapq.heappush(free, done[name])
    return max(done.values())


def rates() -> dict[str, tuple[str, Rate]]:
    """Network -> device, and seconds of each kind of pass there; the file's last row counts."""
    return {place.network: (place.device, rate) for place, rate in shipped_rates().items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="paper")
    parser.add_argument("--survivors", type=float, default=0.55, help="share under AutoAttack")
    parser.add_argument("--teraflops", type=float, default=10.0, help="sustained by one GPU")
    options = parser.parse_args()
    jobs, price = jobs_of(options.suite, options.survivors), rates()
    cpu = torch.device("cpu")
    flops = {
        name: forward_flops(network(name, cpu), pictures(name, 1).float() / 255)
        for name in NETWORKS
    }
    hours, operations = {}, {}
    for job in jobs:
        hours[job.name] = price[job.network][1].seconds(job.passes) / 3600
        operations[job.name] = flops[job.network] * job.passes.units
        print(f"{operations[job.name] / 1e18:9.3f} EFLOP {hours[job.name] / 24:8.1f} d  {job.name}")
    device = price[jobs[0].network][0]
    print(f"\ntotal {sum(operations.values()) / 1e18:.1f} EFLOP")
    print(f"on {device}: {sum(hours.values()) / 24:.0f} days")
    after = {job.name: job.after for job in jobs}
    gpu = {name: count / (1e12 * options.teraflops) / 3600 for name, count in operations.items()}
    for workers in (1, 8, 64):
        print(
            f"{workers:3} GPUs that sustain {options.teraflops:g} TFLOP/s each:"
            f" {makespan(gpu, after, workers) / 24:8.2f} days"
        )


if __name__ == "__main__":
    main()
