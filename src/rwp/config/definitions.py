"""Definitions that suites share: data sets, unlabeled sources, networks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rwp.config.fields import Frozen, Name, PositiveInt, Share


class DatasetSpec(Frozen):
    """Where labeled images come from and how their channels are normalized."""

    source: Literal["digits", "cifar10", "cifar100", "svhn", "image_folder"]
    path: str | None = None  # image_folder: the tree, or an archive of it
    mirror: str | None = None  # a folder or URL that holds the official files
    image_size: PositiveInt | None = None  # image_folder: resize to this many pixels
    test_share: Share | None = None  # digits: share of the images that become the test split
    unlabeled_share: Share = 0.0  # share of the training images that lose their labels, for RST
    mean: tuple[float, ...] | None = None  # per channel, on [0, 1] pixels
    std: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _complete(self) -> DatasetSpec:
        if self.source == "image_folder" and self.path is None:
            raise ValueError("expected a path for an image_folder, got none; add path: FOLDER")
        if self.source == "digits" and not self.test_share:
            raise ValueError("expected a test_share for digits, got none; add test_share: 0.25")
        if (self.mean is None) != (self.std is None):
            raise ValueError("expected mean and std together, got one of them; add the other")
        return self


class UnlabeledSpec(Frozen):
    """Where RST's unlabeled images come from."""

    kind: Literal["holdout", "tinyimages-500k", "npz", "svhn-extra", "image_folder"]
    dataset: Name | None = None  # holdout: the data set whose unlabeled share is used
    url: str | None = None
    path: str | None = None
    sha256: str | None = None
    license: str | None = None
    image_size: PositiveInt | None = None


class PreActResNetSpec(Frozen):
    """PreAct ResNet (He et al., 2016): stages of basic blocks, width doubling with each stage."""

    family: Literal["preact_resnet"]
    blocks: tuple[PositiveInt, ...]
    width: PositiveInt


class WideResNetSpec(Frozen):
    """Wide ResNet (Zagoruyko & Komodakis, 2016) of a depth 6n + 4."""

    family: Literal["wide_resnet"]
    depth: PositiveInt
    widen_factor: PositiveInt

    @model_validator(mode="after")
    def _depth(self) -> WideResNetSpec:
        if (self.depth - 4) % 6:
            raise ValueError(f"expected a depth of 6n + 4, got {self.depth}")
        return self


NetworkSpec = Annotated[PreActResNetSpec | WideResNetSpec, Field(discriminator="family")]
