"""The JSON beside each data file: where it comes from and what is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rwp.data.images import UNLABELED, ImageSet
from rwp.errors import UserError
from rwp.files import read_object, sha256_file, write_json


def describe(path: Path, image_set: ImageSet) -> dict[str, Any]:
    """A saved split's hash, count and class histogram."""
    return {
        "sha256": sha256_file(path),
        "count": len(image_set),
        "unlabeled": int((image_set.labels == UNLABELED).sum()),
        "class_histogram": image_set.class_counts(),
    }


def _statistics(image_set: ImageSet) -> dict[str, Any]:
    try:
        mean, std = image_set.channel_statistics()
    except UserError:  # flat images are no fault unless something normalizes by them
        return {}
    return {"mean": mean, "std": std}


def normalization(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and std of the training images in a data set's folder, as its passport has them.

    Raises:
        UserError: there is no passport, or one that has none.
    """
    content = read_object(folder / "passport.json")
    if "mean" not in content or "std" not in content:
        raise UserError(
            f"{folder / 'passport.json'}: expected the mean and std of the images, found none; "
            f"fetch the data again, or add them to datasets.{folder.name} in params.yaml"
        )
    return content["mean"], content["std"]


def write_passport(
    path: Path,
    files: dict[Path, ImageSet],
    *,
    name: str,
    source: str,
    origin: str,
    license_words: str,
    class_names: list[str],
    notes: Sequence[str] = (),
    standing: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the passport of the saved `files`, which share shape and classes.

    `standing` is what they stand on: a hash of the user's own images, the step's fingerprint.
    """
    first = next(iter(files.values()))
    statistics = _statistics(first)
    write_json(
        path,
        {
            "name": name,
            "source": source,
            "origin": origin,
            "license": license_words,
            "num_classes": first.num_classes,
            "class_names": class_names,
            "shape": list(first.shape),
            **statistics,
            **standing,
            "notes": list(notes),
            "files": {file.name: describe(file, content) for file, content in files.items()},
        },
    )
