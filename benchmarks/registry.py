"""How a benchmark says what it is: one file named bench_*.py, one decorated function.

    from benchmarks.registry import Result, Setting, benchmark

    @benchmark(order=40)
    def augmentation(setting: Setting) -> Iterator[Result]:
        yield Result("augmentation", ours_s=..., reference_s=...)

`run.py` imports every such file, runs the functions by `order` and keeps what they yield.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rwp.training.flops import wait_for


@dataclass(frozen=True)
class Setting:
    """What every benchmark is told.

    Attributes:
        device: where to run.
        repetitions: how often to time each side; the median counts.
    """

    device: torch.device
    repetitions: int


@dataclass(frozen=True)
class Result:
    """One line of the table and one entry of bench.json.

    Attributes:
        name: the entry; "_cuda" is appended on a GPU.
        ours_s: seconds of our program.
        reference_s: seconds of what it is compared with.
        target: the least ratio aimed at, if any.
        notes: further numbers, printed below the line and kept in the entry.
    """

    name: str
    ours_s: float
    reference_s: float
    target: float | None = None
    notes: dict[str, float | str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.reference_s / self.ours_s


Benchmark = Callable[[Setting], Iterator[Result]]
_REGISTERED: dict[str, tuple[int, Benchmark]] = {}


def benchmark(*, order: int) -> Callable[[Benchmark], Benchmark]:
    """Register a benchmark under its function's name; lower orders run first."""

    def register(function: Benchmark) -> Benchmark:
        _REGISTERED[function.__name__] = (order, function)
        return function

    return register


def all_benchmarks() -> dict[str, Benchmark]:
    """Every benchmark of this folder, in order."""
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        importlib.import_module(f"benchmarks.{path.stem}")
    ordered = sorted(_REGISTERED.items(), key=lambda item: item[1][0])
    return {name: function for name, (_, function) in ordered}


def measure_pair(
    ours: Callable[[], object],
    reference: Callable[[], object],
    setting: Setting,
    *,
    warm_up: bool = True,
) -> tuple[float, float]:
    """Median seconds of both, run in turns so that a busy moment hits both alike."""
    if warm_up:
        ours()
        reference()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(setting.repetitions):
        for kept, function in zip(seconds, (ours, reference), strict=True):
            kept.append(seconds_of(function, setting.device))
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """How long it takes, until the device is done."""
    wait_for(device)
    start = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - start
