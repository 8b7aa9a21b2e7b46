"""One of our commands with a fault planted in it: python -m tests.faults.victim PLAN COMMAND...

PLAN is JSON. {"kill_after_steps": 7} ends the process by SIGKILL at the seventh training step
from its start, {"kill_at_write": 3, "moment": "begun"} at its third file: "begun" is an empty
temporary, "written" one that only lacks its name, "named" the file in place.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rwp import files
from rwp.commands.app import main


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def plant_in_steps(count: int, before: bool) -> None:
    from rwp.training.loop import Training

    original, left = Training._step, count

    def step(self: Training, batch: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0 and before:
            die()
        original(self, batch)
        if left == 0:
            die()

    Training._step = step  # type: ignore[method-assign]


def plant_in_writes(number: int, moment: str, action: Callable[[], None]) -> list[str]:
    """Run `action` at a moment of the number-th write (from 1); returns the list of writes."""
    begin, to_disk = files._locked_temporary, files._to_disk
    written: list[str] = []

    def locked_temporary(target: Path) -> tuple[int, Path]:
        found = begin(target)
        written.append(target.name)
        if len(written) == number and moment == "begun":
            try:
                action()
            except OSError:
                os.close(found[0])
                found[1].unlink()
                raise
        return found

    def reaches_disk(path: Path) -> None:
        if len(written) == number and moment == ("named" if path.is_dir() else "written"):
            action()
        to_disk(path)

    files._locked_temporary, files._to_disk = locked_temporary, reaches_disk
    return written


def plant(plan: dict[str, Any]) -> None:
    if "checkpoint_seconds" in plan:
        from rwp.training import resume

        resume.CHECKPOINT_SECONDS = plan["checkpoint_seconds"]
    if "kill_after_steps" in plan:
        plant_in_steps(plan["kill_after_steps"], plan.get("before", True))
    if "kill_at_write" in plan:
        plant_in_writes(plan["kill_at_write"], plan["moment"], die)


if __name__ == "__main__":
    plant(json.loads(sys.argv[1]))
    sys.argv = ["rwp", *sys.argv[2:]]
    main()
