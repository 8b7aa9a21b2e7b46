"""One of our commands with a fault planted in it: python -m tests.faults.victim PLAN COMMAND...

PLAN is JSON. {"kill_after_steps": 7} ends the process by SIGKILL, or by the "signal" given, at the
seventh training step from its start. {"kill_at_write": 3, "moment": "begun"} does at its third
file, or at one of the name given instead of a number: "begun" is an empty temporary, "written" one
that only lacks its name, "named" the file in place; with "once" it waits there for a file of that
name below .state, which another process makes; "wait_at_write" then goes on.
{"short_autoattack": true} takes fewer steps in each of its attacks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rwp import files
from rwp.commands.app import main


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_file(name: str) -> None:
    while not any(Path(".state").rglob(name)):
        time.sleep(0.02)


def plant_in_steps(count: int, before: bool, number: int) -> None:
    from rwp.training.loop import Training

    original, left = Training._step, count

    def step(self: Training, batch: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0 and before:
            os.kill(os.getpid(), number)
        original(self, batch)
        if left == 0 and not before:
            os.kill(os.getpid(), number)

    Training._step = step  # type: ignore[method-assign]


def plant_in_writes(which: int | str, moment: str, action: Callable[[], None]) -> list[str]:
    """Run `action` at a moment of a write, by number (from 1) or name; returns all writes."""
    begin, to_disk = files._locked_temporary, files._to_disk
    written: list[str] = []

    def is_it() -> bool:
        return which in (len(written), written[-1])

    def locked_temporary(target: Path) -> tuple[int, Path]:
        found = begin(target)
        written.append(target.name)
        if is_it() and moment == "begun":
            try:
                action()
            except OSError:
                os.close(found[0])
                found[1].unlink()
                raise
        return found

    def reaches_disk(path: Path) -> None:
        if is_it() and moment == ("named" if path.is_dir() else "written"):
            action()
        to_disk(path)

    files._locked_temporary, files._to_disk = locked_temporary, reaches_disk
    return written


def shorten_autoattack(plan: dict[str, Any]) -> None:
    """Here and in the helpers of this process."""
    from rwp.commands import workers
    from rwp.evaluation import autoattack
    from tests.evaluation.samples import ShortAutoAttack

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        words = command[command.index("rwp") + 1 :]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victim", json.dumps(plan), *words], **options
        )

    autoattack.AutoAttack = ShortAutoAttack
    workers.subprocess = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)  # type: ignore[assignment]


def plant(plan: dict[str, Any]) -> None:
    if plan.get("short_autoattack"):
        shorten_autoattack(plan)
    if "checkpoint_seconds" in plan:
        from rwp.training import resume

        resume.CHECKPOINT_SECONDS = plan["checkpoint_seconds"]
    if "kill_after_steps" in plan:
        number = plan.get("signal", signal.SIGKILL)
        plant_in_steps(plan["kill_after_steps"], plan.get("before", True), number)
    if "kill_at_write" in plan or "wait_at_write" in plan:

        def act() -> None:
            if "once" in plan:
                wait_for_file(plan["once"])
            if "kill_at_write" in plan:
                die()

        which = plan.get("kill_at_write", plan.get("wait_at_write"))
        plant_in_writes(which, plan["moment"], act)


def be_victim(plan: dict[str, Any], words: list[str]) -> None:
    """Plant what the plan says, and be `rwp WORDS`."""
    plant(plan)
    sys.argv = ["rwp", *words]
    main()


if __name__ == "__main__":
    be_victim(json.loads(sys.argv[1]), sys.argv[2:])
