"""Image files to arrays, in parallel. Imports no torch: worker processes start quickly."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rwp.data.sources.image_tree import TreeEntry
from rwp.errors import UserError

_CHUNK = 256
_SERIAL_LIMIT = 8 * _CHUNK  # below this, starting worker processes costs more than it saves
_CHANNEL_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}

Decoded = tuple[TreeEntry, NDArray[np.uint8]]


def decode_all(entries: Iterable[TreeEntry], image_size: int | None) -> Iterator[Decoded]:
    """Decode files in their order, on all cores when there are many.

    Yields:
        The entry (without its bytes) and its pixels, uint8 (channels, height, width).

    Raises:
        UserError: a file is no readable gray or RGB image.
    """
    stream = iter(entries)
    first = list(islice(stream, _SERIAL_LIMIT))
    workers = len(os.sched_getaffinity(0))
    if len(first) < _SERIAL_LIMIT or workers < 2:
        for chunk in _chunks(chain(first, stream)):
            yield from _decode_chunk(chunk, image_size)
        return
    # spawn: a fork would copy torch's locked thread pools
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        pending: deque[Future[list[Decoded]]] = deque()
        try:
            for chunk in _chunks(chain(first, stream)):
                pending.append(pool.submit(_decode_chunk, chunk, image_size))
                if len(pending) > 4 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _chunks(entries: Iterable[TreeEntry]) -> Iterator[list[TreeEntry]]:
    stream = iter(entries)
    while chunk := list(islice(stream, _CHUNK)):
        yield chunk


def _decode_chunk(entries: list[TreeEntry], image_size: int | None) -> list[Decoded]:
    return [(TreeEntry(entry.parts, None), decode_image(entry, image_size)) for entry in entries]


def decode_image(entry: TreeEntry, image_size: int | None) -> NDArray[np.uint8]:
    """One file's pixels; with `image_size`, its short side is brought to that many pixels and
    the center square is kept.

    Raises:
        UserError: the file cannot be read as an image, or is neither gray nor RGB.
    """
    source = entry.source
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(stream) as image:  # type: ignore[arg-type]
            mode = _CHANNEL_MODES.get(image.mode)
            if mode is None or "transparency" in image.info:
                raise UserError(
                    f"{entry.name}: expected a gray or RGB image, got mode {image.mode} or "
                    "transparency; convert it"
                )
            pixels = image if image.mode == mode else image.convert(mode)
            if image_size is not None:
                pixels = _center_square(pixels, image_size)
            array = np.array(pixels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{entry.name}: expected a readable image, got {type(error).__name__} "
            f"({_one_line(error)}); replace or remove it"
        ) from error
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _center_square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
