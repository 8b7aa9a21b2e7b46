"""Tar archives, plain or compressed, read in one pass up to their very end."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self, cast

_BLOCK = 1 << 20


def tar_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Each member, and a stream of its bytes if it is a plain file; read it before the next one.

    Raises:
        tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError: the archive is damaged or
            cut, as far as its headers, its end and the checksums of its compression tell; or more
            follows behind its end.
    """
    with _decompressed(path) as stream:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member) as archive:
            place = 0
            for member in archive:
                if member.offset < place:  # a size below 0 would be read for ever
                    raise tarfile.ReadError("a member lies before the one that it follows")
                place = member.offset + tarfile.BLOCKSIZE
                yield member, archive.extractfile(member) if member.isreg() else None
        _require_end(stream)


def _decompressed(path: Path) -> IO[bytes]:
    """The archive's blocks, by what its first bytes say."""
    with path.open("rb") as stream:
        start = stream.read(10)
    if start.startswith(b"\x1f\x8b\x08"):
        return cast("IO[bytes]", gzip.open(path))
    if start.startswith(b"BZh") and start[4:] == b"1AY&SY":
        return cast("IO[bytes]", bz2.open(path))
    if start.startswith((b"\xfd7zXZ", b"\x5d\0\0\x80")):
        return cast("IO[bytes]", lzma.open(path))
    return path.open("rb")


class _Member(tarfile.TarInfo):
    """Python takes a damaged header of any member but the first for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == buf.count(0) == tarfile.BLOCKSIZE:
                raise  # the end
            raise tarfile.ReadError(str(error)) from error


def _require_end(stream: IO[bytes]) -> None:
    """A block of zeros was read; another one ends the archive, and zeros alone may follow it.

    Compressed files have their checksums behind the last byte.
    """
    rest = stream.read(tarfile.BLOCKSIZE)
    if len(rest) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends too early")
    while rest:
        if rest.count(0) < len(rest):
            raise tarfile.ReadError("more follows behind its end")
        rest = stream.read(_BLOCK)
