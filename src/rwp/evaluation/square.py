"""Square Attack (Andriushchenko et al., 2020) under L-inf, each image at its own pace.

The attack changes one window of an image per query and keeps the change if it lowers the margin.
Its windows and signs are drawn in advance and are the same for all images of a batch. So an image
can pass over the queries that cannot help it, without waiting for the others: those that leave it
as it is, and those that were refused since its last change. On 8 x 8 digits that is nine in ten,
on 32 x 32 photographs next to none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor

_AHEAD = 64  # queries looked through at once for one that was not refused


class OwnPaceSquare(SquareAttack):
    """The package's attack, its draws and decisions, with fewer calls of the model.

    Exact for models that give the same image the same logits; under L2 it is the package's own.
    """

    @classmethod
    def like(cls, attack: SquareAttack) -> OwnPaceSquare:
        """The same attack with the same settings."""
        ours = cls.__new__(cls)
        ours.__dict__.update(vars(attack))
        return ours

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Attack images (batch, channels, height, width) with labels (batch,).

        Returns:
            Queries gone through per image, and the images with the least margin found.
        """
        if self.norm != "Linf":
            return super().attack_single_run(x, y)
        stripes = self.random_choice([len(x), x.shape[1], 1, x.shape[3]])
        search = _Search(self, x, y, start=torch.clamp(x + self.eps * stripes, 0.0, 1.0))
        while len(active := search.active()):
            search.ask(*search.next_queries(active))
        return search.place + 1, search.best


@dataclass(frozen=True)
class _Queries:
    """All windows in order: number i covers `size` rows and columns from `row`, `column`.

    `kind` is the same number for equal queries; entries past the last are of a kind of their own.
    """

    size: Tensor
    row: Tensor
    column: Tensor
    signs: Tensor
    kind: Tensor

    @classmethod
    def draw(cls, attack: SquareAttack, images: Tensor) -> _Queries:
        """The package's draws, which come from torch's generator on the CPU."""
        channels, height, width = images.shape[1:]
        shares = (attack.p_selection(number) for number in range(attack.n_queries))
        sides = (round(math.sqrt(share * height * width)) for share in shares)
        size = torch.tensor([min(max(side, 1), height, width) for side in sides])
        draws = torch.rand(attack.n_queries, 2 + channels)
        row, column = ((height - size) * draws[:, 0]).long(), ((width - size) * draws[:, 1]).long()
        signs = torch.sign(2 * draws[:, 2:] - 1)
        whole = torch.cat([torch.stack([size, row, column], dim=1), signs.long()], dim=1)
        _, kind = torch.unique(whole, dim=0, return_inverse=True)
        kind = torch.cat([kind, torch.full((_AHEAD,), int(kind.max()) + 1)])
        return cls(*(part.to(images.device) for part in (size, row, column, signs, kind)))


class _Search:
    # Where each image of a batch is.
    def __init__(self, attack: SquareAttack, images: Tensor, labels: Tensor, *, start: Tensor):
        self._attack, self._labels = attack, labels
        self._low, self._high = images - attack.eps, images + attack.eps
        self._queries = _Queries.draw(attack, images)
        self._rows, self._columns = (
            torch.arange(length, device=images.device) for length in images.shape[2:]
        )
        self._ahead = torch.arange(_AHEAD, device=images.device)
        self.best, self.place = start, torch.zeros_like(labels)
        self._margin, _ = attack.margin_and_loss(start, labels)
        kinds = int(self._queries.kind.max()) + 1
        self._refused = torch.zeros(len(images), kinds, dtype=torch.bool, device=images.device)

    def active(self) -> Tensor:
        """Images that resist and have queries left."""
        resisting = (self._margin > 0) & (self.place < self._attack.n_queries)
        return resisting.nonzero().squeeze(1)

    def next_queries(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """Go on to queries that may help; at most a quarter of the images is left where it is."""
        index, asked = active[:0], self.best[:0]
        searching = active
        while 4 * len(searching) > len(active):
            searching = self._past_refused(searching)
            candidates = self._changed(searching)
            differs = (candidates != self.best[searching]).flatten(1).any(dim=1)
            index = torch.cat([index, searching[differs]])
            asked = torch.cat([asked, candidates[differs]])
            searching = searching[~differs]
            self._refuse(searching)
        return index, asked

    def ask(self, index: Tensor, asked: Tensor) -> None:
        """Keep the changes that lower the margin."""
        if not len(index):
            return
        margin, _ = self._attack.margin_and_loss(asked, self._labels[index])
        lower = margin < self._margin[index]
        better = index[lower]
        self.best[better], self._margin[better] = asked[lower], margin[lower]
        self._refused[better] = False  # also what was taken: asked again, it may round otherwise
        self.place[better] += 1
        self._refuse(index[~lower])

    def _refuse(self, index: Tensor) -> None:
        self._refused[index, self._queries.kind[self.place[index]]] = True
        self.place[index] += 1

    def _past_refused(self, index: Tensor) -> Tensor:
        """Move on to the first query that was not refused; without those that reach the end."""
        kinds = self._queries.kind[self.place[index].unsqueeze(1) + self._ahead]
        refused = self._refused[index.unsqueeze(1), kinds]
        self.place[index] += refused.long().cumprod(dim=1).sum(dim=1)
        return index[self.place[index] < self._attack.n_queries]

    def _changed(self, index: Tensor) -> Tensor:
        """The images as their next query wants them."""
        queries, place = self._queries, self.place[index]
        first = torch.stack([queries.row[place], queries.column[place]]).unsqueeze(2)
        last = first + queries.size[place].unsqueeze(1)
        rows = (self._rows >= first[0]) & (self._rows < last[0])
        columns = (self._columns >= first[1]) & (self._columns < last[1])
        window = rows[:, None, :, None] & columns[:, None, None, :]
        change = 2.0 * self._attack.eps * queries.signs[place, :, None, None]
        moved = self.best[index] + window * change
        return torch.clamp(moved.clamp(self._low[index], self._high[index]), 0.0, 1.0)
