"""The source behind a factory of the user's own, as a hash: part of the settings of its step.

Counted are its module, what that imports from the same package or, for modules of the user's own
folders, from there, and the packages around them. As for our own code, comments, docstrings and
formatting do not count.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from rwp.errors import UserError
from rwp.factories import file_of, own_folders, require_file
from rwp.pipeline.code import PACKAGE, Module


def source_of(text: str, *, where: str) -> str:
    """A hash of the code that `package.module:factory` stands on (12 digits).

    Raises:
        UserError: there is no such module, or one of them is no Python.
    """
    start = text.partition(":")[0]
    require_file(text, where=where)
    todo, parts = [start], {}
    while todo:
        name = todo.pop()
        path = _counted(name, start)
        if path is None or name in parts:
            continue
        stat = path.stat()
        parts[name], imports = _scan(path, name, stat.st_mtime_ns, stat.st_size, text)
        todo += imports
        todo += [name.rpartition(".")[0]] if "." in name else []  # its package's face runs, too
    digest = hashlib.sha256()
    for name, part in sorted(parts.items()):
        digest.update(f"{name}\n{part}\n".encode())
    return digest.hexdigest()[:12]


def _counted(name: str, start: str) -> Path | None:
    """The file of a module that counts: of the same package, or in the same own folder."""
    top = name.split(".")[0]
    if top == PACKAGE and start.split(".")[0] != PACKAGE:
        return None  # it has a hash of its own in every fingerprint
    path = file_of(name)
    if path is None:
        return None
    if top == start.split(".")[0]:
        return path
    return path if any(_lies_in(path, folder) for folder in own_folders()) else None


def _lies_in(path: Path, folder: Path) -> bool:
    try:
        inner = path.resolve().relative_to(folder)
    except ValueError:
        return False
    return not any(part.startswith(".") or part == "site-packages" for part in inner.parts)


@cache
def _scan(path: Path, name: str, changed: int, size: int, text: str) -> tuple[str, tuple[str, ...]]:
    """The hash of one module, and what it imports; read again only where it has changed."""
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16], ()
    try:
        found = Module(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        at = f" at line {line}" if line else ""
        raise UserError(
            f"{path}: expected Python for {text}, got {getattr(error, 'msg', error)}{at}; "
            "correct it"
        ) from error
    return found.hash, tuple(sorted(found.all_imports))
