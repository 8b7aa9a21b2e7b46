"""The processes that train one network together; usually it is one alone.

Each process holds the same weights and its share of every batch. What is a sum over the batch is
summed over the processes, so that a step of n processes is the step of one on the whole batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
Number = TypeVar("Number", int, float, Tensor)


class Group:
    """One process alone: every method returns what it is given.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This process's share of a tensor with one row per example of the whole batch.

        Every n-th row, so that each share of a mixed batch is mixed alike.
        """
        return rows if self.size == 1 else rows[self.rank :: self.size].contiguous()

    def total(self, value: Number) -> Number:
        """The sum over the processes; of a tensor, gradients flow through it."""
        return value

    def gathered(self, rows: Tensor) -> Tensor:
        """The whole of what `part` gave each process its share of: the other way around."""
        if self.size == 1:
            return rows
        whole = rows.new_zeros((self.total(len(rows)), *rows.shape[1:]))
        whole[self.rank :: self.size] = rows
        return self.total(whole)

    def add_up_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes: one message for all of them."""

    def largest(self, value: int) -> int:
        """The largest value that any process gave."""
        return value

    def from_lead(self, make: Callable[[], T]) -> T:
        """What `make` returns in the leading process; it is called there alone."""
        return make()


ALONE = Group()


class GroupError(ConnectionError):
    """Another process of the group has gone."""


def has_lost_others(error: BaseException) -> bool:
    """Whether an error says that another process has gone: ours, or one of torch's own layers."""
    theirs = (dist.DistError,) if dist.is_available() else ()
    return isinstance(error, (GroupError, *theirs))


class Processes(Group):
    """The processes of torch.distributed, which has been initialized.

    Tensors travel by the backend of their device, numbers and objects by that of the CPU.

    Raises:
        GroupError: from every method, where another process has gone.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def total(self, value: Number) -> Number:
        """The sum over the processes; of a tensor, gradients flow through it."""
        if isinstance(value, Tensor):
            return _Total.apply(value, self)
        number = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
        return type(value)(self._reduced(number, dist.ReduceOp.SUM).item())

    def add_up_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes: one message for all of them."""
        flat = self._reduced(torch.cat([tensor.flatten() for tensor in tensors]), dist.ReduceOp.SUM)
        sizes = [tensor.numel() for tensor in tensors]
        with torch.no_grad():
            for tensor, values in zip(tensors, flat.split(sizes), strict=True):
                tensor.copy_(values.view(tensor.shape))

    def largest(self, value: int) -> int:
        """The largest value that any process gave."""
        return int(self._reduced(torch.tensor(value), dist.ReduceOp.MAX).item())

    def from_lead(self, make: Callable[[], T]) -> T:
        """What `make` returns in the leading process; it is called there alone."""
        box = [make() if self.leads else None]
        self._speak(dist.broadcast_object_list, box, src=0, device=torch.device("cpu"))
        return box[0]  # type: ignore[return-value]

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        self._speak(dist.all_reduce, tensor, op=operation)
        return tensor

    def _speak(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            call(*arguments, **options)
        except RuntimeError as error:  # all that gloo and NCCL raise
            raise GroupError(
                f"process {self.rank} of {self.size}: expected an answer from the others, got none "
                f"({str(error).splitlines()[0][:200]}); see why they stopped"
            ) from error


class _Total(torch.autograd.Function):
    """The sum over the processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Processes) -> Tensor:
        ctx.group = group
        copy = value.detach().clone(memory_format=torch.contiguous_format)
        return group._reduced(copy, dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        copy = gradient.clone(memory_format=torch.contiguous_format)
        return ctx.group._reduced(copy, dist.ReduceOp.SUM), None
