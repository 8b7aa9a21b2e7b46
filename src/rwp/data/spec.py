"""Settings of data: where images come from, and how they are changed while training."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rwp.data.official import DIGITS_CLASSES, DIGITS_IMAGES, DIGITS_SIDE, OFFICIAL
from rwp.data.passport import PASSPORT, read_dataset_passport, read_passport
from rwp.data.sources.image_tree import is_clutter
from rwp.errors import UserError
from rwp.spec import Amount, Count, Name, PositiveInt, Share, Spec

PaddingMode = Literal["zero", "reflect"]

# What the sources hold: pixels on a side, and training images of the smallest class.
_PIXELS = {"digits": DIGITS_SIDE} | {name: held.side for name, held in OFFICIAL.items()}
_SMALLEST_CLASS = {"digits": 174} | {name: held.smallest_class for name, held in OFFICIAL.items()}

# Settings that a source does not look at.
_WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    "digits": ("path", "mirror"),
    "image_folder": ("test_share", "mirror"),
    **dict.fromkeys(OFFICIAL, ("path", "test_share")),
}


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """Where labeled images come from and how their channels are normalized."""

    source: Literal["digits", "cifar10", "cifar100", "svhn", "image_folder"]
    path: str | None = None  # image_folder: the tree, or an archive of it
    mirror: str | None = None  # a folder or URL that holds the official files
    image_size: PositiveInt | None = None  # average over areas down to this many pixels
    # So many images of each class for one training, drawn anew by the seed of the run and the same
    # for all its recipes. All are fetched; those neither drawn nor held out are used by nobody.
    per_class: PositiveInt | None = None
    test_share: Share | None = None  # digits: share of the images that become the test split
    unlabeled_share: Share = 0.0  # share of the training images that lose their labels, for RST
    mean: tuple[float, ...] | None = None  # per channel, on [0, 1] pixels; none: computed
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.source == "image_folder" and not self.path:
            raise ValueError("expected a path for an image_folder, got none; add path: FOLDER")
        _refuse_without_effect(self, self.source, _WITHOUT_EFFECT)
        for name, most in (("image_size", _PIXELS), ("per_class", _SMALLEST_CLASS)):
            value, limit = getattr(self, name), most.get(self.source)
            if value is not None and limit is not None and value > limit:
                raise ValueError(
                    f"{name}: expected at most {limit}, as many as {self.source} has, got {value}; "
                    "lower it"
                )
        if self.source == "digits" and not self.test_share:
            raise ValueError("expected a test_share for digits, got none; add test_share: 0.25")
        if (self.mean is None) != (self.std is None):
            raise ValueError("expected mean and std together, got one of them; add the other")
        if self.mean is not None and self.std is not None:
            _check_normalization(self.source, self.mean, self.std)


def _refuse_without_effect(spec: Spec, kind: str, table: dict[str, tuple[str, ...]]) -> None:
    for name in table.get(kind, ()):
        if getattr(spec, name):
            raise ValueError(
                f"expected no {name} for {kind}, where it would have no effect, got "
                f"{getattr(spec, name)}; leave it out"
            )


def _check_normalization(source: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """One number per channel, on [0, 1] pixels."""
    fitting = {"digits": (1,), "image_folder": (1, 3)}.get(source, (3,))
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in fitting:
            expected = " or ".join(map(str, fitting))
            raise ValueError(
                f"{name}: expected {expected} numbers, one per channel of {source}, got "
                f"{len(values)}; correct it, or leave mean and std out: they are then computed"
            )
        if len(values) != len(mean):
            raise ValueError(
                f"std: expected as many numbers as mean has ({len(mean)}), got {len(std)}; "
                "give one per channel"
            )
    for name, values, low in (("mean", mean, 0.0), ("std", std, 1e-6)):
        for value in values:
            if not low <= value <= 1:
                hint = f"; did you mean {value / 255:.4g}?" if 1 < value <= 255 else "; correct it"
                raise ValueError(
                    f"{name}: expected numbers in {'(0' if low else '[0'}, 1] on [0, 1] pixels, "
                    f"got {value}{hint}"
                )


def side_known(definition: DatasetSpec) -> int | None:
    """Pixels on a side as far as the settings say: none for a folder of images as they are."""
    return definition.image_size or _PIXELS.get(definition.source)


def num_classes_known(definition: DatasetSpec, folder: Path) -> int | None:
    """Number of classes as far as it is known before torch is: none for an archive not fetched.

    Args:
        definition: where the images come from.
        folder: where they are fetched to.
    """
    if definition.source == "digits":
        return DIGITS_CLASSES
    if definition.source in OFFICIAL:
        return OFFICIAL[definition.source].num_classes
    train = Path(definition.path or "") / "train"
    with suppress(OSError):  # as it is, and will be fetched
        if definition.path is not None and train.is_dir():
            return sum(place.is_dir() and not is_clutter(place.name) for place in train.iterdir())
    try:
        return read_passport(folder / PASSPORT).num_classes
    except (OSError, UserError):  # none; or a file where a folder belongs, which is told later
        return None


# Settings that a kind of unlabeled source does not look at.
_WITHOUT_EFFECT_UNLABELED = {
    "holdout": ("url", "path", "sha256", "image_size"),
    "tinyimages-500k": ("image_size",),
    "npz": ("image_size",),
    "svhn-extra": ("url", "path", "sha256", "image_size"),
    "image_folder": ("url", "sha256"),
}
_NEEDED_UNLABELED = {
    "holdout": ("dataset",),  # that it is taken from
    "image_folder": ("path", "dataset"),  # whose classes a teacher may choose from
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class UnlabeledSpec(Spec):
    """Where RST's unlabeled images come from."""

    kind: Literal["holdout", "tinyimages-500k", "npz", "svhn-extra", "image_folder"]
    dataset: Name | None = None  # that it is for; of a holdout, whose unlabeled share it is
    url: str | None = None
    path: str | None = None
    sha256: str | None = None
    license: str | None = None
    image_size: PositiveInt | None = None

    def __post_init__(self) -> None:
        _refuse_without_effect(self, self.kind, _WITHOUT_EFFECT_UNLABELED)
        for name in _NEEDED_UNLABELED.get(self.kind, ()):
            if getattr(self, name) is None:
                raise ValueError(f"{name}: expected one for {self.kind}, got none; add it")
        if self.url is not None and self.path is not None:
            raise ValueError(
                f"expected path or url, got both ({self.path} and {self.url}); keep one"
            )
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise ValueError(
                f"sha256: expected 64 hexadecimal digits, got {self.sha256[:80]!r}; copy it again"
            )


@dataclass(frozen=True, kw_only=True)
class AugmentationSpec(Spec):
    """What is drawn at random for each training image, and anew in each epoch.

    `crop_padding` pixels are added on each side, by zeros or by reflection (the edge is not
    repeated), before a crop of the original size; `flip` mirrors half of the images;
    `rotation_degrees` bounds a rotation about the center.

    Raises:
        ValueError: a negative padding, an unknown padding mode, an angle outside [0, 180].
    """

    crop_padding: Count
    padding_mode: PaddingMode
    flip: bool
    rotation_degrees: Amount

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding: expected pixels >= 0, got {self.crop_padding}; fix it")
        if self.padding_mode not in get_args(PaddingMode):
            raise ValueError(
                f"padding_mode: expected zero or reflect, got {self.padding_mode}; use one of them"
            )
        if not 0 <= self.rotation_degrees <= 180:
            raise ValueError(
                "rotation_degrees: expected degrees in [0, 180], "
                f"got {self.rotation_degrees}; change it"
            )

    @property
    def changes_nothing(self) -> bool:
        """Whether images pass through as they are (SVHN in the paper)."""
        return not (self.crop_padding or self.flip or self.rotation_degrees)


@dataclass(frozen=True)
class DataSize:
    """Images of a data set, as training finds them, and the size of one, such as "32x32x3"."""

    num_train: int
    num_test: int
    image: str
    num_drawn: int | None = None  # of them, for one training, where `per_class` says so


def data_size(
    name: str, definition: DatasetSpec, root: Path, *, fingerprint: str | None = None
) -> DataSize | None:
    """Of a data set: from its passport, or by its source; none for a folder not yet read.

    Args:
        name: of the data set.
        definition: where the images come from, and how many.
        root: the project.
        fingerprint: of its fetching as the settings are now; a passport of another tells nothing.

    Raises:
        UserError: a passport that does not say what the images are.
    """
    folder = root / "data" / name
    if (folder / PASSPORT).exists():
        found = read_dataset_passport(folder)
        if fingerprint in (None, found.fingerprint):
            train, test = (found.files[split].count for split in ("train.pt", "test.pt"))
            channels, height, width = found.shape
            drawn = definition.per_class and definition.per_class * found.num_classes
            return DataSize(train, test, f"{height}x{width}x{channels}", drawn)
    return size_by_source(definition, folder)


def size_by_source(definition: DatasetSpec, folder: Path) -> DataSize | None:
    """Of a data set, from its settings alone; none for a folder of images.

    Args:
        definition: where the images come from, and how many.
        folder: where they are fetched to.
    """
    if definition.source == "digits":
        num_test = round(DIGITS_IMAGES * (definition.test_share or 0))
        num_train, side, channels = DIGITS_IMAGES - num_test, DIGITS_SIDE, 1
    elif held := OFFICIAL.get(definition.source):
        num_train, num_test, side, channels = (
            held.num_train,
            held.num_test,
            held.side,
            held.channels,
        )
    else:
        return None
    side = side_known(definition) or side
    classes = num_classes_known(definition, folder)
    drawn = definition.per_class and classes and definition.per_class * classes
    labeled = num_train - round(num_train * (definition.unlabeled_share or 0))
    return DataSize(labeled, num_test, f"{side}x{side}x{channels}", drawn)


def images_trained_on(num_train: int, num_drawn: int | None, held_out_fraction: float) -> int:
    """Of the training images those of one training: drawn ones, or all that are not held out."""
    return num_drawn or num_train - round(num_train * held_out_fraction)
