"""Unlabeled images published as arrays: the 500K pickle and npz files of generated images."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwp.data.download import refuse_html
from rwp.data.images import ImageSet
from rwp.data.safe_pickle import load_arrays
from rwp.errors import UserError

_PICKLE_START, _PICKLE_END = b"\x80", b"."  # of protocol 2 and later


def check_pickle(path: Path) -> None:
    """Refuse what is not a whole pickle; a pickle ends with a full stop."""
    refuse_html(path)
    with path.open("rb") as stream:
        start = stream.read(1)
        if start:
            stream.seek(-1, os.SEEK_END)
        end = stream.read(1)
    if (start, end) != (_PICKLE_START, _PICKLE_END):
        raise UserError("expected a whole pickle, got a truncated or foreign file; fetch it again")


def check_npz(path: Path) -> None:
    """Refuse what is not a whole zip archive with sound checksums."""
    refuse_html(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged archive may raise anything
        raise UserError(
            f"expected a whole npz file, got a truncated or foreign one ({error}); fetch it again"
        ) from error
    if damaged is not None:
        raise UserError(
            f"expected a sound npz file, got damaged bytes in {damaged}; fetch it again"
        )


def read_tinyimages(path: Path) -> ImageSet:
    """The published pseudo-labeled Tiny Images (Carmon et al., 2019): 32x32 RGB, 10 classes.

    Raises:
        UserError: the pickle holds anything but arrays, or other arrays than these.
    """
    content = load_arrays(path)
    if not isinstance(content, dict) or not {"data", "extrapolated_targets"} <= set(content):
        raise UserError(f"{path}: expected the arrays data and extrapolated_targets, got others")
    return _image_set(path, content["data"], content["extrapolated_targets"], 10)


def read_npz(path: Path, num_classes: int | None) -> ImageSet:
    """Generated images with labels, under the keys `image` and `label`.

    Without `num_classes` there are as many as the labels say.

    Raises:
        UserError: an array is missing, is no plain array, or has another shape or type.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            images, labels = content["image"], np.asarray(content["label"])
    except Exception as error:  # a damaged archive may raise anything
        raise UserError(
            f"{path}: expected an npz file with the arrays image and label, got "
            f"{' '.join(str(error).split())}; give another file"
        ) from error
    if num_classes is None and labels.size and np.issubdtype(labels.dtype, np.integer):
        num_classes = int(labels.max()) + 1
    return _image_set(path, images, labels, num_classes or 1)


def _image_set(path: Path, images: Any, labels: Any, num_classes: int) -> ImageSet:
    """Arrays as they are published, channels last, to an image set."""
    labels = np.asarray(labels)
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype != np.uint8:
        raise UserError(
            f"{path}: expected images as uint8 (n, height, width, channels), "
            f"got {getattr(images, 'dtype', type(images).__name__)} {np.shape(images)}"
            "; give another file"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: expected labels as integers (n,), got {labels.dtype} {labels.shape}; "
            "give another file"
        )
    if not len(images):
        raise UserError(f"{path}: expected images, got none; give another file")
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    try:
        return ImageSet(pixels, torch.from_numpy(labels.astype(np.int64)), num_classes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
