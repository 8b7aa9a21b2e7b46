"""CIFAR-10, CIFAR-100 and SVHN as torchvision knows them: its addresses, checksums, readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwp.data.download import checksum, member_of, obtain
from rwp.data.images import ImageSet, SourceData
from rwp.data.official import OFFICIAL
from rwp.errors import UserError


def load_torchvision_set(source: str, raw: Path, origin: str | None) -> SourceData:
    """Both splits of the set, its official files kept and checked in `raw`.

    `origin` is a folder or address that holds the official files.

    Raises:
        UserError: a file cannot be had, is damaged, or has labels outside the classes.
    """
    # imported here: torchvision alone takes seconds, and only fetching needs it
    from torchvision import datasets

    if source == "svhn":
        train, places = _svhn_split(datasets.SVHN, "train", raw, origin)
        test, more = _svhn_split(datasets.SVHN, "test", raw, origin)
        return SourceData(
            train,
            test,
            [str(digit) for digit in range(10)],
            f"{places} {more}",
            OFFICIAL[source].license,
        )
    reader = datasets.CIFAR10 if source == "cifar10" else datasets.CIFAR100
    place = _obtain_official(reader.url, reader.filename, reader.tgz_md5, raw, origin)
    train_set, test_set = (
        _read(lambda part=part: reader(raw, train=part, download=True), place)
        for part in (True, False)
    )
    class_names = list(train_set.classes)
    return SourceData(
        _cifar_images(train_set, place, len(class_names)),
        _cifar_images(test_set, place, len(class_names)),
        class_names,
        place,
        OFFICIAL[source].license,
    )


def load_svhn_extra(raw: Path, origin: str | None) -> tuple[ImageSet, str, str]:
    """SVHN's 531,131 extra images with their labels, where they came from, and the license."""
    from torchvision import datasets

    extra, place = _svhn_split(datasets.SVHN, "extra", raw, origin)
    return extra, place, OFFICIAL["svhn"].license


def _svhn_split(reader: Any, split: str, raw: Path, origin: str | None) -> tuple[ImageSet, str]:
    url, filename, md5 = reader.split_list[split]
    place = _obtain_official(url, filename, md5, raw, origin)
    content = _read(lambda: reader(raw, split=split, download=True), place)
    images, labels = np.ascontiguousarray(content.data), content.labels
    return _checked_set(images, labels, 10, place), place


def _cifar_images(content: Any, place: str, num_classes: int) -> ImageSet:
    images = np.ascontiguousarray(content.data.transpose(0, 3, 1, 2))
    return _checked_set(images, content.targets, num_classes, place)


def _checked_set(images: Any, labels: Any, num_classes: int, place: str) -> ImageSet:
    try:
        labels = torch.from_numpy(np.asarray(labels, dtype=np.int64))
        return ImageSet(torch.from_numpy(images), labels, num_classes)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def _obtain_official(url: str, filename: str, md5: str, raw: Path, origin: str | None) -> str:
    """Put the official file into `raw`, where torchvision's downloader finds and accepts it."""
    place = url if origin is None else member_of(origin, filename)
    obtain(place, raw / filename, checksum("md5", md5))
    return place


def _read(construct: Any, place: str) -> Any:
    """Let torchvision unpack and read; its many kinds of complaint become one."""
    try:
        return construct()
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"{place}: expected the official files inside, got {type(error).__name__} "
            f"({' '.join(str(error).split())}); fetch the file again"
        ) from error
