"""The resume state of a training: where a killed job goes on, bit for bit on a CPU.

It lies outside the declared outputs, in a folder named after the run and its fingerprint: the
workflow engine deletes the declared outputs of a failed job, and another configuration of the
same run must not resume from it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from rwp.core.group import ALONE, Group
from rwp.errors import UserError
from rwp.files import atomic_write, write_text
from rwp.training.recorder import Row


class RunState:
    """The folder of one run's resume state; of a group of processes, the leading one uses it."""

    def __init__(self, folder: Path, group: Group = ALONE) -> None:
        self.folder, self.group = folder, group
        self.checkpoint = folder / "checkpoint.pt"
        self.history_file = folder / "history.jsonl"

    def network(self, name: str) -> Path:
        """A network that waits here until the run is done: best, best_on_test, epoch100."""
        return self.folder / f"{name}.pt"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second process on the same run is refused.

        Raises:
            UserError: another process holds it.
        """
        if not self.group.leads:
            yield
            return
        lock = FileLock(self.folder.parent / f"{self.folder.name}.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"{self.folder}: expected to train this run alone, found another process at it;"
                f" wait for it or stop it"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def save(self, content: dict[str, Any]) -> None:
        """Replace the checkpoint in one move."""
        if not self.group.leads:
            return
        with atomic_write(self.checkpoint) as temporary:
            torch.save(content, temporary)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last checkpoint, or none; an unreadable one is set aside, not used."""
        if self.group.size == 1:
            return self._load(device)
        # Not by way of a GPU: all of them would take the leading process's.
        return self.group.from_lead(lambda: self._load(torch.device("cpu")))

    def _load(self, device: torch.device) -> dict[str, Any] | None:
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location=device, weights_only=True)
        except Exception:  # a cut or foreign file: whatever torch makes of it
            self.checkpoint.replace(self.checkpoint.with_suffix(".unreadable"))
            return None

    def write_history(self, rows: list[Row]) -> None:
        """Write the history in one move; what is not finite becomes null."""
        if self.group.leads:
            write_text(self.history_file, "".join(_line(row) for row in rows))

    def read_history(self, before_epoch: int) -> list[Row]:
        """The rows of the epochs that are finished, without a line that was cut."""
        return self.group.from_lead(lambda: self._read_history(before_epoch))

    def _read_history(self, before_epoch: int) -> list[Row]:
        rows: list[Row] = []
        if self.history_file.exists():
            for line in self.history_file.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return [row for row in rows if row["epoch"] < before_epoch]

    def remove(self) -> None:
        """Forget the run once its results lie in place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _line(row: Row) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
