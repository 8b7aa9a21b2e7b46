"""Several processes for one evaluation: they divide AutoAttack's batches between them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def helpers(count: int, words: Sequence[str]) -> Iterator[None]:
    """Run `rwp WORDS` in `count` further processes while the body does its own share.

    Each takes a GPU of its own where there are some. Where there are none, all together use the
    processors that one would use. A helper that dies costs nothing but its help: what it was
    at, another one does.
    """
    environment = dict(os.environ)
    if count:
        threads = str(max(1, (os.cpu_count() or 1) // (count + 1)))
        # Read by torch when it is imported, here too.
        environment["OMP_NUM_THREADS"] = os.environ.setdefault("OMP_NUM_THREADS", threads)
    command = [sys.executable, "-m", "rwp", *words]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(count)
    ]
    try:
        yield
    except BaseException:
        for process in started:
            process.terminate()
        raise
    finally:
        for process in started:
            process.wait()
