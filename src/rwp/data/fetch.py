"""Bring a declared data set onto the disk: verified, converted once, described."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock

from rwp.data.content import content_of
from rwp.data.images import ImageSet, SourceData
from rwp.data.official import OFFICIAL
from rwp.data.parts import require_per_class
from rwp.data.passport import PASSPORT, write_passport
from rwp.data.sizes import box_average
from rwp.data.sources.digits import load_digits
from rwp.data.sources.image_folder import load_image_folder
from rwp.data.sources.torchvision_sets import load_torchvision_set
from rwp.data.splits import SPLIT_SEED, stratified_split
from rwp.errors import UserError

if TYPE_CHECKING:
    from rwp.data.spec import DatasetSpec

MOST_SHARED = 0.5  # of the test images, by which a test split is none
_BLOCK = 4096  # images averaged at once


def fetch_dataset(
    name: str,
    definition: DatasetSpec,
    directory: Path | str,
    *,
    origin: str | None = None,
    fingerprint: str | None = None,
) -> None:
    """Write `directory/name/`: train.pt, test.pt, unlabeled.pt if a share is set, passport.json.

    Downloads are kept in `directory/raw/`. `origin` (a folder or an address) replaces the
    definition's mirror and the official address. Jobs that fetch the same set, or the same
    files, wait for each other.

    Raises:
        UserError: the source cannot be had, fails its checks, has no place to go, or has most of
            its test images among the training images; an origin beside a path.
    """
    refuse_other_images(origin, f"datasets.{name}", definition.path)
    root = Path(directory)
    target = root / name
    with fetch_lock(root, name):
        passport = target / PASSPORT
        with own_images(definition.path, fingerprint) as standing:
            data = _load_source(name, definition, root / "raw", origin or definition.mirror)
        data = _shrunk(name, definition, data)
        require_shades(data.train, origin or definition.path or name)
        files = _split_files(target, data, definition.unlabeled_share)
        if definition.per_class is not None:
            train, where = files[target / "train.pt"], f"datasets.{name}.per_class"
            require_per_class(train.labels, definition.per_class, where=where)
        shared = _shared_images(files, origin or definition.path or name)
        passport.unlink(missing_ok=True)  # files without a passport are not yet whole
        for path, content in files.items():
            content.save(path)
        if target / "unlabeled.pt" not in files:
            (target / "unlabeled.pt").unlink(missing_ok=True)
        write_passport(
            passport,
            files,
            name=name,
            source=definition.source,
            origin=data.origin,
            license_words=data.license,
            notes=[*data.notes, *shared],
            class_names=data.class_names,
            standing=standing,
        )


def refuse_other_images(origin: str | None, where: str, path: str | None) -> None:
    """A mirror holds official files; images of one's own are those that the settings name.

    Raises:
        UserError: both are there.
    """
    if origin is not None and path is not None:
        raise UserError(
            f"--from: expected none for images of your own, which lie in {path}, got {origin}; "
            f"change {where}.path"
        )


@contextmanager
def own_images(place: str | None, fingerprint: str | None) -> Iterator[dict[str, str]]:
    """What a fetch stands on, for the passport; the user's own images may not change meanwhile.

    Raises:
        UserError: a file was added, removed or changed while they were read.
    """
    before = content_of(place) if place else ""
    yield {
        **({"content": before} if before else {}),
        **({"fingerprint": fingerprint} if fingerprint else {}),
    }
    if place and content_of(place) != before:
        raise UserError(
            f"{place}: expected images that stay as they are while they are read, got others"
            f" afterwards; fetch again"
        )


def _shared_images(files: dict[Path, ImageSet], source: str) -> list[str]:
    """Images that are there again, in a split or in two, or under another class, byte for byte.

    Raises:
        UserError: most of the test images are training images.
    """
    places: dict[bytes, list[tuple[str, int]]] = {}
    for path, content in files.items():
        for digest, label in zip(image_digests(content), content.labels.tolist(), strict=True):
            places.setdefault(digest, []).append((path.stem, label))
    notes: list[str] = []
    tests = sum(split == "test" for found in places.values() for split, _ in found)
    for other in ("train", "unlabeled"):
        both = [found for found in places.values() if {other, "test"} <= {s for s, _ in found}]
        count = sum(split == "test" for found in both for split, _ in found)
        notes += shared_note(count, tests, f"in {other}")
        if other == "train" and count > MOST_SHARED * tests:
            raise UserError(
                f"{source}: expected test images of their own, got {count} of {tests} that are also"
                " in train, byte for byte, so that no accuracy would say anything; part them"
            )
    repeated = sum(max(0, [s for s, _ in found].count("train") - 1) for found in places.values())
    if repeated:
        notes.append(
            f"{repeated} training images are there more than once, byte for byte, so that held-out "
            "images may be among those trained on"
        )
    torn = sum(len({label for _, label in found}) > 1 for found in places.values())
    if torn:
        which = "image is" if torn == 1 else "images are"
        notes.append(f"{torn} distinct {which} under more than one class, byte for byte")
    return notes


def require_shades(images: ImageSet, source: str) -> None:
    """Refuse bytes of zeros and ones, which are 0..1 pixels that lost all but their ends.

    Raises:
        UserError: no byte is above 1.
    """
    if len(images) and int(images.images.max()) <= 1:
        raise UserError(
            f"{source}: expected bytes up to 255, got none above {int(images.images.max())}; they "
            "look divided by 255: store 0..255"
        )


def image_digests(images: ImageSet) -> Iterator[bytes]:
    """A hash of each image's bytes."""
    for image in images.images.numpy():
        yield hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def shared_note(count: int, of: int, place: str, *, split: str = "test") -> list[str]:
    """How many images of a split are also elsewhere; nothing where none is."""
    is_or_are = "is" if count == 1 else "are"
    text = f"{count} of {of} {split} images {is_or_are} also {place}, byte for byte"
    return [text] if count else []


@contextmanager
def fetch_lock(directory: Path, name: str) -> Iterator[None]:
    """Let one job at a time fetch `name` into `directory`.

    Raises:
        UserError: nothing can be written there.
    """
    path = directory / ".locks" / f"{name}.lock"
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"{directory}: expected a writable folder for data, got {error.strerror}; "
            "choose another or change its owner"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _load_source(name: str, definition: DatasetSpec, raw: Path, origin: str | None) -> SourceData:
    source = definition.source
    if source == "digits":
        return load_digits(definition.test_share)
    if source == "image_folder":
        return load_image_folder(definition.path, definition.image_size)
    if source in OFFICIAL:
        with fetch_lock(raw.parent, f"raw/{source}"):  # other data sets may have its files, too
            return load_torchvision_set(source, raw / source, origin)
    known = ", ".join(("digits", "image_folder", *OFFICIAL))
    raise UserError(f"datasets.{name}.source: expected {known}, got {source}; use one of them")


def _shrunk(name: str, definition: DatasetSpec, data: SourceData) -> SourceData:
    """Both splits at the size that is asked for; a folder's pictures have it already.

    Raises:
        UserError: the images have fewer pixels.
    """
    size = definition.image_size
    if size is None or definition.source == "image_folder":
        return data
    found = data.train.shape[1]
    if size > found:
        raise UserError(
            f"datasets.{name}.image_size: expected at most {found} pixels, got {size}; lower it"
        )
    train, test = (_averaged(images, size) for images in (data.train, data.test))
    return replace(data, train=train, test=test)


def _averaged(images: ImageSet, size: int) -> ImageSet:
    blocks = [box_average(block.numpy(), size) for block in images.images.split(_BLOCK)]
    pixels = torch.from_numpy(np.concatenate(blocks))
    return ImageSet(pixels, images.labels, images.num_classes)


def _split_files(target: Path, data: SourceData, unlabeled_share: float) -> dict[Path, ImageSet]:
    files = {target / "train.pt": data.train, target / "test.pt": data.test}
    if unlabeled_share:
        kept, dropped = stratified_split(
            data.train.labels, unlabeled_share, SPLIT_SEED, "unlabeled"
        )
        if not len(dropped):
            raise UserError(
                f"datasets.{target.name}.unlabeled_share: expected some of the {len(data.train)} "
                f"training images, got none at {unlabeled_share:g}; raise it"
            )
        files[target / "train.pt"] = data.train.select(kept)
        files[target / "unlabeled.pt"] = data.train.select(dropped)
    return files
