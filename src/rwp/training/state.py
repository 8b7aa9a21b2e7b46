"""The resume state of a training: where a killed job goes on, bit for bit on a CPU.

It lies outside the declared outputs, in a folder named after the run and its fingerprint: the
workflow engine deletes the declared outputs of a failed job, and another configuration of the
same run must not resume from it.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from rwp.core.group import ALONE, Group
from rwp.errors import UserError
from rwp.files import atomic_write, write_text
from rwp.training.recorder import Row

FORMAT = "rwp.state/1"
log = logging.getLogger("rwp.training")


class RunState:
    """The folder of one run's resume state; of a group of processes, the leading one uses it."""

    def __init__(self, folder: Path, group: Group = ALONE) -> None:
        self.folder, self.group = folder, group
        self.checkpoint = folder / "checkpoint.pt"
        self.previous = folder / "previous.pt"
        self.history_file = folder / "history.jsonl"

    def network(self, name: str, row: Row) -> Path:
        """The network after an epoch, waiting here until the run is done: best, epoch100."""
        return self.folder / f"{name}-{row['epoch']}.pt"

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
        """Replace the checkpoint in one move; the one before is kept, should this one be damaged.

        `content` holds the history too, so that the two can never disagree.
        """
        if not self.group.leads:
            return
        with atomic_write(self.checkpoint) as temporary:
            with temporary.open("wb") as stream:  # a full disk is an OSError on a stream alone
                torch.save({"format": FORMAT, **content}, stream)
            if self.checkpoint.exists():
                self.checkpoint.replace(self.previous)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last sound checkpoint, or none; one that cannot be used is named and set aside."""
        if self.group.size == 1:
            return self._load(device)
        # Not by way of a GPU: all of them would take the leading process's.
        return self.group.from_lead(lambda: self._load(torch.device("cpu")))

    def _load(self, device: torch.device) -> dict[str, Any] | None:
        for path in (self.checkpoint, self.previous):
            if not path.exists():
                continue
            content = _read(path, device)
            if content is not None:
                return content
            aside = path.with_suffix(".unreadable")
            path.replace(aside)
            log.warning(
                "%s: expected a checkpoint (%s), got a damaged file or one of another version;"
                " it lies in %s now, and the one before or the start is taken",
                path,
                FORMAT,
                aside.name,
            )
        return None

    def tidy(self, chosen: Mapping[str, Row]) -> None:
        """Remove chosen networks that neither the checkpoint nor the one before it names."""
        for name, row in chosen.items() if self.group.leads else ():
            found = {int(path.stem.rpartition("-")[2]): path for path in self._all(name)}
            older = sorted(epoch for epoch in found if epoch < row["epoch"])
            for epoch, path in found.items():
                if epoch != row["epoch"] and epoch not in older[-1:]:
                    path.unlink(missing_ok=True)

    def _all(self, name: str) -> list[Path]:
        return list(self.folder.glob(f"{name}-*.pt"))

    def remove(self) -> None:
        """Forget the run once its results lie in place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_history(path: Path, rows: list[Row]) -> None:
    """Write the history in one move; what is not finite becomes null."""
    write_text(path, "".join(_line(row) for row in rows))


def _read(path: Path, device: torch.device) -> dict[str, Any] | None:
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums and does not look at them
            if archive.testzip() is not None:
                return None
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception:  # a cut or foreign file: whatever torch makes of it
        return None
    usable = isinstance(content, dict) and content.pop("format", None) == FORMAT
    return content if usable else None


def _line(row: Row) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
