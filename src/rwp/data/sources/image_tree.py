"""The files of a folder, a tar archive or a zip archive, without unpacking anything."""

from __future__ import annotations

import os
import stat
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rwp.data.sources.tar import tar_members
from rwp.errors import UserError

# What operating systems leave between files.
_CLUTTER = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def is_clutter(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or left by an operating system."""
    return name.startswith(".") or name.lower() in _CLUTTER


class TreeEntry(NamedTuple):
    """One file or folder: its path inside the tree, and its bytes or its place on the disk."""

    parts: tuple[str, ...]
    source: bytes | str | None  # None: a folder

    @property
    def name(self) -> str:
        """The path as people write it, on one line whatever characters it has."""
        text = "/".join(self.parts).encode("utf-8", "backslashreplace").decode()
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def iterate_tree(path: Path, hidden: set[tuple[str, ...]] | None = None) -> Iterator[TreeEntry]:
    """Yield every folder and file under `path`; hidden ones are left out.

    `hidden` gets those that are named like folders or images of the user's, such as `.net`.

    Archives are read in one pass and never written to the disk, so nothing can land outside a
    folder; members that try to are refused all the same.

    Raises:
        UserError: the path is missing, is no folder or archive, or is a damaged archive; or a
            member is a link, is no image, or has a path that leaves the archive.
    """
    if path.is_dir():
        entries = _folder_entries(path)
    elif not path.is_file():
        raise UserError(
            f"{path}: expected a folder or an archive of images, found nothing; check the path"
        )
    elif zipfile.is_zipfile(path):
        entries = _zip_entries(path)
    else:
        entries = _tar_entries(path)
    for raw in entries:
        # one name for what looks the same: macOS writes accents as letters of their own
        entry = raw._replace(parts=tuple(unicodedata.normalize("NFC", part) for part in raw.parts))
        clutter = next((at for at, part in enumerate(entry.parts) if is_clutter(part)), None)
        if clutter is not None:
            if hidden is not None and _may_be_meant(entry, clutter):
                hidden.add(entry.parts[: clutter + 1])
            continue
        if entry.source is not None and not entry.parts[-1].lower().endswith(IMAGE_SUFFIXES):
            raise UserError(
                f"{path}: expected only {', '.join(IMAGE_SUFFIXES)} files, got {entry.name}; "
                "convert it or move it away"
            )
        yield entry


def _may_be_meant(entry: TreeEntry, at: int) -> bool:
    """Whether what is hidden by its name at this place could be a class or an image."""
    name = entry.parts[at]
    is_folder = entry.source is None or at < len(entry.parts) - 1
    own = name.startswith(".") and not name.startswith("._")
    return own and (is_folder or name.lower().endswith(IMAGE_SUFFIXES))


def _folder_entries(root: Path) -> Iterator[TreeEntry]:
    above: dict[str, tuple[str, ...]] = {}  # of each folder, the real places on the way to it
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_refuse_folder):
        parts = Path(folder).relative_to(root).parts
        yield from (TreeEntry((*parts, n), None) for n in sorted(subfolders) if n.startswith("."))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        real, outer = os.path.realpath(folder), above.get(os.path.dirname(folder), ())
        if real in outer:
            raise UserError(
                f"{folder}: expected a folder, got a link to one that it lies in; remove the link"
            )
        above[folder] = (*outer, real)
        if parts:
            yield TreeEntry(parts, None)
        for name in sorted(files):
            _refuse_special(os.path.join(folder, name))
            yield TreeEntry((*parts, name), os.path.join(folder, name))


def _refuse_folder(error: OSError) -> None:
    raise UserError(
        f"{error.filename}: expected a folder that can be read, got {error.strerror}; change its "
        "permissions or remove it"
    ) from error


def _refuse_special(path: str) -> None:
    """Reading a pipe would wait for ever."""
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise UserError(
            f"{path}: expected a file, got a link to nothing ({error.strerror}); remove it"
        ) from error
    if not is_file:
        raise UserError(f"{path}: expected a file, got a pipe, socket or device; remove it")


def _zip_entries(path: Path) -> Iterator[TreeEntry]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                parts = _member_parts(path, member.filename)
                if parts:
                    is_folder = member.is_dir()
                    yield TreeEntry(parts, None if is_folder else archive.read(member))
    except UserError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        raise _damaged(path, error) from error


def _tar_entries(path: Path) -> Iterator[TreeEntry]:
    try:
        for member, stream in tar_members(path):
            parts = _member_parts(path, member.name)
            if member.isdir():
                if parts:
                    yield TreeEntry(parts, None)
                continue
            if stream is None:
                raise UserError(
                    f"{path}: expected plain files, got a link or device at {member.name}; "
                    "pack the tree again without links"
                )
            yield TreeEntry(parts, stream.read())
    except UserError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        raise _damaged(path, error) from error


def _member_parts(path: Path, name: str) -> tuple[str, ...]:
    member = PurePosixPath(name.replace("\\", "/"))
    if member.is_absolute() or ".." in member.parts or ":" in name.split("/")[0]:
        raise UserError(
            f"{path}: expected paths inside the archive, got {name}, which leaves it; "
            "do not trust this archive"
        )
    return member.parts


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: expected a whole tar or zip archive of images, got a damaged or foreign file "
        f"({error}); fetch or pack it again"
    )
