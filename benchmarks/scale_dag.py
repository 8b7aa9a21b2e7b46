"""How long Snakemake takes to plan and to run a large DAG of ours whose jobs do nothing.

    python benchmarks/scale_dag.py [--jobs N] [--run N] [--cores N]

The rules, settings and fingerprints are the project's own, with many seeds; only the commands
are replaced, so that what is left is Snakemake's time.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """Of a call; on a busy machine the processor's seconds say more than those of the clock."""

    clock: float
    processor: float

    def __str__(self) -> str:
        return f"{self.clock:.1f} s ({self.processor:.1f} s of processor time)"


_SHELL = re.compile(r'^( +)shell:\n(?:\1 +".*"\n)+', re.MULTILINE)


def project(folder: Path, seeds: int) -> None:
    """A copy of the workflow with empty commands and the demo suite on so many seeds."""
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "src").symlink_to(ROOT / "src")
    for path in (folder / "workflow" / "rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        path.write_text(_SHELL.sub(r'\1shell:\n\1    "touch {output}"\n', text))
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["suites"]["demo"]["seeds"] = list(range(seeds))
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def snakemake(folder: Path, *words: str) -> tuple[Cost, int]:
    """What it took, and the number of jobs that it speaks of."""
    program = Path(sys.executable).parent / "snakemake"
    start, used = time.perf_counter(), _used()
    result = subprocess.run(
        [str(program), *words],
        cwd=folder,
        env=os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    cost = Cost(time.perf_counter() - start, _used() - used)
    output = result.stdout + result.stderr
    if result.returncode != 0:
        raise SystemExit(output[-3000:])
    total = re.search(r"^total +(\d+)$", output, re.MULTILINE)
    return cost, int(total.group(1)) if total else 0


def _used() -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def seeds_for(jobs: int) -> int:
    """The least number of seeds that makes a DAG of that size."""
    counts = []
    for seeds in (1, 2):
        with tempfile.TemporaryDirectory() as name:
            project(Path(name), seeds)
            counts.append(snakemake(Path(name), "-n", "--cores", "1")[1])
    once, per_seed = 2 * counts[0] - counts[1], counts[1] - counts[0]
    return max(1, -(-(jobs - once) // per_seed))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000, help="size of the DAG to plan")
    parser.add_argument("--run", type=int, default=200, help="size of the DAG to run; 0: none")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        project(Path(name), seeds_for(options.jobs))
        cost, jobs = snakemake(Path(name), "-n", "--cores", "1")
        print(f"planning {jobs} jobs: {cost}", flush=True)
    if options.run:
        with tempfile.TemporaryDirectory() as name:
            project(Path(name), seeds_for(options.run))
            cores = ("--cores", str(options.cores))
            plan, jobs = snakemake(Path(name), "-n", *cores)
            cost, jobs = snakemake(Path(name), *cores)
            each = Cost(*((getattr(cost, n) - getattr(plan, n)) / jobs for n in vars(plan)))
            print(f"running {jobs} empty jobs on {options.cores} cores: {cost}")
            print(f"    {each.clock:.2f} s a job ({each.processor:.2f} s of processor time)")
            print(f"    beside the plan, {plan}")
            print(f"finding that nothing is to be done: {snakemake(Path(name), *cores)[0]}")


if __name__ == "__main__":
    main()
