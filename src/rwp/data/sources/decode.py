"""Image files to arrays, in parallel. Imports no torch: worker processes start quickly."""

from __future__ import annotations

import io
import multiprocessing
import os
import struct
import warnings
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rwp.data.sizes import box_average
from rwp.data.sources.image_tree import TreeEntry
from rwp.errors import UserError, in_one_line

_CHUNK = 256
_CHUNK_BYTES = _CHUNK * 3 * 224 * 224  # that wait together; larger images wait in fewer
_MOST_CORES = 16
_SERIAL_LIMIT = 8 * _CHUNK  # below this, starting worker processes costs more than it saves
_SERIAL_BYTES = 8 * _CHUNK_BYTES  # of an archive's files; from here on they are worth it, too
_FORMATS = ("PNG", "JPEG", "MPO")  # MPO: a JPEG file with further pictures behind the first
_CHANNEL_MODES = {
    "1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"
}  # fmt: skip
_SRGB_GAMMA = 0.45455
_SRGB_SLACK = 8  # levels of a middle gray, by which versions of sRGB's profile differ at most
_PNG_START = b"\x89PNG\r\n\x1a\n"
_CICP_SRGB = bytes((1, 13, 0, 1))  # primaries and curve by ITU-T H.273, then no matrix, full range
_CHRM_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # x and y of white, red, green, blue
_ORIENTATION = 0x0112
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the kind of color
_PALETTE = 3
# Of an interlaced PNG the seven parts: left, top, and steps to the right and down.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Decoded(NamedTuple):
    """A file (without its bytes), its pixels, and what was done to them."""

    entry: TreeEntry
    pixels: NDArray[np.uint8]  # (channels, height, width)
    notes: list[str]


def decode_all(entries: Iterable[TreeEntry], image_size: int | None) -> Iterator[Decoded]:
    """Decode files in their order, on all cores when there are many.

    Yields:
        The entry (without its bytes), its pixels, uint8 (channels, height, width), and notes. After
        a picture of another shape than the first one's, some may be left out.

    Raises:
        UserError: a file is no readable gray or RGB image; a process that decodes was killed.
    """
    stream = iter(entries)
    first = _taken(stream, _SERIAL_LIMIT, _SERIAL_BYTES)
    few = len(first) < _SERIAL_LIMIT and sum(map(_held, first)) < _SERIAL_BYTES
    workers = _cores()
    every = chain(_emptied(first), stream)
    if few or workers < 2:
        for entry in every:
            yield _decoded(entry, image_size)
        return
    opening = _decoded(next(every), image_size)
    yield opening
    # spawn: a fork would copy torch's locked thread pools
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        pending: deque[Future[list[Decoded]]] = deque()
        try:
            for chunk in _chunks(every, opening.pixels.nbytes):
                pending.append(pool.submit(_decode_chunk, chunk, image_size, opening.pixels.shape))
                if len(pending) > 4 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{opening.entry.name} and those after it: expected {workers} processes that decode"
                " images, got one that was killed, for want of memory most often; free some, or "
                "allow fewer cores (taskset), and run the same command again"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _cores() -> int:
    """Those that this process may use; all of them where nothing tells, as on macOS.

    Not more than are worth their memory: a limit on their time is not seen here.
    """
    tells = hasattr(os, "sched_getaffinity")
    return min(_MOST_CORES, len(os.sched_getaffinity(0)) if tells else os.cpu_count() or 1)


def _chunks(stream: Iterator[TreeEntry], pixels: int) -> Iterator[list[TreeEntry]]:
    """Those that are decoded together; `pixels`: bytes that each of them becomes."""
    while chunk := _taken(stream, _CHUNK, _CHUNK_BYTES, pixels):
        yield list(chunk)


def _taken(
    stream: Iterator[TreeEntry], most: int, most_bytes: int, each: int = 0
) -> deque[TreeEntry]:
    """The next entries, until they are so many or so large; each counts with so many bytes more."""
    taken: deque[TreeEntry] = deque()
    size = 0
    while len(taken) < most and size < most_bytes and (entry := next(stream, None)) is not None:
        taken.append(entry)
        size += _held(entry) + each
    return taken


def _held(entry: TreeEntry) -> int:
    """Bytes of an archive's file; one of a folder is read where it is decoded."""
    return len(entry.source) if isinstance(entry.source, bytes) else 0


def _emptied(entries: deque[TreeEntry]) -> Iterator[TreeEntry]:
    """The entries, none of which is kept."""
    while entries:
        yield entries.popleft()


def _decode_chunk(
    entries: list[TreeEntry], image_size: int | None, shape: tuple[int, ...]
) -> list[Decoded]:
    """As far as the first picture of another shape, which ends it all."""
    found: list[Decoded] = []
    for entry in entries:
        found.append(_decoded(entry, image_size))
        if found[-1].pixels.shape != shape:
            break
    return found


def _decoded(entry: TreeEntry, image_size: int | None) -> Decoded:
    return Decoded(TreeEntry(entry.parts, None), *decode_image(entry, image_size))


def decode_image(entry: TreeEntry, image_size: int | None) -> tuple[NDArray[np.uint8], list[str]]:
    """One file's pixels, and what was done so that they are those that a viewer shows.

    A picture is turned as its EXIF orientation says and brought to sRGB where its color profile
    says otherwise; alpha that hides nothing is dropped. With `image_size` the center square is
    kept and averaged down to that many pixels.

    Raises:
        UserError: the file cannot be read as one gray or RGB image of 8 bits, is damaged (as far
            as its format tells: a PNG has checksums, a JPEG a mark at its end alone), or what it
            shows hangs on something that is not in it.
    """
    content = b""
    try:
        source = entry.source or b""
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
        with image:
            _refuse(image, entry, content)
            pixels, notes = _as_shown(image, entry)
            if image_size is not None:
                notes += ["cropped to the square in its middle"] * (pixels.width != pixels.height)
                pixels = _center_square(pixels, image_size, entry)
            array = np.array(pixels)
            if image.format != "PNG":
                _require_end_of_jpeg(content)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _unreadable(
            entry, "an image of fewer pixels", in_one_line(error, named=False), "scale it down"
        ) from (error)
    except UserError:
        raise
    except Exception as error:  # a damaged file may raise anything
        what = _foreign(content) or f"{type(error).__name__} ({in_one_line(error, named=False)})"
        raise _unreadable(entry, "a readable image", what, "replace or remove it") from error
    array = array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
    return array if image_size is None else box_average(array, image_size), notes


def _refuse(image: Image.Image, entry: TreeEntry, content: bytes) -> None:
    """What cannot be told apart from its file alone is refused by its name."""
    if image.format not in _FORMATS:
        raise _unreadable(entry, "a PNG or JPEG file", f"{image.format} inside", "convert it")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format == "PNG":
        raise _unreadable(entry, "one picture", f"an animation of {frames}", "keep one of them")
    if image.format == "PNG":
        chunks = list(_png_chunks(content))
        _refuse_by_chunks(dict(chunks), entry)
        _require_all_rows(chunks)
        _set_right(image, dict(chunks))
    if image.mode == "CMYK":
        raise _unreadable(
            entry, "a gray or RGB image", "CMYK, the colors of print", "convert it to RGB"
        )
    if image.mode not in _CHANNEL_MODES:
        raise _unreadable(entry, "a gray or RGB image", f"mode {image.mode}", "convert it")
    gamma = image.info.get("gamma")
    if gamma and "srgb" not in image.info and abs(gamma - _SRGB_GAMMA) > 0.01:
        raise _unreadable(
            entry, f"sRGB's gamma ({_SRGB_GAMMA})", f"{gamma:g}", "convert it to sRGB"
        )


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes of each chunk of a PNG; Pillow looks at no checksum of pixels.

    Raises:
        ValueError: the file is cut, or a checksum says that its bytes are others than were written.
    """
    place, kind = len(_PNG_START), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        end = place + 8 + length
        if end + 4 > len(content):
            raise ValueError("the file is cut")
        if zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4]):
            raise ValueError("its bytes do not fit their checksum")
        yield kind, content[place + 8 : end]
        place = end + 4


def _require_all_rows(chunks: list[tuple[bytes, bytes]]) -> None:
    """Pillow paints black what its stream of rows lacks, and what is no color of a palette.

    Raises:
        ValueError: rows lack.
    """
    header = dict(chunks)[b"IHDR"]
    width, height = struct.unpack(">II", header[:8])
    bits, kind, interlaced = header[8], header[9], header[12]
    size = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + -(-columns * bits * _PNG_CHANNELS[kind] // 8))
    stream = zlib.decompressobj()
    found = len(stream.decompress(b"".join(body for name, body in chunks if name == b"IDAT"), size))
    if found < size:
        raise ValueError(f"its pixels are cut: {found} of {size} bytes")


def _set_right(image: Image.Image, chunks: dict[bytes, bytes]) -> None:
    """Refuse indexes beyond the palette; name the transparent gray as Pillow reads grays.

    Raises:
        ValueError: there are some.
    """
    bits, kind = chunks[b"IHDR"][8], chunks[b"IHDR"][9]
    if kind == _PALETTE:
        colors, largest = len(chunks.get(b"PLTE", b"")) // 3, int(np.asarray(image).max())
        if largest >= colors:
            raise ValueError(f"color {largest} of a palette of {colors}")
    if kind == 0 and 1 < bits < 8 and b"tRNS" in chunks:
        gray = int.from_bytes(chunks[b"tRNS"][:2])
        image.info["transparency"] = gray * 255 // (2**bits - 1)


def _require_end_of_jpeg(content: bytes) -> None:
    """Pillow paints gray what is missing of a file whose rest is zeros, as broken downloads are.

    Raises:
        ValueError: no mark of the end behind the beginning of the pixels.
    """
    place = 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
        is_fill = content[place + 1 : place + 2] == b"\xff"
        place += 1 if is_fill else 2 + int.from_bytes(content[place + 2 : place + 4])
    if b"\xff\xd9" not in content[place:]:
        raise ValueError("the file is cut: its end is not marked")


def _refuse_by_chunks(chunks: dict[bytes, bytes], entry: TreeEntry) -> None:
    """What Pillow reads as 8-bit sRGB and does not say so."""
    bits = chunks[b"IHDR"][8]
    if bits > 8:
        raise _unreadable(entry, "8 bits per channel", f"{bits}", "convert it")
    colors = chunks.get(b"cICP", _CICP_SRGB)
    if colors[:2] != _CICP_SRGB[:2]:
        got = f"those of its chunk cICP ({', '.join(map(str, colors[:2]))})"
        raise _unreadable(entry, "sRGB's colors", got, "convert it to sRGB")
    said = {b"sRGB", b"iCCP", b"cICP"} & chunks.keys()  # each of which counts more than cHRM
    primaries, in_color = chunks.get(b"cHRM", b""), chunks[b"IHDR"][9] & 2
    if in_color and not said and len(primaries) == 4 * len(_CHRM_SRGB):
        numbers = [value / 100_000 for value in struct.unpack(">8I", primaries)]
        if any(abs(a - b) > 0.005 for a, b in zip(numbers, _CHRM_SRGB, strict=True)):
            got = f"the primaries {', '.join(f'{value:g}' for value in numbers[2:])}"
            raise _unreadable(entry, "sRGB's colors", got, "convert it to sRGB")


def _as_shown(image: Image.Image, entry: TreeEntry) -> tuple[Image.Image, list[str]]:
    """The picture as a viewer shows it, gray (L) or RGB, and what had to be done for that."""
    notes = []
    mode = _CHANNEL_MODES[image.mode]
    profile = image.info.get("icc_profile")
    orientation = image.getexif().get(_ORIENTATION, 1)
    if image.format == "PNG" and not entry.parts[-1].lower().endswith(".png"):
        notes.append("PNG inside a file of another name")
    if image.format != "PNG" and entry.parts[-1].lower().endswith(".png"):
        notes.append("JPEG inside a file named .png")
    if image.format == "MPO":
        notes.append("the first of several pictures in a file")
    has_alpha = image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
    if has_alpha:
        if np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
            raise _unreadable(
                entry, "an opaque image", "transparency", "lay it over a background of your choice"
            )
        notes.append("alpha dropped that hides nothing")
    pixels = image if image.mode == mode else image.convert(mode)
    if profile:
        pixels, name = _to_srgb(pixels, profile, entry)
        notes += [f"brought to sRGB from the profile {name}"] if name else []
    if orientation in range(2, 9):
        pixels = pixels.transpose(_TURNS[orientation])
        notes.append("turned as the EXIF orientation says")
    return pixels, notes


def _to_srgb(pixels: Image.Image, profile: bytes, entry: TreeEntry) -> tuple[Image.Image, str]:
    """The picture in sRGB, and the name of its profile unless it is sRGB already."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = " ".join(ImageCms.getProfileDescription(source).split()) or "without a name"
        target = ImageCms.createProfile("sRGB")
        if "srgb" in name.lower() and pixels.mode == "RGB":
            # A name may say less than there is, such as GIMP's "built-in Linear sRGB".
            gray = Image.new("RGB", (1, 1), (128, 128, 128))
            gray = ImageCms.profileToProfile(gray, source, target) or gray
            if abs(int(np.asarray(gray).mean()) - 128) <= _SRGB_SLACK:
                return pixels, ""
        shown = ImageCms.profileToProfile(pixels, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise _unreadable(
            entry,
            "a color profile that fits",
            f"another ({in_one_line(error, named=False)})",
            "convert it to sRGB",
        ) from error
    if shown is None:
        raise TypeError("expected a converted picture, got none")
    return (shown if pixels.mode == "RGB" else shown.getchannel(0)), name


def _center_square(image: Image.Image, size: int, entry: TreeEntry) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    if size > side:
        raise SizeError(
            f"{entry.name}: expected at least {size} pixels (image_size), got {width}x{height}; "
            "lower image_size"
        )
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


# What files begin with that are often named like images.
_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer (run git lfs pull)",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML or SVG file",
    b"<svg": "an SVG file",
    b"%pdf": "a PDF file",
    b"\x00\x05\x16\x07": "what macOS notes about a file",
}


def _foreign(content: bytes) -> str:
    """What a file is that is no image, where its first bytes tell."""
    start = content[:32]
    if not start:
        return "an empty file"
    if start[4:8] == b"ftyp":
        return f"a {start[8:12].decode('ascii', 'replace').upper()} file (HEIC, AVIF or video)"
    start = start.lstrip().lower()
    return next((name for key, name in _STARTS.items() if start.startswith(key)), "")


class SizeError(UserError):
    """Images of a size that does not fit; another `image_size` may help."""


def _unreadable(entry: TreeEntry, expected: str, got: str, advice: str) -> UserError:
    return UserError(f"{entry.name}: expected {expected}, got {got}; {advice}")
