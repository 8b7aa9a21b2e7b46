"""Several processes for one training: starting them on this machine, and meeting the others.

torchrun, or `launch`, tells each process its number by environment variables.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rwp.errors import UserError

if TYPE_CHECKING:
    from rwp.core.process_group import Group

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def launched() -> bool:
    """Whether this is one of several processes that torchrun or `launch` started.

    Raises:
        UserError: the variables by which they find each other are not torchrun's.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    rank, size, _ = (_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if not os.environ.get("MASTER_ADDR"):
        raise _not_of_torchrun("MASTER_ADDR")
    if rank >= size:
        raise UserError(
            f"RANK: expected a number below WORLD_SIZE ({size}), got {rank}; start the processes "
            "with torchrun or --gpus"
        )
    return True


def _number(name: str) -> int:
    """One of the numbers that torchrun tells a process."""
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise _not_of_torchrun(name)
    return int(value)


def _not_of_torchrun(name: str) -> UserError:
    value = os.environ.get(name)
    return UserError(
        f"{name}: expected what torchrun sets beside RANK and WORLD_SIZE, got "
        f"{'nothing' if value is None else repr(value)}; unset RANK and WORLD_SIZE for one "
        "process, or start several with torchrun or --gpus"
    )


def launch(count: int, words: Sequence[str]) -> int:
    """Run `rwp WORDS` in `count` processes on this machine, as torchrun does.

    A signal to this process reaches all of them.

    Returns:
        0, or the exit code of the process that failed first; 143 after SIGTERM or Ctrl-C, upon
        which all have saved.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the processes tell it
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "rwp", *words)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        sys.stderr.write(
            f"error: process {rank} of {count}: expected it to finish, it was killed by signal"
            f" {-failure.exitcode}; look for the reason (memory?), and run the same command again\n"
        )
        return 128 - failure.exitcode
    except SignalException as stopped:
        asked = stopped.sigval in (signal.SIGINT, signal.SIGTERM)
        return 128 + (signal.SIGTERM if asked else stopped.sigval)
    return 0


@contextmanager
def join() -> Iterator[tuple[Group, str]]:
    """Meet the other processes; yields the group and the device of this one.

    Raises:
        UserError: there are more processes on this machine than GPUs.
    """
    import torch
    import torch.distributed as dist

    from rwp.core.process_group import Processes

    end_with_parent()
    device, backend = "cpu", "gloo"
    if torch.cuda.is_available():
        local, here = _number("LOCAL_RANK"), _number("LOCAL_WORLD_SIZE")
        if here > torch.cuda.device_count():
            raise UserError(
                f"torchrun: expected at most {torch.cuda.device_count()} processes, one per"
                f" visible GPU, got {here}; lower --nproc-per-node"
            )
        torch.cuda.set_device(local)
        device, backend = f"cuda:{local}", "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    yield Processes(), device
    dist.destroy_process_group()  # not after a failure: it would wait for those that have gone


def end_with_parent() -> None:
    """Be asked to stop when the launcher is killed: nobody else would tell."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
