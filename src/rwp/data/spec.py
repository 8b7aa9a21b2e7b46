"""Settings of data: where images come from, and how they are changed while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rwp.spec import Amount, Count, Name, PositiveInt, Share, Spec

PaddingMode = Literal["zero", "reflect"]


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """Where labeled images come from and how their channels are normalized."""

    source: Literal["digits", "cifar10", "cifar100", "svhn", "image_folder"]
    path: str | None = None  # image_folder: the tree, or an archive of it
    mirror: str | None = None  # a folder or URL that holds the official files
    image_size: PositiveInt | None = None  # image_folder: resize to this many pixels
    test_share: Share | None = None  # digits: share of the images that become the test split
    unlabeled_share: Share = 0.0  # share of the training images that lose their labels, for RST
    mean: tuple[float, ...] | None = None  # per channel, on [0, 1] pixels
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.source == "image_folder" and self.path is None:
            raise ValueError("expected a path for an image_folder, got none; add path: FOLDER")
        if self.source == "digits" and not self.test_share:
            raise ValueError("expected a test_share for digits, got none; add test_share: 0.25")
        if (self.mean is None) != (self.std is None):
            raise ValueError("expected mean and std together, got one of them; add the other")


@dataclass(frozen=True, kw_only=True)
class UnlabeledSpec(Spec):
    """Where RST's unlabeled images come from."""

    kind: Literal["holdout", "tinyimages-500k", "npz", "svhn-extra", "image_folder"]
    dataset: Name | None = None  # holdout: the data set whose unlabeled share is used
    url: str | None = None
    path: str | None = None
    sha256: str | None = None
    license: str | None = None
    image_size: PositiveInt | None = None


@dataclass(frozen=True, kw_only=True)
class AugmentationSpec(Spec):
    """Random crop, flip and rotation of the training images."""

    crop_padding: Count
    padding_mode: PaddingMode
    flip: bool
    rotation_degrees: Amount
