"""Clean and robust accuracy of the network as it is, measured after an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from rwp.core.attacks import pgd
from rwp.core.gradient_tally import GradientTally
from rwp.core.modes import batch_norm_mode, evaluation_mode
from rwp.core.process_group import ALONE, Group
from rwp.data.images import ImageSet
from rwp.data.transfer import images_of
from rwp.training.spec import AttackSpec

_BATCH = 512  # images are independent in eval mode, so the size changes no result beyond rounding
_VALUES = _BATCH * 3 * 32 * 32  # of a batch of larger images, where training takes fewer at once


def measure(
    model: nn.Module,
    split: ImageSet,
    attack: AttackSpec | None,
    *,
    generator: Callable[[int], torch.Generator],
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
    trained_at_once: int = 1,
    group: Group = ALONE,
    after_batch: Callable[[], None] = lambda: None,
    one_shape: bool | None = None,
) -> dict[str, float]:
    """Shares of correctly classified images, before and after the attack.

    Images that are wrong without an attack count as not robust. Of those that count as robust
    `blind_share`, where there are any, is how many of all gave the attack no gradient to follow.
    The processes of a group take turns at the batches. The caller names the precision: this runs
    in the one it finds.

    Args:
        model: called as it is, compiled or not; its modes are put back.
        split: the images.
        attack: none where clean accuracy is all that is asked for.
        generator: `generator(i)` gives the randomness of batch i.
        device: where the model is.
        memory_format: of the images.
        trained_at_once: the batch size of the training, which fits into memory: that of large
            images, where 512 might not.
        group: the processes that share the batches.
        after_batch: may raise, to leave early.
        one_shape: attack the images that are wrong already, too, in batches of one size; nothing
            is read back before the end. Otherwise they are left out, which needs a look at each
            batch. None: on everything but a CPU.
    """
    one_shape = device.type != "cpu" if one_shape is None else one_shape
    counts = torch.zeros(3, dtype=torch.int64, device=device)  # clean, robust, blind
    with evaluation_mode(model):
        size = batch_size(split, trained_at_once)
        batches = _batches(len(split), size, one_shape=one_shape)
        for index, (rows, fresh) in enumerate(batches):
            if index % group.size != group.rank:
                continue
            images = images_of(split.images[rows], device, memory_format)
            labels = split.labels[rows].to(device)
            correct = _correct(model, images, labels)
            counts[0] += correct[fresh].sum()
            if attack is not None:
                if not one_shape:
                    images, labels = images[correct], labels[correct]
                if len(labels):
                    seen = GradientTally()
                    adversarial = _attacked(model, images, labels, attack, generator(index), seen)
                    robust = _correct(model, adversarial, labels)
                    if one_shape:
                        robust &= correct
                    counts[1] += robust[fresh].sum()
                    counts[2] += (robust & (seen.not_finite | seen.zero))[fresh].sum()
            after_batch()
    clean, robust_count, blind = group.total(counts).tolist()
    shares = {"clean_accuracy": clean / len(split)}
    if attack is not None:
        shares["robust_accuracy"] = robust_count / len(split)
    if blind:
        shares["blind_share"] = blind / len(split)
    return shares


def batch_size(split: ImageSet, trained_at_once: int) -> int:
    """How many images to measure at once: 512 of up to 3x32x32."""
    fits = _VALUES // split.images[:1].numel() if len(split) else _BATCH
    return min(_BATCH, max(fits, trained_at_once))


def _batches(size: int, batch: int, *, one_shape: bool) -> Iterator[tuple[slice, slice]]:
    """The rows of each batch, and which of them no batch before had.

    Of one shape, the last batch reaches back for as many images as it lacks.
    """
    for start in range(0, size, batch):
        stop = min(start + batch, size)
        first = max(0, stop - batch) if one_shape else start
        yield slice(first, stop), slice(start - first, None)


def _attacked(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: AttackSpec,
    generator: torch.Generator,
    seen: GradientTally,
) -> Tensor:
    return pgd(
        model,
        images,
        labels,
        threat=attack.threat.model,
        step_size=attack.step,
        num_steps=attack.num_steps or 0,
        generator=generator,
        random_start=attack.random_start or "uniform",
        bn_mode="eval",
        keep=attack.keep,
        gradients=seen,
        check_inputs=False,  # bytes as images are in [0, 1], and a training checks its labels
    )


@torch.no_grad()
def _correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with batch_norm_mode(model, "eval"):
        return model(images).argmax(1) == labels
