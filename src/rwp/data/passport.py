"""The passport beside fetched images: what they are, where they come from, what they stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from rwp.errors import UserError
from rwp.files import read_object, sha256_file, write_json
from rwp.spec import Count, PositiveInt, SettingsError, Spec

if TYPE_CHECKING:
    from rwp.data.images import ImageSet

PASSPORT = "passport.json"  # of a data set; that of an unlabeled source bears the source's name


@dataclass(frozen=True, kw_only=True)
class ImageFile(Spec):
    """What one file holds."""

    sha256: str
    count: Count  # images
    unlabeled: Count = 0  # of them
    class_histogram: tuple[Count, ...]


@dataclass(frozen=True, kw_only=True)
class Passport(Spec):
    """Of a data set's files, or of an unlabeled source's one; they share shape and classes."""

    # What a later version may add is left out, as that one's passports are read here, too.
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {
        **Spec.__pydantic_config__,
        "extra": "ignore",
    }
    name: str
    source: str
    origin: str
    license: str
    num_classes: PositiveInt
    class_names: tuple[str, ...]
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]  # channels, height, width
    mean: tuple[float, ...] | None = None  # of the first file, per channel, on [0, 1] pixels;
    std: tuple[float, ...] | None = None  # none: flat images
    content: str = ""  # a hash of the user's own images that were read; empty for official ones
    fingerprint: str = ""  # of the step that fetched them
    notes: tuple[str, ...] = ()
    files: dict[str, ImageFile]

    def __post_init__(self) -> None:
        numbers = [None if values is None else len(values) for values in (self.mean, self.std)]
        if numbers not in ([None] * 2, [self.shape[0]] * 2):
            raise ValueError(
                f"expected a mean and a std of {self.shape[0]} numbers, one per channel, or "
                f"neither, got {numbers[0]} and {numbers[1]}"
            )

    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of the training images.

        Raises:
            UserError: there are none, as the images are flat.
        """
        if self.mean is None or self.std is None:
            raise UserError(
                f"{self.name}: expected the mean and std of the images in the passport, found "
                f"none; fetch the data again, or add them to datasets.{self.name} in params.yaml"
            )
        return self.mean, self.std


def read_passport(path: Path | str) -> Passport:
    """The passport in a file, without an import of torch.

    Raises:
        UserError: there is none, or it does not say what the images are.
    """
    try:
        return Passport.validated(read_object(path))
    except SettingsError as fault:
        raise UserError(
            f"{path}: expected the passport of fetched images, got a fault at "
            f"{fault.place or 'the text'} ({fault}); fetch the data again"
        ) from fault


def read_dataset_passport(folder: Path) -> Passport:
    """The passport of a data set in its folder, which has training and test images.

    Raises:
        UserError: there is none, or it does not say what the images are.
    """
    found = read_passport(folder / PASSPORT)
    for name in ("train.pt", "test.pt"):
        if name not in found.files:
            raise UserError(
                f"{folder / PASSPORT}: expected the passport of a data set, got one without "
                f"{name}; fetch the data again"
            )
    return found


def write_passport(
    path: Path,
    files: Mapping[Path, ImageSet],
    *,
    name: str,
    source: str,
    origin: str,
    license_words: str,
    class_names: Sequence[str],
    notes: Sequence[str] = (),
    standing: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the passport of the saved `files`, which share shape and classes.

    `standing` is what they stand on: the `content` and the `fingerprint` of a `Passport`.
    """
    first = next(iter(files.values()))
    mean, std = _statistics(first)
    passport = Passport(
        name=name,
        source=source,
        origin=origin,
        license=license_words,
        num_classes=first.num_classes,
        class_names=tuple(class_names),
        shape=first.shape,
        mean=mean,
        std=std,
        notes=tuple(notes),
        files={file.name: _describe(file, images) for file, images in files.items()},
        **standing,
    )
    fields = passport.document()
    write_json(path, {key: value for key, value in fields.items() if value not in (None, "")})


def _describe(path: Path, images: ImageSet) -> ImageFile:
    counts = images.class_counts()
    return ImageFile(
        sha256=sha256_file(path),
        count=len(images),
        unlabeled=len(images) - sum(counts),
        class_histogram=tuple(counts),
    )


def _statistics(
    images: ImageSet,
) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    try:
        mean, std = images.channel_statistics()
    except UserError:  # flat images are no fault unless something normalizes by them
        return None, None
    return tuple(mean), tuple(std)
