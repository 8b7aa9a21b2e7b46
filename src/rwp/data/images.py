"""A set of labeled images as two tensors, on disk as one memory-mappable file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from rwp.errors import UserError
from rwp.files import atomic_write

UNLABELED = -1
_FORMAT = "rwp.images.1"
_VALUES = 4096 * 3 * 32 * 32  # counted at once


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels of one split.

    `images` are bytes 0..255, (n, channels, height, width); `labels` are class numbers,
    -1 where the source ships none.

    Raises:
        UserError: a tensor has another type or shape, or a label is outside the classes.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    num_classes: int

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(
                "images: expected uint8 (n, 1 or 3, height, width), "
                f"got {images.dtype} {tuple(images.shape)}; convert them first"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise UserError(
                f"labels: expected int64 ({len(images)},), "
                f"got {labels.dtype} {tuple(labels.shape)}; give one label per image"
            )
        if self.num_classes < 2:
            raise UserError(
                f"num_classes: expected at least 2, got {self.num_classes}; add a class"
            )
        outside = (labels < UNLABELED) | (labels >= self.num_classes)
        if outside.any():
            first = int(outside.nonzero()[0, 0])
            raise UserError(
                f"labels: expected 0..{self.num_classes - 1} (-1 = unlabeled), got "
                f"{int(labels[first])} at image {first} ({int(outside.sum())} such); "
                "correct the labels or the number of classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def class_counts(self) -> list[int]:
        """The number of images of each class; unlabeled ones are not counted."""
        known = self.labels[self.labels >= 0]
        return torch.bincount(known, minlength=self.num_classes).tolist()

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over all pixels, on [0, 1]; 6 digits.

        Raises:
            UserError: a channel has one value throughout.
        """
        total = torch.zeros(self.shape[0], dtype=torch.int64)
        squares = torch.zeros_like(total)
        at_once = max(1, _VALUES // self.images[:1].numel())
        for block in self.images.split(at_once):  # whole numbers: the same on any machine
            values = block.long()
            total += values.sum((0, 2, 3))
            squares += values.square().sum((0, 2, 3))
        count = self.images.numel() // self.shape[0]
        mean = [value / count / 255 for value in total.tolist()]
        spread = zip(total.tolist(), squares.tolist(), strict=True)
        variance = [(count * square - value**2) / count**2 for value, square in spread]
        if not all(variance):
            channel = variance.index(0)
            raise UserError(
                f"images: expected pixels that differ, got one value throughout channel {channel}; "
                "check the images, or do not normalize"
            )
        return [round(m, 6) for m in mean], [round(v**0.5 / 255, 6) for v in variance]

    def select(self, index: Int[Tensor, " k"]) -> ImageSet:
        """The images at `index`, in that order."""
        return ImageSet(self.images[index], self.labels[index], self.num_classes)

    def save(self, path: Path | str) -> None:
        """Write the set in one move; the same content gives the same bytes.

        Raises:
            UserError: there is no space or no permission at `path`.
        """
        content = {
            "format": _FORMAT,
            "images": _own_storage(self.images),
            "labels": _own_storage(self.labels),
            "num_classes": self.num_classes,
        }
        # torch names the archive inside after the file unless it is handed a stream
        with atomic_write(path, keep_equal=True) as temporary, temporary.open("wb") as stream:
            torch.save(content, stream)

    @classmethod
    def load(cls, path: Path | str) -> ImageSet:
        """Map a saved set into memory; pages are read as they are used.

        Raises:
            UserError: the file is missing, truncated, or not an image set.
        """
        content = _load_mapped(Path(path))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise UserError(
                f"{path}: expected an image set ({_FORMAT}), got another kind of file; "
                "delete it and fetch the data again"
            )
        try:
            return cls(content["images"], content["labels"], content["num_classes"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except Exception as error:  # a part is missing or of another kind
            raise UserError(
                f"{path}: expected images, labels and num_classes, got something else "
                f"({type(error).__name__}); delete it and fetch the data again"
            ) from error


def _own_storage(tensor: Tensor) -> Tensor:
    """The tensor without the rest of what it is a view of, which torch.save would write too."""
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.contiguous().clone()


def _load_mapped(path: Path) -> Any:
    try:
        return torch.load(path, mmap=True, weights_only=True, map_location="cpu")
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected an image set, found no file; fetch the data") from error
    except Exception as error:  # a damaged file may raise anything
        raise UserError(
            f"{path}: expected an image set, got a truncated or foreign file; "
            "delete it and fetch the data again"
        ) from error


@dataclass(frozen=True)
class SourceData:
    """What a source delivers: both splits and what the passport says of them."""

    train: ImageSet
    test: ImageSet
    class_names: list[str]
    origin: str
    license: str
    notes: list[str] = field(default_factory=list)  # what was done to images, and what to know
