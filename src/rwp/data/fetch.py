"""Bring a declared data set onto the disk: verified, converted once, described."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from rwp.data.content import content_of
from rwp.data.images import ImageSet
from rwp.data.passport import write_passport
from rwp.data.sources.digits import load_digits
from rwp.data.sources.image_folder import load_image_folder
from rwp.data.sources.torchvision_sets import TORCHVISION_SETS, load_torchvision_set
from rwp.data.specs import SPLIT_SEED, SourceData
from rwp.data.splits import stratified_split
from rwp.errors import UserError

if TYPE_CHECKING:
    from rwp.data.spec import DatasetSpec


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
    definition's mirror and the official address. Jobs that fetch the same set wait for each
    other.

    Raises:
        UserError: the source cannot be had, fails its checks, or has no place to go.
    """
    root = Path(directory)
    target = root / name
    with fetch_lock(root, name):
        passport = target / "passport.json"
        passport.unlink(missing_ok=True)  # files without a passport are not yet whole
        with own_images(origin or definition.path, fingerprint) as standing:
            data = _load_source(name, definition, root / "raw", origin or definition.mirror)
        files = _split_files(target, data, definition.unlabeled_share)
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
            notes=[*data.notes, *_shared_images(files)],
            class_names=data.class_names,
            standing=standing,
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


def _shared_images(files: dict[Path, ImageSet]) -> list[str]:
    """Images that are also in another split, or under another class, byte for byte."""
    places: dict[bytes, list[tuple[str, int]]] = {}
    for path, content in files.items():
        for image, label in zip(content.images.numpy(), content.labels.tolist(), strict=True):
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            places.setdefault(digest, []).append((path.stem, label))
    both = sum({"train", "test"} <= {split for split, _ in found} for found in places.values())
    torn = sum(len({label for _, label in found}) > 1 for found in places.values())
    notes = [(both, "both in train and in test"), (torn, "under more than one class")]
    return [
        f"{count} distinct {'image is' if count == 1 else 'images are'} {what}, byte for byte"
        for count, what in notes
        if count
    ]


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
        return load_image_folder(origin or definition.path, definition.image_size)
    if source in TORCHVISION_SETS:
        return load_torchvision_set(source, raw / source, origin)
    known = ", ".join(("digits", "image_folder", *TORCHVISION_SETS))
    raise UserError(f"datasets.{name}.source: expected {known}, got {source}; use one of them")


def _split_files(target: Path, data: SourceData, unlabeled_share: float) -> dict[Path, ImageSet]:
    files = {target / "train.pt": data.train, target / "test.pt": data.test}
    if unlabeled_share:
        kept, dropped = stratified_split(
            data.train.labels, unlabeled_share, SPLIT_SEED, "unlabeled"
        )
        files[target / "train.pt"] = data.train.select(kept)
        files[target / "unlabeled.pt"] = data.train.select(dropped)
    return files
