"""Several processes for one evaluation: they share AutoAttack's batches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rwp.processes import end_with_parent


@contextmanager
def helpers(count: int, words: Sequence[str]) -> Iterator[None]:
    """Run `rwp WORDS` in `count` further processes while the body does its own share.

    Each takes a GPU of its own where there are some, and as many CPU threads as this process. A
    helper that dies costs nothing but its help: what it was at, another one does. They end with
    this process, also where a signal ends it.
    """
    command = [sys.executable, "-m", "rwp", *words]
    started = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=end_with_parent)
        for _ in range(count)
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
