"""Unlabeled images for robust self-training: each source becomes one image set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rwp.data.download import Check, checksum, member_of, obtain
from rwp.data.fetch import (
    MOST_SHARED,
    fetch_lock,
    image_digests,
    own_images,
    refuse_other_images,
    require_shades,
    shared_note,
)
from rwp.data.images import ImageSet
from rwp.data.passport import Passport, read_dataset_passport, write_passport
from rwp.data.sources.arrays import check_npz, check_pickle, read_npz, read_tinyimages
from rwp.data.sources.image_folder import load_unlabeled_folder
from rwp.data.sources.torchvision_sets import load_svhn_extra
from rwp.data.spec import UnlabeledSpec
from rwp.errors import UserError

_NOT_STATED = "not stated; ask whoever made it"
_NO_TINYIMAGES = (
    "; the file derives from the withdrawn 80 Million Tiny Images and may be gone: where you "
    "cannot have it, name a generated source (ddpm-1m or edm-1m) as the recipe's unlabeled source"
)


class _Request(NamedTuple):
    name: str
    definition: UnlabeledSpec
    root: Path
    origin: str | None
    labeled: Passport | None  # the passport of the data set it is for


class _Found(NamedTuple):
    images: ImageSet
    origin: str
    license: str = _NOT_STATED
    notes: Sequence[str] = ()


def fetch_unlabeled(
    name: str,
    definition: UnlabeledSpec,
    directory: Path | str,
    *,
    origin: str | None = None,
    fingerprint: str | None = None,
) -> None:
    """Write `directory/unlabeled/name.pt` and its passport `name.json`.

    Labels are those the source ships (to compare a teacher with), or -1. `origin` (a folder,
    file or address) replaces the definition's url.

    Raises:
        UserError: the source cannot be had, is damaged, does not fit its data set, or holds most
            of its test images.
    """
    refuse_other_images(origin, f"unlabeled.{name}", definition.path)
    root = Path(directory)
    target = root / "unlabeled" / f"{name}.pt"
    with fetch_lock(root, f"unlabeled-{name}"):
        passport = target.with_suffix(".json")
        labeled = None
        if definition.dataset is not None:
            labeled = read_dataset_passport(root / definition.dataset)
        with own_images(definition.path, fingerprint) as standing:
            found = _find(_Request(name, definition, root, origin, labeled))
        if labeled is not None:
            _require_fit(name, found.images, labeled, str(definition.dataset))
        require_shades(found.images, found.origin)
        shared = _shared_images(root, definition.dataset, found)
        passport.unlink(missing_ok=True)  # files without a passport are not yet whole
        found.images.save(target)
        write_passport(
            passport,
            {target: found.images},
            name=name,
            source=definition.kind,
            origin=found.origin,
            license_words=definition.license or found.license,
            notes=[*found.notes, *shared],
            class_names=[] if labeled is None else labeled.class_names,
            standing=standing,
        )


def _find(request: _Request) -> _Found:
    readers = {
        "holdout": _holdout,
        "tinyimages-500k": _tinyimages,
        "npz": _npz,
        "svhn-extra": _svhn_extra,
        "image_folder": _image_folder,
    }
    kind = request.definition.kind
    if kind not in readers:
        raise UserError(
            f"unlabeled.{request.name}.kind: expected {', '.join(readers)}, got {kind}; "
            "use one of them"
        )
    return readers[kind](request)


def _holdout(request: _Request) -> _Found:
    dataset, labeled = request.definition.dataset, request.labeled
    if dataset is None or labeled is None:
        raise _missing(request, "dataset")
    path = request.root / dataset / "unlabeled.pt"
    if not path.exists():
        raise UserError(
            f"{path}: expected the unlabeled share of {dataset}, found none; set "
            f"datasets.{dataset}.unlabeled_share above 0 and fetch {dataset} again"
        )
    return _Found(ImageSet.load(path), f"the unlabeled share of {dataset}", labeled.license)


def _tinyimages(request: _Request) -> _Found:
    try:
        path, place = _obtain_file(request, check_pickle)
        return _Found(read_tinyimages(path), place)
    except UserError as error:
        raise UserError(f"{error}{_NO_TINYIMAGES}") from error


def _npz(request: _Request) -> _Found:
    path, place = _obtain_file(request, check_npz)
    labeled = request.labeled
    return _Found(read_npz(path, None if labeled is None else labeled.num_classes), place)


def _svhn_extra(request: _Request) -> _Found:
    with fetch_lock(request.root, "raw/svhn-extra"):
        return _Found(*load_svhn_extra(request.root / "raw" / "svhn", request.origin))


def _image_folder(request: _Request) -> _Found:
    path = request.definition.path
    if path is None:
        raise _missing(request, "path")
    if request.labeled is None:  # nothing else says how many classes a teacher may choose from
        raise _missing(request, "dataset")
    num_classes = request.labeled.num_classes
    images, notes = load_unlabeled_folder(path, request.definition.image_size, num_classes)
    return _Found(images, path, notes=notes)


def _obtain_file(request: _Request, check_format: Check) -> tuple[Path, str]:
    """The source's one file: the user's own where a path is given, else a checked download.

    Without a sha256 the format's own check decides whether a download is whole, and one from
    elsewhere is another; a file of a mirror on this machine is then read where it lies.
    """
    definition, origin = request.definition, request.origin
    check = checksum("sha256", definition.sha256) if definition.sha256 else check_format
    if definition.path is not None:
        path = Path(definition.path)
        if not path.is_file():
            raise UserError(f"{path}: expected a file, found none; check unlabeled.{request.name}")
        _pass(path, check)
        return path, str(path)
    known = definition.url or origin
    if known is None:
        raise _missing(request, "path or url")
    filename = PurePosixPath(known.split("?")[0]).name
    place = member_of(origin, filename) if origin is not None else known
    if definition.sha256 is None and Path(place).is_file():
        _pass(Path(place), check)
        return Path(place), place
    folder, mark = request.root / "raw" / "unlabeled", hashlib.sha256(place.encode()).hexdigest()
    target = folder / f"{request.name}-{mark[:8]}-{filename}"
    if definition.sha256 is not None and not target.exists():  # of any place, as it is that file
        target = folder / f"{request.name}-{filename}"
    obtain(place, target, check)
    return target, place


def _pass(path: Path, check: Check) -> None:
    try:
        check(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _missing(request: _Request, key: str) -> UserError:
    return UserError(
        f"unlabeled.{request.name}: expected {key} for {request.definition.kind}, got none; add it"
    )


def _shared_images(root: Path, dataset: str | None, found: _Found) -> list[str]:
    """How many images of the data set it is for are among the unlabeled ones, byte for byte.

    Raises:
        UserError: most of its test images are.
    """
    if dataset is None:
        return []
    here, notes = set(image_digests(found.images)), []
    for split, word in (("test", "test"), ("train", "training")):
        path = root / dataset / f"{split}.pt"
        digests = list(image_digests(ImageSet.load(path))) if path.exists() else []
        count = sum(digest in here for digest in digests)
        if split == "test" and count > MOST_SHARED * len(digests):
            raise UserError(
                f"{found.origin}: expected other images than the test images of {dataset}, got "
                f"{count} of these {len(digests)}, byte for byte, so that no accuracy would say "
                "anything; remove them"
            )
        notes += shared_note(count, len(digests), "among these", split=word)
        if split == "train" and count:
            notes[-1] += ", so that held-out images may be trained on"
    return notes


def _require_fit(name: str, images: ImageSet, labeled: Passport, dataset: str) -> None:
    """The images must look like those of the data set they are for."""
    wanted = (labeled.num_classes, list(labeled.shape))
    got = (images.num_classes, list(images.shape))
    if got != wanted:
        raise UserError(
            f"unlabeled.{name}: expected {wanted[0]} classes and images (channels, height, width) "
            f"{wanted[1]} as in {dataset}, got {got[0]} and {got[1]}; name another source"
        )
