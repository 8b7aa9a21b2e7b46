"""Run the benchmarks, print a table and write results/bench.json.

    python benchmarks/run.py [NAME ...] [--device cpu|cuda] [--repetitions N] [--output FILE]

NAME selects among the functions registered in benchmarks/bench_*.py; none means all.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))

import torch

from benchmarks.registry import Result, Setting, all_benchmarks
from rwp.core import flush_denormals
from rwp.files import read_json, write_json
from rwp.training.run_record import processor_name

ROOT = Path(__file__).resolve().parents[1]


def describe(device: torch.device) -> str:
    """Machine and versions in one line."""
    parts = [f"{processor_name()}, {torch.get_num_threads()} threads"]
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    parts += [f"python {platform.python_version()}", f"torch {torch.__version__}"]
    return "; ".join([*parts, platform.system()])


def print_result(result: Result, name: str) -> None:
    """One line, and the notes below it."""
    target = "" if result.target is None else f"  (target {result.target:g}x)"
    print(
        f"{name:28} {result.ours_s:10.3f} {result.reference_s:12.3f} {result.ratio:8.2f}x{target}",
        flush=True,
    )
    if result.notes:
        notes = ", ".join(f"{key} {_short(value)}" for key, value in result.notes.items())
        print(f"{'':28} {notes}", flush=True)


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = all_benchmarks()
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "bench.json")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - known.keys())
    if unknown:
        parser.error(f"{unknown[0]}: expected one of {', '.join(known)}")
    devices = [options.device] if options.device else ["cpu"]
    if options.device is None and torch.cuda.is_available():
        devices.append("cuda")
    # For the processes that benchmarks start.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    flushed = flush_denormals()
    entries = read_json(options.output) if options.output.exists() else {}
    for device in map(torch.device, devices):
        machine = describe(device)
        print(f"\n{machine}; denormals {'flushed' if flushed else 'kept'}")
        print(f"{'':28} {'ours [s]':>10} {'reference [s]':>12} {'ratio':>8}", flush=True)
        for name, function in known.items():
            if options.names and name not in options.names:
                continue
            for result in function(Setting(device, options.repetitions)):
                entry = result.name + ("_cuda" if device.type == "cuda" else "")
                print_result(result, entry)
                entries[entry] = {
                    "ours_s": result.ours_s,
                    "reference_s": result.reference_s,
                    "ratio": result.ratio,
                    "machine": machine,
                    **result.notes,
                }
                write_json(options.output, entries)
    return 0


if __name__ == "__main__":
    sys.exit(main())
