"""Images of one set that are also, or nearly, in another."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from rwp.errors import UserError

_SIDE = 16  # images are compared at this size at most: enough to tell them apart
_SOURCE_BLOCK = 8192
_TEST_BLOCK = 4096
_ROUNDING = 1e-6  # of the product of two unit vectors in 32 bits


class Pairs(NamedTuple):
    """Source image, test image and their similarity; -1 to 1, 1 = the same up to brightness."""

    source: Int[Tensor, " pairs"]
    test: Int[Tensor, " pairs"]
    similarity: Float[Tensor, " pairs"]


class Audit(NamedTuple):
    """`exact`: equal in every byte. `near`: similar enough, exact ones left out."""

    exact: Pairs
    near: Pairs

    def summary(self) -> dict[str, Any]:
        """Counts of pairs and of distinct test images, for a report."""
        return {
            kind: {
                "pairs": len(pairs.source),
                "source_images": len(pairs.source.unique()),
                "test_images": len(pairs.test.unique()),
            }
            for kind, pairs in (("exact", self.exact), ("near", self.near))
        }


@torch.no_grad()
def audit(
    source: UInt8[Tensor, "n c h w"],
    test: UInt8[Tensor, "m c h w"],
    *,
    min_similarity: float,
    device: torch.device | str,
) -> Audit:
    """Find all pairs of a source and a test image at or above `min_similarity`.

    Similarity is the correlation of the images' pixels, at 16x16 or smaller, after each
    channel's mean is removed. Flat images have no correlation and can only be exact duplicates.

    Raises:
        UserError: the sets have images of different shape, or the limit is not in (0, 1].
    """
    if source.shape[1:] != test.shape[1:]:
        raise UserError(
            f"audit: expected images of one shape, got {tuple(source.shape[1:])} and "
            f"{tuple(test.shape[1:])}; compare sets that belong together"
        )
    if not 0 < min_similarity <= 1:
        raise UserError(f"min_similarity: expected (0, 1], got {min_similarity}; change it")
    exact = _identical(source, test)
    near = _similar(source, test, min_similarity, device)
    known = set(zip(exact.source.tolist(), exact.test.tolist(), strict=True))
    pairs = zip(near.source.tolist(), near.test.tolist(), strict=True)
    fresh = torch.tensor([pair not in known for pair in pairs], dtype=torch.bool)
    return Audit(exact=exact, near=Pairs(*(column[fresh] for column in near)))


def _identical(source: UInt8[Tensor, "n c h w"], test: UInt8[Tensor, "m c h w"]) -> Pairs:
    places: dict[bytes, list[int]] = {}
    for index, image in enumerate(test.numpy()):
        places.setdefault(image.tobytes(), []).append(index)
    found = [
        (index, other)
        for index, image in enumerate(source.numpy())
        for other in places.get(image.tobytes(), ())
    ]
    rows, columns = torch.tensor(found, dtype=torch.int64).view(-1, 2).unbind(1)
    return Pairs(rows, columns, torch.ones(len(found)))


def _similar(
    source: UInt8[Tensor, "n c h w"],
    test: UInt8[Tensor, "m c h w"],
    min_similarity: float,
    device: torch.device | str,
) -> Pairs:
    tests = [_unit_vectors(block, device) for block in test.split(_TEST_BLOCK)]
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for block, images in enumerate(source.split(_SOURCE_BLOCK)):
        vectors = _unit_vectors(images, device)
        for other, test_vectors in enumerate(tests):
            similarity = vectors @ test_vectors.T
            rows, columns = (similarity >= min_similarity - _ROUNDING).nonzero(as_tuple=True)
            values = similarity[rows, columns].cpu()
            found.append(
                (rows.cpu() + block * _SOURCE_BLOCK, columns.cpu() + other * _TEST_BLOCK, values)
            )
    if not found:
        empty = torch.empty(0, dtype=torch.int64)
        return Pairs(empty, empty, torch.empty(0))
    return Pairs(*(torch.cat(column) for column in zip(*found, strict=True)))


def _unit_vectors(
    images: UInt8[Tensor, "n c h w"], device: torch.device | str
) -> Float[Tensor, "n d"]:
    """Downsampled pixels without their mean, of length 1 (0 for a flat image)."""
    height, width = images.shape[2:]
    pixels = images.to(device).float()
    small = F.adaptive_avg_pool2d(pixels, (min(_SIDE, height), min(_SIDE, width)))
    # per channel: otherwise any two blue skies correlate by their color alone
    centered = small - small.mean(dim=(2, 3), keepdim=True)
    return F.normalize(centered.flatten(1), eps=1e-3)
