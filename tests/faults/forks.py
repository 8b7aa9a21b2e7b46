"""Commands of ours as forks of a process that has imported the libraries.

They are processes of their own, which can be killed, and begin ten seconds of computing sooner than
those that a shell starts.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

_SERVER = multiprocessing.get_context("forkserver")


class Fork:
    """One command; to be used as `subprocess.Popen` is."""

    def __init__(
        self, folder: Path, words: list[str], plan: Mapping[str, Any], environment: dict[str, str]
    ) -> None:
        self.args = ["rwp", *words]
        self._said = tempfile.TemporaryDirectory(prefix="rwp-said-")
        self._files = tuple(Path(self._said.name) / name for name in ("out", "err"))
        for path in self._files:
            path.touch()
        _SERVER.set_forkserver_preload(["tests.faults.libraries"])
        self._process = _SERVER.Process(
            target=_be_command,
            args=(words, dict(plan), str(folder), environment, self._files),
            daemon=True,  # ends with the tests
        )
        with contextlib.chdir(ROOT):  # where the server finds this package
            self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to standard output and error, once it has ended."""
        self.wait(timeout)
        out, err = (path.read_text(encoding="utf-8") for path in self._files)
        return out, err


def _be_command(
    words: list[str],
    plan: dict[str, Any],
    folder: str,
    environment: dict[str, str],
    said: tuple[Path, Path],
) -> None:
    from tests.faults.victim import be_victim

    for number, path in enumerate(said, start=1):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    be_victim(plan, words)
