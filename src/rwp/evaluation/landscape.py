"""The loss around a run's checkpoints along random directions of the weights (Figure 2, Eq. 8)."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwp.core.attacks import pgd
from rwp.core.landscape import filter_normalized_direction, weight_loss_landscape
from rwp.core.losses import cross_entropy
from rwp.core.lsc import loss_groups
from rwp.core.precision import precision_context
from rwp.data.images import ImageSet
from rwp.data.parts import Part, take_part
from rwp.data.splits import training_split
from rwp.evaluation.clean import batch_of, borrowed, checked_logits
from rwp.evaluation.spec import LandscapeSpec
from rwp.files import write_json, write_text
from rwp.rng import generator_for
from rwp.training.checkpoint import load_network
from rwp.training.spec import RunKey, kept_checkpoint

FORMAT = "rwp.landscape/1"
COLUMNS = ("seed", "split", "epoch", "group", "offset", "loss", "change", "num_examples")


def measure_landscape(
    spec: LandscapeSpec,
    *,
    root: Path,
    fingerprint: str,
    output: Path,
    device: torch.device | str = "cpu",
) -> Path:
    """Attack images once per checkpoint and measure their loss around it.

    The images are those that the run was trained on, without augmentation, and where the settings
    say so as many of the test images; each checkpoint has its own adversarial images, fixed while
    its weights move, and its own groups.

    Args:
        spec: what to measure.
        root: the project's folder.
        fingerprint: goes into the JSON file beside the losses.
        output: the CSV file: seed of the run, split ("train", "test"), epochs done, loss group in
            nats, offset mu along the direction, mean loss in nats over the group and all
            directions, its change from mu = 0, and the number of images in the group. An empty
            group has no rows.
        device: where to run.

    Raises:
        UserError: a missing or damaged file.
    """
    started = time.monotonic()
    rows, parts = [], {}
    for key in spec.keys:
        for split, (images, part) in _images(spec, key, root).items():
            parts[f"{split} of seed {key.seed}"] = part.identity()
            rows += [
                {"seed": key.seed, "split": split, "epoch": epoch, **row}
                for epoch in spec.epochs
                for row in _around(spec, _network(key, root, epoch, device), images, device)
            ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(output, stream.getvalue())
    record = {"format": FORMAT, "fingerprint": fingerprint, "spec": spec.document()}
    more = {"parts": parts, "seconds": round(time.monotonic() - started, 3)}
    write_json(output.with_suffix(".json"), record | more)
    return output


def _images(spec: LandscapeSpec, key: RunKey, root: Path) -> dict[str, tuple[ImageSet, Part]]:
    """What a run was trained on, and as many test images where they are asked for."""
    folder = root / "data" / key.dataset
    images = ImageSet.load(folder / "train.pt")
    kept, _ = training_split(
        images.labels,
        held_out_fraction=spec.held_out_fraction,
        per_class=spec.data.per_class,
        seed=key.seed,
        where=f"datasets.{key.dataset}.per_class",
    )
    counts = {"train": spec.num_examples}
    sets = {"train": images.select(kept)}
    if spec.test_images:
        sets["test"] = ImageSet.load(folder / "test.pt")
        counts["test"] = min(spec.num_examples or len(kept), len(kept), len(sets["test"]))
    return {
        split: take_part(
            found, num_examples=counts[split], seed=spec.part_seed, source=folder / f"{split}.pt"
        )
        for split, found in sets.items()
    }


def _network(key: RunKey, root: Path, epoch: int, device: torch.device | str) -> nn.Module:
    return load_network(root / kept_checkpoint(key, epoch), device=device)[0]


def _around(
    spec: LandscapeSpec, model: nn.Module, images: ImageSet, device: torch.device | str
) -> Iterator[dict[str, Any]]:
    """The rows of one checkpoint."""
    adversarial, labels, losses = _attacked(spec, model, images, device)
    groups = loss_groups(losses, spec.edges)
    ranges = list(pairwise(spec.edges))
    counts = torch.bincount(groups[groups >= 0], minlength=len(ranges)).tolist()
    offsets = torch.linspace(-spec.radius, spec.radius, spec.num_points).tolist()
    scales = [0.0, *offsets]  # the first is the checkpoint itself
    total = torch.zeros(len(scales), len(ranges), dtype=torch.float64)
    for number in range(spec.num_directions):
        generator = generator_for(spec.seed, "direction", number)
        direction = filter_normalized_direction(model, generator=generator)
        with precision_context("fp32", device):  # as the losses that made the groups
            found = weight_loss_landscape(
                model,
                adversarial,
                labels,
                groups,
                num_groups=len(ranges),
                direction=direction,
                scales=scales,
                batch_size=spec.batch_size,
            )
        total += found.double().cpu()
    mean = total / spec.num_directions
    for group, (low, high) in enumerate(ranges):
        for place, offset in enumerate(offsets if counts[group] else (), start=1):
            yield {
                "group": f"{low:g}-{high:g}",
                "offset": round(offset, 6),
                "loss": round(float(mean[place, group]), 6),
                "change": round(float(mean[place, group] - mean[0, group]), 6),
                "num_examples": counts[group],
            }


def _attacked(
    spec: LandscapeSpec, model: nn.Module, images: ImageSet, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor]:
    """Adversarial images, labels and losses, on the device."""
    attack, parts = spec.attack, []
    with borrowed(model, device):
        for place, start in enumerate(range(0, len(images), spec.batch_size)):
            batch, labels = batch_of(images, start, spec.batch_size, device)
            adversarial = pgd(
                model,
                batch,
                labels,
                threat=attack.threat.model,
                step_size=attack.step,
                num_steps=attack.num_steps or 0,
                generator=generator_for(spec.seed, "landscape", place),
                random_start=attack.random_start or "uniform",
                bn_mode="eval",
            )
            losses = cross_entropy(checked_logits(model, adversarial, labels), labels)
            parts.append((adversarial, labels, losses))
    adversarial, labels, losses = (torch.cat(part) for part in zip(*parts, strict=True))
    return adversarial, labels, losses
