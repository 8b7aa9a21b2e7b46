"""Files written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import filecmp
import glob
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwp.errors import UserError

# Names, in the environment, the file with the settings that a job was planned with.
SETTINGS_FILE = "RWP_SETTINGS"
# Marks a folder of gathered results, such as docs/results/mini-jpeg.
RESULTS_MANIFEST = "results.json"

_ADVICE = {
    errno.ENOSPC: "no space is left there; free some and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some and run the same command again",
    errno.EFBIG: "files may not be that large there; raise the limit (ulimit -f)",
    errno.EIO: "the disk does not answer as it should; check it or write to another place",
    errno.EACCES: "no permission to write there; change its owner or mode",
    errno.EPERM: "no permission to write there; change its owner or mode",
    errno.EROFS: "the file system is read-only; write to another place",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away",
    errno.EEXIST: "a file stands where a folder is needed; move it away",
    errno.EISDIR: "a folder stands where a file is needed; move it away",
}


@contextmanager
def atomic_write(path: Path | str, *, keep_equal: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place on success, remove it on failure.

    With `keep_equal`, a file that is there with the same bytes stays as it is, with its time.

    The bytes are on the disk before the name is, so a power cut leaves the old file or the new
    one. What a killed process left half-written for the same `path` is removed.

    Raises:
        UserError: the place cannot be written (no space, no permission, in the way).
    """
    target = Path(path)
    temporary: Path | None = None
    lock = -1
    try:
        with _explained(target):
            if target.exists() and not (target.is_file() or target.is_dir()):
                raise UserError(
                    f"{target}: expected the name of a file, got a device or a pipe; name a file"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(target)
            lock, temporary = _locked_temporary(target)
            with _locks_explained(target, temporary):
                yield temporary
            temporary.chmod(0o666 & ~_umask())
            if keep_equal and target.is_file() and filecmp.cmp(temporary, target, shallow=False):
                return
            _to_disk(temporary)
            temporary.replace(target)
            _to_disk(target.parent)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if lock >= 0:
            os.close(lock)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _ADVICE:
            raise UserError(
                f"{target}: expected a writable place, got {error.strerror}; {_ADVICE[error.errno]}"
            ) from error
        raise


@contextmanager
def _locks_explained(target: Path, temporary: Path) -> Iterator[None]:
    """On an SMB mount a lock keeps its own holder from writing through another descriptor."""
    try:
        yield
    except PermissionError as error:
        try:
            with temporary.open("r+b", buffering=0) as stream:
                stream.write(b"0")
        except PermissionError:
            raise UserError(
                f"{target}: expected a file system on which a locked file can be written, got"
                f" {error.strerror}; mount it so that locks stay on this machine (SMB: nobrl), or"
                " move the project"
            ) from error
        raise


def _locked_temporary(target: Path) -> tuple[int, Path]:
    """A fresh file beside `target`, locked as long as this process writes it."""
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: nobody can take it for abandoned either
            return handle, Path(name)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # taken for abandoned between its making and its locking


def _remove_abandoned(target: Path) -> None:
    """Remove temporaries of `target` whose writer is gone: the kernel has freed their lock."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        try:
            handle = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:
            continue
        finally:
            os.close(handle)


def _to_disk(path: Path) -> None:
    """Wait until a file or a folder's table of names is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems know no fsync
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def check_place(folder: Path | str) -> None:
    """See that a folder can be made, without making it: a run's folder says that the run is over.

    Raises:
        UserError: a file in the way, no permission, a read-only file system.
    """
    nearest = Path(folder)
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    with _explained(Path(folder)):
        if not nearest.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if os.statvfs(nearest).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` in one move."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as indented JSON, keys in the order given; NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected a JSON file, found none; build it first") from error
    except (ValueError, RecursionError) as error:  # no text, no JSON, or lists in lists in lists
        raise UserError(
            f"{path}: expected JSON, got something else ({error}); delete it and build it again"
        ) from error


def parse_json(text: str) -> Any:
    """Of a text; whole numbers that no float holds are refused, as nobody has measured them.

    Raises:
        ValueError: it is no JSON, or has such a number.
        RecursionError: it has lists or objects in one another without end.
    """

    def whole(digits: str) -> int:
        number = int(digits)
        if abs(number) > sys.float_info.max:
            raise ValueError(f"expected numbers up to 1e308, got one of {len(digits)} digits")
        return number

    return json.loads(text, parse_int=whole)


def read_object(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that holds one object, as all records do.

    Raises:
        UserError: the file is missing, is not JSON, or is another kind of JSON.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a record (a JSON object), got {type(content).__name__};"
            " delete it and build it again"
        )
    return content


def object_in(content: dict[str, Any], name: str) -> dict[str, Any]:
    """An object inside a record; empty where there is none, or another kind of JSON."""
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def objects_in(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects of a list inside a record; none where there is another kind of JSON."""
    found = content.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def sha256_file(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
