"""Square Attack, each image at its own pace: the package's draws and decisions, fewer questions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor

_AHEAD = 64  # queries looked through at once for one that was not refused
_WORTH = 0.75  # kinds per query; colored photographs have more, and little to pass over


class OwnPaceSquare(SquareAttack):
    """Square Attack (Andriushchenko et al., 2020) under L-inf, each image at its own pace.

    The attack changes one window of an image per query and keeps the change if it lowers the
    margin. Its windows and signs are drawn in advance and are the same for all images of a batch.
    So an image can pass over the queries that cannot help it, without waiting for the others:
    those that leave it as it is, and those that were refused since its last change. On 8 x 8
    digits that is nine in ten. Draws and decisions are the package's.

    Exact for models that give an image the same logits in any batch. It is for what AutoAttack
    asks: L-inf, untargeted, the margin, one restart. Other settings, and images so large that
    windows hardly recur, are left to the package.
    """

    @classmethod
    def like(cls, attack: SquareAttack) -> OwnPaceSquare:
        """The same attack with the same settings."""
        ours = cls.__new__(cls)
        ours.__dict__.update(vars(attack))
        return ours

    @torch.no_grad()
    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Attack images (batch, channels, height, width) with labels (batch,).

        Returns:
            Queries gone through per image, and the images with the least margin found.
        """
        usual = self.norm == "Linf" and self.loss == "margin" and not self.targeted
        if not usual or self.n_restarts != 1:
            return super().attack_single_run(x, y)
        before = torch.get_rng_state()
        stripes = self.random_choice([len(x), x.shape[1], 1, x.shape[3]])
        queries = _Queries.draw(self, x)
        if queries.num_kinds > _WORTH * self.n_queries:
            torch.set_rng_state(before)
            return super().attack_single_run(x, y)
        start = torch.clamp(x + self.eps * stripes, 0.0, 1.0)
        search = _Search(self, queries, x, y, start=start)
        while len(active := search.active()):
            search.ask(*search.next_queries(active))
        return search.place + 1, search.best


@dataclass(frozen=True)
class _Queries:
    """All windows in order: number i covers `size` rows and columns from `row`, `column`.

    `kind` is the same number for equal queries, below `num_kinds`. It goes on past the last query
    with a kind that is never refused, so that looking ahead stops there.
    """

    size: Tensor
    row: Tensor
    column: Tensor
    signs: Tensor
    kind: Tensor
    num_kinds: int

    @classmethod
    def draw(cls, attack: SquareAttack, images: Tensor) -> _Queries:
        """The package's draws, which come from torch's generator on the CPU."""
        channels, height, width = images.shape[1:]
        shares = (attack.p_selection(number) for number in range(attack.n_queries))
        sides = (round(math.sqrt(share * height * width)) for share in shares)
        size = torch.tensor([min(max(side, 1), height, width) for side in sides], device="cpu")
        draws = torch.rand(attack.n_queries, 2 + channels, device="cpu")
        row, column = ((height - size) * draws[:, 0]).long(), ((width - size) * draws[:, 1]).long()
        signs = torch.sign(2 * draws[:, 2:] - 1)
        whole = torch.cat([torch.stack([size, row, column], dim=1), signs.long()], dim=1)
        distinct, kind = torch.unique(whole, dim=0, return_inverse=True)
        kind = torch.cat([kind, torch.full((_AHEAD,), len(distinct), device="cpu")])
        size, row, column, signs, kind = (
            part.to(images.device) for part in (size, row, column, signs, kind)
        )
        return cls(size, row, column, signs, kind, len(distinct))


class _Search:
    """A batch under attack: per image the best version so far and the place in the queries.

    `_refused[i, k]`: a query of kind k does not lower the margin of `best[i]`.
    """

    def __init__(
        self,
        attack: SquareAttack,
        queries: _Queries,
        images: Tensor,
        labels: Tensor,
        *,
        start: Tensor,
    ) -> None:
        self._attack, self._queries, self._labels = attack, queries, labels
        self._low, self._high = images - attack.eps, images + attack.eps
        device = images.device
        self._rows, self._columns = (torch.arange(side, device=device) for side in images.shape[2:])
        self._ahead = torch.arange(_AHEAD, device=device)
        self.best, self.place = start, torch.zeros_like(labels)
        self._margin, _ = attack.margin_and_loss(start, labels)
        shape = (len(images), queries.num_kinds + 1)
        self._refused = torch.zeros(shape, dtype=torch.bool, device=device)

    def active(self) -> Tensor:
        """Images that resist and have queries left."""
        resisting = (self._margin > 0) & (self.place < self._attack.n_queries)
        return resisting.nonzero().squeeze(1)

    def next_queries(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """The images that have found a query worth asking, as that query wants them.

        The model is called once three quarters of the images have: the last ones take many small
        steps to get there, and go on with theirs beside the next call.
        """
        index, asked = active[:0], self.best[:0]
        searching = active
        while 4 * len(searching) > len(active):
            self._pass_over_refused(searching)
            searching = searching[self.place[searching] < self._attack.n_queries]
            candidates = self._changed(searching)
            worth = (candidates != self.best[searching]).flatten(1).any(dim=1)
            worth &= ~self._refused[searching, self._queries.kind[self.place[searching]]]
            index = torch.cat([index, searching[worth]])
            asked = torch.cat([asked, candidates[worth]])
            searching = searching[~worth]
            self._refuse_and_go_on(searching)
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
        self._refuse_and_go_on(index[~lower])

    def _refuse_and_go_on(self, index: Tensor) -> None:
        self._refused[index, self._queries.kind[self.place[index]]] = True
        self.place[index] += 1

    def _pass_over_refused(self, index: Tensor) -> None:
        """On to the first query that was not refused, or _AHEAD queries on if there is none."""
        kinds = self._queries.kind[self.place[index].unsqueeze(1) + self._ahead]
        refused = self._refused[index.unsqueeze(1), kinds]
        self.place[index] += refused.long().cumprod(dim=1).sum(dim=1)

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
