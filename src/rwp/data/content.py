"""A hash of a user's own images, byte for byte: an input of the fetch.

Names, sizes and hashes of all files count; when a file was touched or copied does not. A file is
read again only if its size or its time has changed.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rwp.data.sources.image_tree import is_clutter
from rwp.errors import UserError
from rwp.files import read_json, sha256_file, write_json

CACHE = Path(".state") / "content"  # relative to the project


def content_of(place: Path | str, cache: Path = CACHE) -> str:
    """A hash of a folder of images, or of one file; empty where nothing lies there.

    Args:
        place: the folder, archive or file.
        cache: folder with what was hashed before; it may be missing, damaged or read-only.
    """
    path = Path(place)
    known_at = cache / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}.json"
    known = _known(known_at)
    files = {"": path} if path.is_file() else dict(_files(path))
    found: dict[str, list[Any]] = {}
    for name, file in files.items():
        status = file.stat()
        size, time = status.st_size, status.st_mtime_ns
        before = known.get(name)
        same = isinstance(before, list) and len(before) == 3 and before[:2] == [size, time]
        found[name] = [size, time, before[2] if same and before else sha256_file(file)]
    if not found:
        return ""
    if found != known:
        _keep(known_at, found)
    digest = hashlib.sha256()
    # The reader takes é as one letter, however a system writes it.
    known_as = {name: unicodedata.normalize("NFC", name) for name in found}
    for key in sorted(found, key=known_as.__getitem__):
        name, (size, _, sha256) = known_as[key], found[key]
        digest.update(f"{name}\0{size}\0{sha256}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """The files that a reader of the folder looks at, by their name below it."""
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in map(os.path.realpath, Path(folder).parents):
            subfolders.clear()  # a link to a folder that it lies in: the reader refuses it
            continue
        subfolders[:] = [name for name in subfolders if not is_clutter(name)]
        for name in names:
            file = Path(folder, name)
            if not is_clutter(name) and file.is_file():
                yield file.relative_to(root).as_posix(), file


def _known(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (UserError, OSError):
        return {}
    return content if isinstance(content, dict) else {}


def _keep(path: Path, found: dict[str, list[Any]]) -> None:
    try:
        write_json(path, found)
    except (UserError, OSError, UnicodeError):
        return  # it is hashed again next time
