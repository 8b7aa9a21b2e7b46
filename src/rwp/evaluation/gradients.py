"""Images for which an attack had no gradient to follow, counted while it runs.

A NaN or zero gradient stops PGD, APGD and FAB without a word, and the network looks robust. Our
own attacks count by `rwp.core.gradient_tally`; here is what counts for the authors' package.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwp.evaluation.records import Flags, GradientRecord

_MANY = 0.01  # share of the images that may have no gradient and still count as robust


def gradient_record(
    robust: Flags, *, not_finite: Flags, zero: Flags, images: int
) -> GradientRecord:
    """Counts over the images attacked; `blind` ones count as robust, but may not be."""
    return GradientRecord(
        images=images,
        not_finite=int(not_finite.sum()),
        zero=int(zero.sum()),
        blind_not_finite=int((robust & not_finite).sum()),
        blind_zero=int((robust & zero & ~not_finite).sum()),
    )


def gradient_warnings(found: GradientRecord | None) -> tuple[str, ...]:
    """What a reader of the number has to know: where the missing gradients matter."""
    notes = []
    if found is not None and found.blind_not_finite:
        notes.append(
            f"the gradient was not finite at {found.not_finite} of {found.images} images, of which "
            f"{found.blind_not_finite} count as robust: the attack was blind there, so the number "
            "is too high; mend the model's backward pass"
        )
    if found is not None and found.blind_zero > _MANY * found.images:
        notes.append(
            f"the gradient was zero in every step at {found.zero} of {found.images} images, of "
            f"which {found.blind_zero} count as robust: the attack was blind there, so the number "
            "is too high; attack without gradients, or through a smooth stand-in"
        )
    return tuple(notes)


class WatchedModel(nn.Module):
    """A model that counts the images of a batch whose gradient says nothing.

    What is not finite becomes zero on its way back, so that an attack goes on with the rest; a
    gradient that is finite passes bit for bit.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._places: dict[bytes, list[int]] = {}
        self._rows: Tensor | None = None
        self._not_finite = self._nonzero = torch.zeros(0, dtype=torch.bool)

    def forward(self, images: Tensor) -> Tensor:
        """Logits; a backward pass through them is looked at."""
        if self._rows is None or not (torch.is_grad_enabled() and images.requires_grad):
            return self.model(images)
        seen = images.view_as(images)
        seen.register_hook(self._look)
        return self.model(seen)

    def _look(self, gradient: Tensor) -> Tensor:
        largest = gradient.detach().abs().flatten(1).amax(dim=1)
        rows = self._rows
        if rows is not None and len(rows) == len(largest):
            self._not_finite[rows] |= ~largest.isfinite()
            self._nonzero[rows] |= largest != 0  # also where it is NaN
        return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)

    @contextmanager
    def batch(self, images: Tensor) -> Iterator[None]:
        """Count the images of this batch inside."""
        self._places = defaultdict(list)
        for place, key in enumerate(_keys(images)):
            self._places[key].append(place)
        self._not_finite = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._nonzero = torch.zeros_like(self._not_finite)
        try:
            yield
        finally:
            self._rows = None

    def following(self, run: Callable[..., Any], *, only_right: bool) -> Callable[..., Any]:
        """An attack's `attack_single_run(x, y, ...)`, which takes some images of the batch.

        With `only_right` the attack drops those that are misclassified, as FAB does.
        """

        def followed(images: Tensor, labels: Tensor, *given: Any, **options: Any) -> Any:
            remaining = {key: list(places) for key, places in self._places.items()}
            rows = torch.tensor([remaining[key].pop(0) for key in _keys(images)])
            self._rows = rows.to(images.device)
            if only_right:
                with torch.no_grad():
                    self._rows = self._rows[self.model(images).argmax(dim=1) == labels]
            return run(images, labels, *given, **options)

        return followed

    def counted(self) -> tuple[Flags, Flags]:
        """Per image of the batch: a gradient was not finite, and one was not zero."""
        return self._not_finite.cpu().numpy(), self._nonzero.cpu().numpy()


def _keys(images: Tensor) -> list[bytes]:
    rows: np.ndarray = images.detach().cpu().flatten(1).numpy()
    return [row.tobytes() for row in rows]
