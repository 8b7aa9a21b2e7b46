"""`rwp watch`: what runs now."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

_BARS = "▁▂▃▄▅▆▇█"
_SILENT_SECONDS = 900.0  # after which nobody can tell whether a process elsewhere lives


def watch(
    follow: Annotated[
        bool, typer.Option("--follow", help="Show it again every five seconds, until Ctrl-C.")
    ] = False,
) -> None:
    """Show the trainings and evaluations that run now: by whom, how far, how long still.

    It reads what they say of themselves in .state/running, of all machines that share this
    folder, and changes nothing.
    """
    while True:
        lines = [_line(content) for content in running()]
        print("\n".join(lines) or _nothing(), flush=True)
        if not follow:
            return
        time.sleep(5)
        print()


def _nothing() -> str:
    if not any(Path(".snakemake/locks").glob("*")):
        return "nothing runs here"
    return (
        "nothing runs here yet: Snakemake holds this folder, and its jobs show once they have "
        "loaded torch; if it was killed, `snakemake --unlock`"
    )


def running(folder: Path | None = None) -> Iterator[dict[str, Any]]:
    """What processes say of themselves, those that ended without a word left out."""
    from rwp.progress import RUNNING

    for path in sorted((folder or RUNNING).glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # it ends just now
        try:
            if isinstance(content, dict) and _lives(content):
                _line(content)
                yield content
        except (TypeError, ValueError, OverflowError):
            continue  # written by no process of ours


def _lives(content: dict[str, Any]) -> bool:
    if content.get("host") != socket.gethostname():
        return time.time() - float(content.get("at", 0)) < _SILENT_SECONDS
    try:
        os.kill(int(content.get("pid", 0)), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def _sparkline(values: Sequence[float]) -> str:
    """One bar per epoch, from the lowest to the highest; empty where it cannot be shown."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low == high or not _can_print(_BARS):
        return ""
    heights = [round((value - low) / (high - low) * (len(_BARS) - 1)) for value in values]
    return "".join(_BARS[height] for height in heights) + " "


def _can_print(text: str) -> bool:
    """Whether standard output has the signs of a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _line(content: dict[str, Any]) -> str:
    from rwp.progress import time_left

    done, total = content.get("done"), content.get("total")
    far = "starting"
    if done is not None and total:
        part = f"{content['part']} " if content.get("part") else ""
        share = f" ({100 * float(done) / float(total):.0f} %)"
        far = f"{part}{content.get('unit', '')} {float(done):g}/{total}{share}"
    parts = [f"{content.get('kind')} {content.get('name')}", far]
    if content.get("left") is not None:
        parts.append(time_left(float(content["left"])))
    if content.get("robust_accuracy") is not None:
        curve = _sparkline([float(value) for value in content.get("curve", ())])
        parts.append(f"robust accuracy {curve}{100 * float(content['robust_accuracy']):.1f} %")
    parts.append(f"{content.get('by')}, {content.get('host')}, process {content.get('pid')}")
    silent = time.time() - float(content.get("at", 0))
    if silent > 60:
        parts.append(f"last heard of {silent / 60:.0f} min ago")
    return "  ".join(parts)
