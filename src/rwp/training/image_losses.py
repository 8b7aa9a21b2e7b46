"""Every training image's losses and answers in every epoch: losses.npz of a run.

An image is looked at when its step comes, before the step is taken: as it is augmented there, with
and without the attack, at the weights w as they are (never at w + v), on the statistics of the
batch. So the losses of AT, AWP and RWP compare. It costs two forward passes of a step and changes
nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwp.core.losses import cross_entropy, full_precision
from rwp.core.modes import untracked_statistics
from rwp.core.process_group import ALONE, Group
from rwp.files import atomic_write

NUMBERS = ("clean_loss", "adversarial_loss")
ANSWERS = ("clean_correct", "adversarial_correct")
NAME = "losses.npz"


class ImageLosses:
    """What was seen of each labeled training image; `state` and `load` let it go on elsewhere."""

    def __init__(self, num_images: int, device: torch.device, group: Group = ALONE) -> None:
        self.num_images, self.device, self.group = num_images, device, group
        self.epochs: list[dict[str, Tensor]] = []  # on the CPU, in small types
        self._begin()

    def _begin(self) -> None:
        options: dict[str, Any] = {"dtype": torch.float32, "device": self.device}
        names = (*NUMBERS, *ANSWERS, "looks")
        self.now = {name: torch.zeros(self.num_images, **options) for name in names}

    @torch.no_grad()
    def look(
        self,
        model: Callable[[Tensor], Tensor],
        module: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        places: Tensor,
    ) -> None:
        """Note the losses of one step.

        Args:
            model: called on the images, compiled or not.
            module: the network behind it, whose running statistics stay as they are.
            images: (batch, channels, height, width), clean.
            adversarial: the same, attacked.
            labels: (batch,).
            places: of each image among all training images, (batch,); those beyond the labeled
                ones are left out.
        """
        with untracked_statistics(module):
            pairs = [full_precision(model(part)) for part in (images, adversarial)]
        mine = places < self.num_images
        slots = places.clamp_max(self.num_images - 1)
        for loss, answer, logits in zip(NUMBERS, ANSWERS, pairs, strict=True):
            losses = torch.where(mine, cross_entropy(logits, labels), 0.0)
            self.now[loss].index_add_(0, slots, losses.float())
            self.now[answer].index_add_(0, slots, (mine & (logits.argmax(1) == labels)).float())
        self.now["looks"].index_add_(0, slots, mine.float())

    def finish_epoch(self) -> None:
        """Put the epoch away.

        An image that no step of it had is NaN, and not correct. One that several steps had (an
        epoch of RST may be longer than its labeled images) has the mean of its losses, and is
        correct where each of them met it so.
        """
        found = self._together()
        looks = found.pop("looks")
        row = {name: (found[name] / looks).half().cpu() for name in NUMBERS}
        row |= {name: ((found[name] == looks) & (looks > 0)).cpu() for name in ANSWERS}
        self.epochs.append(row)
        self._begin()

    def _together(self) -> dict[str, Tensor]:
        return {name: self.group.total(values) for name, values in self.now.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint: of all processes together."""
        return {"epochs": list(self.epochs), "now": self._together()}

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint; the leading process takes over the epoch that is under way."""
        self.epochs = [{n: v.cpu() for n, v in row.items()} for row in state["epochs"]]
        mine = float(self.group.leads)
        self.now = {name: value.to(self.device) * mine for name, value in state["now"].items()}

    def write(self, path: Path, *, places: Tensor, labels: Tensor) -> None:
        """Write losses.npz in one move; the same losses give the same bytes.

        Arrays: the losses (epochs, images) in nats as 16-bit floats, the answers (epochs, images)
        as booleans, `image` (images,), the place of each in the fetched train.pt, and `label`.
        """
        arrays: dict[str, Any] = {"image": places.numpy().astype(np.int32)}
        arrays["label"] = labels.cpu().numpy().astype(np.int16)
        for name in (*NUMBERS, *ANSWERS):
            rows = [row[name].numpy() for row in self.epochs]
            arrays[name] = np.stack(rows) if rows else np.empty((0, self.num_images))
        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)


def read_losses(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of losses.npz by name."""
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}
