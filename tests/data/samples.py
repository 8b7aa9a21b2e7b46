"""Tiny files in the official formats, and trees of small images."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from rwp.data.images import ImageSet
from rwp.data.spec import DatasetSpec, UnlabeledSpec

CLASSES = ["cat", "dog", "eel"]
LABELS = np.array([0, 3, 9, 2])
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"


def dataset(source: str, **fields: Any) -> DatasetSpec:
    if source == "digits":
        fields.setdefault("test_share", 0.3)
    return DatasetSpec(source=source, **fields)  # type: ignore[arg-type]


def unlabeled(kind: str, **fields: Any) -> UnlabeledSpec:
    return UnlabeledSpec(kind=kind, **fields)  # type: ignore[arg-type]


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pixels(count: int, seed: int = 0, side: int = 32) -> np.ndarray:
    """Random images as arrays, channels last."""
    shape = (count, side, side, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def official_cifar10(
    monkeypatch: pytest.MonkeyPatch, url: str, *, labels: tuple[int, ...] = tuple(range(10))
) -> bytes:
    """An archive in CIFAR-10's format with one training batch and one test batch, which
    torchvision is told to be the official one."""
    members = {"data_batch_1": (pixels(10, 1), labels), "test_batch": (pixels(10, 2), labels)}
    contents = {
        name: pickle.dumps({"data": images.transpose(0, 3, 1, 2).reshape(10, -1), "labels": [*ys]})
        for name, (images, ys) in members.items()
    }
    contents["batches.meta"] = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    archive = tar_of({f"cifar-10-batches-py/{name}": data for name, data in contents.items()})
    reader = datasets.CIFAR10
    hashes = {name: md5(data) for name, data in contents.items()}
    monkeypatch.setattr(reader, "url", url)
    monkeypatch.setattr(reader, "tgz_md5", md5(archive))
    monkeypatch.setattr(reader, "train_list", [["data_batch_1", hashes["data_batch_1"]]])
    monkeypatch.setattr(reader, "test_list", [["test_batch", hashes["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": hashes["batches.meta"]}
    monkeypatch.setattr(reader, "meta", meta)
    return archive


def official_svhn(
    monkeypatch: pytest.MonkeyPatch, address: str, labels: tuple[int, ...]
) -> dict[str, bytes]:
    """SVHN's three MATLAB files, which torchvision is told to be the official ones."""
    from scipy.io import savemat

    files, split_list = {}, {}
    for seed, split in enumerate(("train", "test", "extra")):
        stream = io.BytesIO()
        images = pixels(len(labels), seed).transpose(1, 2, 3, 0)
        savemat(stream, {"X": images, "y": np.array(labels, dtype=np.uint8)[:, None]})
        name = f"{split}_32x32.mat"
        files[name] = stream.getvalue()
        split_list[split] = [f"{address}/{name}", name, md5(files[name])]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    return files


def tar_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def image_file(array: np.ndarray, suffix: str = ".png") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, {".png": "PNG", ".jpg": "JPEG"}[suffix])
    return stream.getvalue()


def image_tree(per_class: int = 4, side: int = 12) -> dict[str, bytes]:
    """Paths and PNG files of a tree with three classes in both splits."""
    images = iter(pixels(2 * len(CLASSES) * per_class, seed=3, side=side))
    return {
        f"{split}/{name}/{index:03}.png": image_file(next(images))
        for split in ("train", "test")
        for name in CLASSES
        for index in range(per_class)
    }


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def generated(side: int = 32) -> bytes:
    """Four generated images with LABELS, in the format they are published in."""
    return npz(image=pixels(4, 1, side), label=LABELS)


def tinyimages(**change: Any) -> bytes:
    """Four images in the format of the published 500K pickle."""
    content = {"data": pixels(4, 2), "extrapolated_targets": LABELS, "prediction_model": "a name"}
    return pickle.dumps({**content, **change})


def split(root: Path, name: str, part: str = "train") -> ImageSet:
    """A fetched split."""
    return ImageSet.load(root / name / f"{part}.pt")


def passport(root: Path, name: str) -> dict[str, Any]:
    """The passport of a fetched data set."""
    return json.loads((root / name / "passport.json").read_text())


def write_passport(
    root: Path, name: str, *, notes: Sequence[str] = (), fingerprint: str = "", **files: Any
) -> None:
    """A passport of ten classes, with no images beside it; `train` and `test` replace fields."""
    usual = {"sha256": "0" * 64, "count": 40, "class_histogram": [4] * 10}
    splits = {"train": {}, "test": {}} | files
    passport = {
        "name": name,
        "source": "digits",
        "origin": "scikit-learn",
        "license": "CC BY 4.0",
        "num_classes": 10,
        "class_names": [str(number) for number in range(10)],
        "shape": [1, 8, 8],
        "fingerprint": fingerprint,
        "notes": list(notes),
        "files": {f"{split}.pt": usual | fields for split, fields in splits.items()},
    }
    path = root / name / "passport.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(passport), encoding="utf-8")
