"""Functions run in several processes that meet over gloo, forked from one that has torch."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rwp.core.process_group import Group, Processes

# The last is what torch.optim imports when it is first used; not once more in each process.
_PRELOAD = ["rwp.training.jobs", "tests.training.test_distributed", "torch._dynamo"]


class Several(Group):
    """One of so many processes; what is summed or compared is that of this one alone."""

    def __init__(self, size: int, rank: int = 0) -> None:
        self.size, self.rank = size, rank


class Drifted(Several):
    """Another process has a larger check sum."""

    def largest(self, value: int) -> int:
        return value + 1


def _rank(
    function: Callable[..., Any], rank: int, size: int, meeting: Path, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}/store", rank=rank, world_size=size
    )
    result = function(Processes(), *arguments)
    torch.save(result, meeting / f"{rank}.pt")
    dist.destroy_process_group()


def run_ranks(function: Callable[..., Any], size: int, meeting: Path, *arguments: Any) -> list[Any]:
    """`function(group, *arguments)` in each process; what each returned, by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    meeting.mkdir()
    processes = [
        context.Process(target=_rank, args=(function, rank, size, meeting, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * size
    return [torch.load(meeting / f"{rank}.pt", weights_only=False) for rank in range(size)]


__all__ = ["Drifted", "Group", "Several", "run_ranks"]
