"""Stands in for filelock where it is not installed: a lock that ends with its process."""

import fcntl
import os
import time
from typing import Any


class Timeout(TimeoutError):  # noqa: N818 (the package's name)
    """The lock is held by another process."""


class FileLock:
    """As that of the package, as far as it is used here."""

    def __init__(self, path: Any, timeout: float = -1) -> None:
        self._path, self._timeout, self._file, self._depth = os.fspath(path), timeout, -1, 0

    @property
    def is_locked(self) -> bool:
        """Whether this object holds it."""
        return self._depth > 0

    def acquire(self, timeout: float | None = None, **_: Any) -> "FileLock":
        """Take it; a negative timeout waits without end."""
        if self._depth == 0:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            self._wait(self._timeout if timeout is None else timeout)
        self._depth += 1
        return self

    def _wait(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if timeout >= 0 and time.monotonic() >= until:
                    os.close(self._file)
                    raise Timeout(self._path) from None
                time.sleep(0.05)

    def release(self, **_: Any) -> None:
        """Give it back."""
        self._depth = max(0, self._depth - 1)
        if self._depth == 0 and self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "FileLock":
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
