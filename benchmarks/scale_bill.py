"""What a suite costs: its passes, in operations and in hours at the rates of rates.csv.

    python benchmarks/scale_bill.py [--suite paper] [--teraflops T] [--survivors 0.55]

A sum, not a measurement: of the passes that the settings ask for, each at its measured price. All
ten weight steps are counted, as if no batch stopped early, and the test images of each epoch as if
all were attacked. --teraflops is what one GPU sustains; measure it there with scale_rates.py.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))

import torch

from benchmarks.counting import forward_flops
from benchmarks.scale_rates import NETWORKS, RATES, network, pictures
from rwp.pipeline.load import load_params
from rwp.pipeline.resolve import evaluation_spec, train_spec
from rwp.pipeline.suites import table1_runs, table2_runs
from rwp.training.spec import AttackSpec, RunKey, TrainSpec

ROOT = Path(__file__).resolve().parents[1]
IMAGES = {"cifar10": (50000, 10000), "cifar100": (50000, 10000), "svhn": (73257, 26032)}
AUTOATTACK = (7865, 1910)  # forward and backward passes of a survivor at 32x32 (scale_rates.py)
FIRST_ATTACK = 101  # APGD-CE, at which nearly all that is not robust is lost


@dataclass(frozen=True)
class Passes:
    """Images that go forward, back to the weights, and back to the images alone."""

    forward: float = 0.0
    weights: float = 0.0
    attack: float = 0.0

    def __add__(self, other: Passes) -> Passes:
        return Passes(*(mine + others for mine, others in zip(self, other, strict=True)))

    def __mul__(self, count: float) -> Passes:
        return Passes(*(mine * count for mine in self))

    def __iter__(self):
        return iter((self.forward, self.weights, self.attack))


@dataclass(frozen=True)
class Job:
    """A training or an evaluation, and what must be done before."""

    name: str
    network: str
    passes: Passes
    after: str | None = None


def attack_passes(steps: int) -> Passes:
    """One image under gradient ascent, looked at before and after."""
    return Passes(forward=steps + 2, attack=steps)


def step_passes(spec: TrainSpec, *, perturbed: bool) -> Passes:
    """One image in one training step."""
    double = spec.objective.loss == "trades"  # clean and adversarial images
    weight_steps = spec.perturbation.num_weight_steps if perturbed and spec.perturbation else 0
    losses = (2 if double else 1) * (1 + weight_steps)
    steps = (spec.attack.num_steps or 0) if spec.attack else 0
    return Passes(forward=steps + losses + double, weights=losses, attack=steps)


def training_passes(spec: TrainSpec) -> Passes:
    """A whole training with its measurements."""
    images, test = IMAGES[spec.key.dataset]
    if spec.unlabeled is not None:
        images = round(spec.unlabeled.epoch_size)
    warmup = spec.perturbation.warmup_epochs if spec.perturbation else 0
    epochs = spec.optimization.epochs
    total = step_passes(spec, perturbed=False) * (images * warmup)
    total += step_passes(spec, perturbed=True) * (images * (epochs - warmup))
    steps = (spec.monitor.num_steps or 0) if spec.monitor else 0
    return total + attack_passes(steps) * (test * epochs)


def evaluation_passes(attacks: Iterable[AttackSpec], images: int, survivors: float) -> Passes:
    """All attacks on one network."""
    total = Passes()
    for attack in attacks:
        if attack.kind == "autoattack":
            forward, backward = AUTOATTACK
            total += Passes(forward=forward, attack=backward) * (images * survivors)
            total += attack_passes(FIRST_ATTACK) * (images * (1 - survivors))
        else:
            steps = attack.num_steps or (0 if attack.kind == "natural" else 1)
            total += attack_passes(steps) * images
    return total


def jobs_of(suite: str, survivors: float) -> list[Job]:
    """Trainings of both tables, the teachers of RST, and the evaluations of Table 2."""
    params = load_params(ROOT / "params.yaml")
    second = table2_runs(params, suite)
    jobs: dict[str, Job] = {}

    def add(key: RunKey) -> None:
        spec = train_spec(params, key)
        teacher = spec.unlabeled.teacher if spec.unlabeled else None
        if teacher is not None:
            add(teacher)
        after = teacher.name if teacher else None
        jobs[key.name] = Job(key.name, key.network, training_passes(spec), after)

    for key in (*table1_runs(params, suite), *second):
        add(key)
    for key in second:
        attacks = evaluation_spec(params, key).attacks
        passes = evaluation_passes(attacks, IMAGES[key.dataset][1], survivors)
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


def rates() -> dict[str, tuple[str, Passes]]:
    """Network -> device, and seconds of each kind of pass there; the file's last row counts."""
    with RATES.open(encoding="utf-8", newline="") as file:
        return {
            row["network"]: (
                row["device"],
                Passes(
                    float(row["forward_seconds"]),
                    float(row["backward_seconds"]),
                    float(row["attack_backward_seconds"]),
                ),
            )
            for row in csv.DictReader(file)
        }


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
        seconds = price[job.network][1]
        priced = sum(count * cost for count, cost in zip(job.passes, seconds, strict=True))
        hours[job.name] = priced / 3600
        # Back to the weights takes twice a forward pass, back to the images once.
        doubled = replace(job.passes, weights=2 * job.passes.weights)
        operations[job.name] = flops[job.network] * sum(doubled)
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
