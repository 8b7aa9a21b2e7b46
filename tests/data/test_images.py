import os
from pathlib import Path

import pytest
import torch

from rwp.data.images import ImageSet
from rwp.errors import UserError


def images(count: int = 6, channels: int = 3) -> torch.Tensor:
    return torch.arange(count * channels * 4, dtype=torch.uint8).view(count, channels, 2, 2)


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_a_saved_set_comes_back_equal_and_mapped(tmp_path):
    saved = ImageSet(images(), labels(0, 1, 2, -1, 2, 2), 3)
    saved.save(tmp_path / "train.pt")
    loaded = ImageSet.load(tmp_path / "train.pt")
    assert torch.equal(loaded.images, saved.images)
    assert torch.equal(loaded.labels, saved.labels)
    assert loaded.num_classes == 3
    assert loaded.shape == (3, 2, 2)
    assert loaded.class_counts() == [1, 1, 3]
    if (maps := Path("/proc/self/maps")).exists():
        assert str(tmp_path / "train.pt") in maps.read_text()


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("one.pt", "another.pt"):
        ImageSet(images(), labels(0, 1, 0, 1, 0, 1), 2).save(tmp_path / name)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_a_view_saves_only_what_it_shows(tmp_path):
    ImageSet(images(6)[:2], labels(0, 1), 2).save(tmp_path / "view.pt")
    ImageSet(images(6)[:2].clone(), labels(0, 1), 2).save(tmp_path / "copy.pt")
    assert os.path.getsize(tmp_path / "view.pt") == os.path.getsize(tmp_path / "copy.pt")


@pytest.mark.parametrize("outside", [3, -2, 10])
def test_labels_outside_the_classes_are_refused(outside):
    with pytest.raises(UserError, match=rf"expected 0\.\.2 .* got {outside} at image 1 \(1 such\)"):
        ImageSet(images(3), labels(0, outside, 2), 3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (images(2).float(), "expected uint8"),
        (images(2)[0], "expected uint8"),
        (images(2, channels=2), "1 or 3"),
        (images(3), r"expected int64 \(3,\)"),
    ],
)
def test_wrong_tensors_are_refused(bad, message):
    with pytest.raises(UserError, match=message):
        ImageSet(bad, labels(0, 1), 2)


@pytest.mark.parametrize("kept", [0, 10, 300, -1])
def test_a_truncated_file_is_named(tmp_path, kept):
    path = tmp_path / "train.pt"
    ImageSet(images(), labels(0, 1, 0, 1, 0, 1), 2).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"train\.pt: expected an image set, got a truncated"):
        ImageSet.load(path)


def test_foreign_and_missing_files_are_named(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: expected an image set .*another kind"):
        ImageSet.load(tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"found no file"):
        ImageSet.load(tmp_path / "none.pt")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "train.pt"
    old = ImageSet(images(), labels(0, 1, 0, 1, 0, 1), 2)
    old.save(path)
    save = torch.save

    def into_full_device(content, stream):
        with open("/dev/full", "wb") as full:  # the kernel's own "no space left on device"
            save(content, full)

    monkeypatch.setattr(torch, "save", into_full_device)
    with pytest.raises(UserError, match=r"train\.pt.*[Nn]o space"):
        ImageSet(images().flip(0), labels(1, 0, 1, 0, 1, 0), 2).save(path)
    assert torch.equal(ImageSet.load(path).images, old.images)
    assert [file.name for file in tmp_path.iterdir()] == ["train.pt"]


def test_channel_statistics_are_those_of_the_pixels():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (5000, 3, 2, 3), dtype=torch.uint8, generator=generator)
    pixels[:, 1] //= 4
    mean, std = ImageSet(pixels, torch.arange(5000) % 7, 7).channel_statistics()
    exact = pixels.double() / 255
    assert mean == pytest.approx(exact.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std == pytest.approx(exact.std((0, 2, 3), unbiased=False).tolist(), abs=1e-6)
    pixels[:, 2] = 9
    with pytest.raises(UserError, match="got one value throughout channel 2"):
        ImageSet(pixels, torch.arange(5000) % 7, 7).channel_statistics()


def test_channel_statistics_of_many_blocks(monkeypatch):
    pixels = torch.randint(256, (50, 3, 2, 3), dtype=torch.uint8)
    found = ImageSet(pixels, torch.arange(50) % 7, 7)
    whole = found.channel_statistics()
    monkeypatch.setattr("rwp.data.images._VALUES", 7 * 18)  # seven images at once
    assert found.channel_statistics() == whole
