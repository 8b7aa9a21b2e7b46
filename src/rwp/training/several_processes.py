"""What several processes cannot do together, and whether they still agree.

A step of n processes is that of one on the whole batch. What cannot keep to that is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rwp.core.modes import own_modes, untracked_statistics
from rwp.core.objectives import ExampleLosses, Objective
from rwp.core.precision import precision_context
from rwp.core.process_group import Group
from rwp.data.transfer import images_of
from rwp.errors import UserError
from rwp.factories import is_own
from rwp.streams import kept_streams
from rwp.training.batches import Batches
from rwp.training.own import Memory
from rwp.training.recipe import memory_format_of, objective_of
from rwp.training.spec import TrainSpec

_TOLERANCE = 1e-3  # of a loss; batches of other sizes round otherwise


def check_group(spec: TrainSpec, model: nn.Module, batches: Batches, group: Group) -> None:
    """Refuse what several processes cannot do, and a number of them that the settings exclude.

    Raises:
        UserError: a batch has fewer images than there are processes; a compiled network; statistics
            of shares in another number of processes; own code that needs the whole batch.
    """
    name, expected = spec.key.name, spec.optimization.processes or 1
    if spec.optimization.batch_statistics == "share" and group.size != expected:
        raise UserError(
            f"{name}: expected {expected} processes, as `gpus` says, since with batch_statistics:"
            f" share their number is part of the method, got {group.size}; give --gpus {expected}"
            f" (on a CPU: torchrun --nproc-per-node {expected} -m rwp train), or change gpus"
        )
    if group.size == 1:
        return
    smallest = batches.smallest()
    if smallest < group.size:
        raise UserError(
            f"{name}: expected at most {smallest} processes, as many as the smallest batch"
            f" has images, got {group.size}; use fewer GPUs"
        )
    if spec.perturbation is not None and spec.perturbation.factory is not None:
        raise UserError(
            f"{name}: expected one GPU with {spec.perturbation.factory}, which sees a "
            f"share of the batch alone, got {group.size}; use one"
        )
    if spec.optimization.compile != "off":
        raise UserError(
            f"{name}: expected training.compile off with several GPUs, got"
            f" {spec.optimization.compile}; turn one of them off"
        )
    if is_own(spec.objective.loss):
        _check_losses_of_shares(spec, model, batches, group)


def check_layers(spec: TrainSpec, model: nn.Module, group: Group) -> None:
    """Refuse batch normalization of the user's own, which others would stand in for.

    Raises:
        UserError: the network has such a layer, and its statistics are to be of all processes.
    """
    if group.size == 1 or spec.optimization.batch_statistics != "batch":
        return
    for name, layer in model.named_modules():
        kind = type(layer)
        if isinstance(layer, _BatchNorm) and not kind.__module__.startswith("torch."):
            raise UserError(
                f"{spec.key.name}: expected batch normalization of torch with several GPUs, whose "
                f"layers take their statistics over all of them, got {kind.__name__} at {name}; "
                "train on one GPU"
            )


def _check_losses_of_shares(
    spec: TrainSpec, model: nn.Module, batches: Batches, group: Group
) -> None:
    """Refuse an objective whose loss of an image depends on the others of its batch.

    It is asked for the losses of a few images, together and share by share. Where it draws, so that
    a share's losses are others when asked again, or where the network's own outputs depend on the
    batch, that cannot be told. The objective is one made for this, so that the training's remembers
    nothing of it.
    """
    objective = objective_of(spec, batches.num_classes)
    refuse_shared_memory(objective, group)
    inner = getattr(objective, "inner", None)
    if isinstance(inner, nn.Module):
        inner.to(batches.device)
    batch = batches.load(batches.plan(0)[0])
    count = 3 * group.size
    labels, device = batch.labels[:count], batches.device
    images = images_of(batch.images[:count], device, memory_format_of(spec, device))

    def losses(images: Tensor, labels: Tensor) -> ExampleLosses:
        return objective.losses(model, images, images, labels)

    with (
        own_modes(model),
        untracked_statistics(model),
        kept_streams(device),
        precision_context("fp32", device),
    ):
        model.eval()  # batch normalization has its own way to see the whole batch
        logits = group.part(model(images)), model(group.part(images))
        together = losses(images, labels)
        alone, again = (losses(group.part(images), group.part(labels)) for _ in range(2))
    share = ExampleLosses(*map(group.part, together))
    cannot_tell = _differ(logits) or _differ(*_pairs(again, alone))
    found = [group.largest(int(one)) for one in (_differ(*_pairs(share, alone)), cannot_tell)]
    if found == [1, 0]:
        raise UserError(
            f"{spec.key.name}: expected {spec.objective.loss} to give each image its loss whatever"
            f" else is in the batch, as each of {group.size} GPUs sees a share of it, got others by"
            " share; train it on one GPU"
        )


def _pairs(losses: ExampleLosses, others: ExampleLosses) -> list[tuple[Tensor, Tensor]]:
    return [(losses.objective, others.objective), (losses.criterion, others.criterion)]


def _differ(*pairs: tuple[Tensor, Tensor]) -> bool:
    return not all(
        torch.allclose(
            one.detach().float(),
            other.detach().float(),
            rtol=_TOLERANCE,
            atol=_TOLERANCE,
            equal_nan=True,
        )
        for one, other in pairs
    )


def refuse_shared_memory(objective: Objective, group: Group) -> None:
    """An objective that remembers would remember other images in each of several processes.

    Raises:
        UserError: it has a state.
    """
    memory = Memory.of(objective)
    if memory is not None and group.size > 1 and memory.inner.state_dict():
        raise UserError(
            f"{memory.name}: expected an objective without state_dict in {group.size} processes, "
            "each of which sees a share of the images; train it on one GPU"
        )


def check_same_weights(model: nn.Module, group: Group, *, name: str) -> None:
    """Check that all processes have the same weights, as one of them writes for all.

    The check sums are of integers, the same in whatever order a device adds them up.

    Raises:
        UserError: the weights differ, or what a layer keeps beside them.
    """
    if group.size == 1:
        return
    if not _same(model.parameters(), group):
        raise UserError(
            f"{name}: expected the same weights in all {group.size} processes, got different ones;"
            f" do all run the same version? if so, one of the devices computes wrongly"
        )
    if not _same(model.buffers(), group):
        others = [key for key, buffer in model.named_buffers() if not _same([buffer], group)]
        raise UserError(
            f"{name}: expected the same buffers in all {group.size} processes, got different ones"
            f" of {', '.join(others[:3])}, which follow the images that each process sees; train"
            " this network on one GPU"
        )


def _same(tensors: Iterable[Tensor], group: Group) -> bool:
    total = sum(_check_sum(tensor.detach()) for tensor in tensors)
    return (group.largest(total), group.largest(-total)) == (total, -total)


def _check_sum(values: Tensor) -> int:
    if values.layout != torch.strided:
        values = values.to_dense()
    whole = torch.int32 if values.element_size() % 4 == 0 else torch.uint8
    bits = values.reshape(-1).view(whole)
    return int(bits.sum(dtype=torch.int64))
