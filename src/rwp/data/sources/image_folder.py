"""Any tree train/<class>/*.png|jpg|jpeg + test/<class>/..., as a folder or an archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rwp.data.images import UNLABELED, ImageSet, SourceData
from rwp.data.sources.decode import Decoded, SizeError, decode_all
from rwp.data.sources.image_tree import TreeEntry, iterate_tree
from rwp.errors import UserError

_SPLITS = ("train", "test")


def load_image_folder(path: str | None, image_size: int | None) -> SourceData:
    """Read both splits; classes are the folder names in alphabetical order.

    Raises:
        UserError: the tree has another layout, an empty class, an unreadable image, or images
            of several sizes and no `image_size`.
    """
    if path is None:
        raise UserError("path: expected a folder or an archive for an image_folder, got none")
    folders: set[tuple[str, ...]] = set()
    hidden: set[tuple[str, ...]] = set()
    decoded = decode_all(_tree_files(Path(path), folders, hidden), image_size)
    images, notes = _collected(path, decoded)
    class_names = _class_names(path, folders, images)
    notes += _note_on_numbers(class_names)
    notes += _note_on_hidden({parts for parts in hidden if len(parts) > 1})  # inside of a split
    sets = {}
    for split in _SPLITS:
        keys = sorted(key for key in images if key[0] == split)
        labels = torch.tensor([class_names.index(key[1]) for key in keys])
        stacked = torch.from_numpy(np.stack([images.pop(key) for key in keys]))
        sets[split] = ImageSet(stacked, labels, len(class_names))
    return SourceData(
        train=sets["train"],
        test=sets["test"],
        class_names=class_names,
        origin=path,
        license="not stated by the folder; ask whoever made it",
        notes=notes,
    )


def _note_on_numbers(class_names: list[str]) -> list[str]:
    """Folders 0 to 10 in alphabetical order: "10" is class 2, as torchvision has it too."""
    for place, name in enumerate(class_names):
        if all(map(str.isdecimal, class_names)) and int(name) != place:
            return [
                f"the class folder {name} is class {place}: folders are counted in alphabetical "
                "order; pad their numbers with zeros where a network expects the numbers"
            ]
    return []


def _note_on_hidden(hidden: set[tuple[str, ...]]) -> list[str]:
    """Folders and images whose names begin with a dot."""
    found = sorted(hidden)
    if not found:
        return []
    name = TreeEntry(found[0], None).name
    which = "folder or image was" if len(found) == 1 else "folders or images were"
    return [f"{len(found)} hidden {which} left out, such as {name}; rename what is meant"]


def load_unlabeled_folder(
    path: str, image_size: int | None, num_classes: int
) -> tuple[ImageSet, list[str]]:
    """Every image under `path`, at any depth, without labels; and what was done to them.

    Raises:
        UserError: there is no image, or one is unreadable or of another size.
    """
    hidden: set[tuple[str, ...]] = set()
    files = (entry for entry in iterate_tree(Path(path), hidden) if entry.source is not None)
    found, notes = _collected(path, decode_all(files, image_size))
    if not found:
        raise UserError(f"{path}: expected images, found none; check the path")
    notes += _note_on_hidden(hidden)
    pixels = torch.from_numpy(np.stack([found[key] for key in sorted(found)]))
    return ImageSet(pixels, torch.full((len(pixels),), UNLABELED), num_classes), notes


def _tree_files(
    path: Path, folders: set[tuple[str, ...]], hidden: set[tuple[str, ...]]
) -> Iterator[TreeEntry]:
    """The files of both splits as (split, class, file); class folders are noted on the way, and
    what is hidden."""
    tops: set[str] = set()
    for entry in iterate_tree(path, hidden):
        parts = entry.parts
        if parts[0] not in _SPLITS:  # one folder around the tree, as archives often have
            tops.add(parts[0])
            parts = parts[1:]
        else:
            tops.add("")
        is_class = entry.source is None and len(parts) == 2
        is_file = entry.source is not None and len(parts) == 3
        is_outer = entry.source is None and len(parts) < 2
        foreign = bool(parts) and parts[0] not in _SPLITS
        if len(tops) > 1 or foreign or not (is_class or is_file or is_outer):
            raise UserError(
                f"{path}: expected train/<class>/<image> and test/<class>/<image>, "
                f"got {entry.name}; rearrange the tree"
            )
        if is_outer:
            continue
        _refuse_unwritable(path, parts[1])
        folders.add(parts[:2])
        if is_file:
            yield TreeEntry(parts, entry.source)


def _refuse_unwritable(path: Path, class_name: str) -> None:
    """Bytes that are no UTF-8 would stand in a passport that nobody can read."""
    try:
        class_name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}: expected class folders with names that can be written, got {class_name!r}; "
            "rename it"
        ) from error


def _collected(
    path: str, decoded: Iterable[Decoded]
) -> tuple[dict[tuple[str, ...], NDArray[np.uint8]], list[str]]:
    """The pixels by file, of one shape throughout, and one line per kind of note."""
    first: tuple[str, tuple[int, ...]] | None = None
    images: dict[tuple[str, ...], NDArray[np.uint8]] = {}
    noted: dict[str, list[str]] = {}
    for entry, pixels, notes in decoded:
        first = first or (entry.name, pixels.shape)
        if pixels.shape != first[1]:
            text = (
                f"{path}: expected images of one size and kind, {_shape(first[1])} as in "
                f"{first[0]}, got {_shape(pixels.shape)} in {entry.name}; convert it"
            )
            of_one_kind = pixels.shape[0] == first[1][0]
            raise SizeError(f"{text} or set image_size") if of_one_kind else UserError(text)
        if entry.parts in images:
            raise UserError(f"{path}: expected each file once, got {entry.name} twice; remove one")
        images[entry.parts] = pixels
        for note in notes:
            noted.setdefault(note, []).append(entry.name)
    lines = [
        f"{len(names)} {'image' if len(names) == 1 else 'images'} {note} (such as {min(names)})"
        for note, names in sorted(noted.items())
    ]
    return images, lines


def _shape(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{'gray' if channels == 1 else 'RGB'} {width}x{height}"


def _class_names(
    path: str, folders: set[tuple[str, ...]], images: dict[tuple[str, ...], NDArray[np.uint8]]
) -> list[str]:
    """The classes of both splits, which must agree and have images."""
    filled = {key[:2] for key in images}
    empty = sorted(folders - filled)
    if empty:
        raise UserError(
            f"{path}: expected images in every class folder, found none in "
            f"{'/'.join(empty[0])}; add some or remove the folder"
        )
    train, test = ({key[1] for key in filled if key[0] == split} for split in _SPLITS)
    if filled and not (train and test):
        present, absent = ("train", "test") if train else ("test", "train")
        raise UserError(
            f"{path}: expected the same classes in train and test, got {present}/ without "
            f"{absent}/; add {absent}/<class>/ with images of its own"
        )
    if train != test:
        raise UserError(
            f"{path}: expected the same classes in train and test, "
            f"got {', '.join(sorted(train ^ test))} in only one of them; complete the tree"
        )
    if len(train) < 2:
        raise UserError(
            f"{path}: expected train/<class>/ with at least 2 classes, found {len(train)}; "
            "check the path"
        )
    return sorted(train)
