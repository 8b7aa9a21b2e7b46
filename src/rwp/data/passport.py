"""The JSON beside each data file: where it comes from and what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwp.data.images import UNLABELED, ImageSet
from rwp.files import sha256_file, write_json


def describe(path: Path, image_set: ImageSet) -> dict[str, Any]:
    """A saved split's hash, count and class histogram."""
    return {
        "sha256": sha256_file(path),
        "count": len(image_set),
        "unlabeled": int((image_set.labels == UNLABELED).sum()),
        "class_histogram": image_set.class_counts(),
    }


def write_passport(
    path: Path,
    files: dict[Path, ImageSet],
    *,
    name: str,
    source: str,
    origin: str,
    license_words: str,
    class_names: list[str],
) -> None:
    """Write the passport of the saved `files`, which share shape and classes."""
    first = next(iter(files.values()))
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
            "files": {file.name: describe(file, content) for file, content in files.items()},
        },
    )
