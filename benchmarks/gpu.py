"""The first hours on a GPU, in slices: called again and again, it goes on where it was.

    python benchmarks/gpu.py [--minutes N] [--folder DIR] [--data PLACE] [--from ARCHIVE]
                             [--archive FILE] [--device cpu|cuda] [--retry] [--tiny]

It needs PyTorch and numpy; AutoAttack's slices need pyautoattack as well, which is pure Python
and may lie anywhere on PYTHONPATH. What is done is kept in the folder and, without checkpoints,
in one small archive that `rwp rates ARCHIVE` reads. `--data`: a folder with train.pt and test.pt,
or CIFAR-10's photographs as a tree or an archive of it; without it nothing is trained.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))
# Last, so only where the packages are not installed.
sys.path.append(str(Path(__file__).resolve().parent / "bare"))

import torch

from benchmarks import gpu_slices, gpu_suite
from benchmarks.gpu_slices import MODES, NAMES, TINY, Bench, Sizes
from benchmarks.run import describe
from rwp.core import flush_denormals
from rwp.core.settings import Precision
from rwp.errors import UserError
from rwp.files import atomic_write, read_json, write_json
from rwp.training.resume import Interrupted
from rwp.training.run_record import commit

ROOT = Path(__file__).resolve().parents[1]
FORMAT = "rwp.gpu-bench/1"
NETWORKS = ("preact-resnet-18", "wrn-28-10", "wrn-34-10")


class OutOfTime(BaseException):
    """The slice is over, or somebody asked to stop; what was done is kept."""


@dataclass(frozen=True)
class Unit:
    """One measurement: done, or not yet. `seconds`: what it may take on an H100, by arithmetic."""

    name: str
    measure: Callable[[], dict[str, Any]]
    seconds: float = 30.0


def units(bench: Bench, options: argparse.Namespace) -> Iterator[Unit]:
    """All there is to do, in order."""
    run = partial  # of a slice with its arguments
    if not options.tiny:
        yield Unit("tests", run(_tests, "not a_training_on"), 60)
        for precision in get_args(Precision):  # each compiles what it trains, twice
            yield Unit(f"tests {precision}", run(_tests, f"a_training_on and {precision}"), 240)
    for mode in ("fp32", "tf32_graphs") if options.tiny else MODES:
        for variant in NAMES:
            yield Unit(f"step {variant} {mode}", run(gpu_slices.step, bench, variant, mode))
    whole = ("tf32_graphs",) if options.tiny else ("fp32", "tf32", "bf16_graphs")
    for mode in whole:
        for variant in NAMES:
            yield Unit(f"epoch {variant} {mode}", run(gpu_slices.epoch, bench, variant, mode), 150)
    for mode in whole:
        yield Unit(f"profile {mode}", run(gpu_slices.profile, bench, "all_perturbed", mode))
    for survivors in ("all", "some"):
        yield Unit(f"autoattack {survivors}", run(gpu_slices.autoattack, bench, survivors), 150)
    for mode in whole[-2:]:
        yield Unit(f"scaling {mode}", run(gpu_slices.scaling, bench, mode), 60)
    for name in NETWORKS[:1] if options.tiny else NETWORKS:
        yield Unit(f"rates {name}", run(gpu_slices.rates, bench, name), 60)
    for name, measure in gpu_suite.units(bench, options.folder, options.data):
        yield Unit(name, measure, 0 if options.tiny else 60)


# Without what the other tests share, and without the strict options: both ask for more packages.
PYTEST = ("-q", "-m", "gpu", "--noconftest", "-p", "no:cacheprovider", "-o", "addopts=")


def _tests(chosen: str) -> dict[str, Any]:
    """Those that need a GPU and have such names."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-m", "pytest", *PYTEST, "-k", chosen, str(ROOT / "tests" / "gpu")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (found.stdout.strip() or found.stderr.strip()).splitlines()
    if found.returncode:
        raise UserError(f"tests/gpu: expected all to pass; {' | '.join(lines[-8:])}")
    return {"outcome": lines[-1] if lines else ""}


class Ledger:
    """What is done, in the folder and in the archive."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.folder, self.path = options.folder, options.folder / "bench.json"
        self.archive = options.archive or options.folder / "bench-gpu.tar.gz"
        if options.begin is not None and not self.path.exists():
            unpack(options.begin, self.folder)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "tiny": options.tiny,
            "device": name,
            "machine": describe(device),
            "commit": commit(),
            "units": {},
            "failed": {},
        }
        if self.path.exists():
            self._go_on(read_json(self.path))

    def _go_on(self, found: dict[str, Any]) -> None:
        for key in ("format", "device", "tiny"):
            if found.get(key) != self.content[key]:
                raise UserError(
                    f"{self.path}: expected {key} {self.content[key]!r}, got {found.get(key)!r}; "
                    "give another --folder"
                )
        self.content = found

    def done(self, name: str) -> dict[str, Any] | None:
        """The numbers of a unit."""
        found: dict[str, Any] | None = self.content["units"].get(name)
        return found

    def note(self, name: str, numbers: dict[str, Any]) -> None:
        """A unit is done."""
        self.content["units"][name] = numbers
        self.content["failed"].pop(name, None)
        self._save()

    def fail(self, name: str, error: BaseException) -> None:
        """A unit cannot be had; the next ones may."""
        text = " ".join(str(error).split())[:400]
        self.content["failed"][name] = f"{type(error).__name__}: {text}"
        self._save()

    def _save(self) -> None:
        write_json(self.path, self.content)
        pack(self.folder, self.archive)


# What is small and worth keeping: checkpoints and data stay behind.
_PACKED = ("bench.json", "results/**/run.json", "results/**/history.jsonl", "results/**/*.json")


def pack(folder: Path, archive: Path) -> None:
    """Results, histories and records in one move."""
    names = sorted({path for pattern in _PACKED for path in folder.glob(pattern)})
    with atomic_write(archive) as temporary, tarfile.open(temporary, "w:gz") as tar:
        for path in names:
            content = path.read_bytes()
            member = tarfile.TarInfo(str(path.relative_to(folder)))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def unpack(archive: Path, folder: Path) -> None:
    """What an earlier machine did.

    Raises:
        UserError: it is no such archive.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # none before 3.11.4
            tar.extractall(folder)
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"{archive}: expected an archive of this benchmark, got {error}; check the path"
        ) from error


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Ask this process to stop at a time, as anybody else may: SIGTERM, SIGINT."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    found = [(number, signal.signal(number, stop)) for number in (signal.SIGTERM, signal.SIGINT)]
    left = max(0.0, deadline - time.monotonic())
    timer = threading.Timer(left, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in found:
            signal.signal(number, handler)


def work(options: argparse.Namespace) -> int:
    """Do what fits into the minutes."""
    device = torch.device(options.device)
    ledger = Ledger(options, device)
    bench = Bench(device, TINY if options.tiny else Sizes())
    deadline = time.monotonic() + 60 * options.minutes
    listed = list(units(bench, options))
    print(f"{ledger.content['machine']}; {len(ledger.content['units'])} of {len(listed)} are done")
    try:
        with until(deadline):
            for unit in listed:
                if ledger.done(unit.name) or (
                    unit.name in ledger.content["failed"] and not options.retry
                ):
                    continue
                if deadline - time.monotonic() < min(unit.seconds, 30 * options.minutes):
                    break  # half of a call is enough to begin anything
                _measured(unit, ledger)
    except (OutOfTime, Interrupted):
        pass
    left = [unit.name for unit in listed if ledger.done(unit.name) is None]
    for name, text in ledger.content["failed"].items():
        print(f"failed: {name}: {text}")
    open_ = [name for name in left if name not in ledger.content["failed"]]
    print(f"{len(listed) - len(left)} of {len(listed)} are done, in {ledger.archive}")
    if open_:
        print(f"next: {open_[0]}; the same command goes on from here")
    return 1 if ledger.content["failed"] else 0


def _measured(unit: Unit, ledger: Ledger) -> None:
    print(f"{unit.name} ...", flush=True)
    began = time.monotonic()
    try:
        numbers = unit.measure()
    except gpu_suite.NotHere as reason:
        print(f"  not here: {reason}", flush=True)
        return
    except Interrupted:
        raise
    except Exception as error:
        ledger.fail(unit.name, error)
        print(f"  failed: {error}", flush=True)
        return
    seconds = round(time.monotonic() - began, 2)
    ledger.note(unit.name, numbers | {"seconds": seconds})
    shown = {key: value for key, value in numbers.items() if isinstance(value, float)}
    print("  " + ", ".join(f"{key} {value:.4g}" for key, value in shown.items()), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "bench-gpu")
    parser.add_argument("--data", type=Path, help="train.pt and test.pt, or the photographs")
    parser.add_argument("--from", dest="begin", type=Path, help="an archive to go on from")
    parser.add_argument("--archive", type=Path, help="where the small archive goes")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--retry", action="store_true", help="try again what failed")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal; its numbers mean nothing")
    parser.add_argument("--write-settings", action="store_true", help="from params.yaml")
    options = parser.parse_args(arguments)
    try:
        if options.write_settings:
            gpu_suite.write_settings()
            return 0
        if options.minutes <= 0:
            raise UserError(f"--minutes: expected more than 0, got {options.minutes:g}; say 9")
        options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if options.device == "cpu" and not options.tiny:
            raise UserError(
                "bench-gpu: expected an NVIDIA GPU that torch can use, got none; on a CPU there is "
                "the rehearsal, --tiny"
            )
        flush_denormals()
        return work(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
