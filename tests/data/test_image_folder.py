import io
import os
import random
import signal
import tarfile
import time
import zipfile
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rwp.core.models import build_network
from rwp.data.augmentation import augment
from rwp.data.images import ImageSet
from rwp.data.sampling import epoch_batches
from rwp.data.sources.image_folder import load_image_folder, load_unlabeled_folder
from rwp.data.sources.image_tree import TreeEntry
from rwp.data.spec import AugmentationSpec
from rwp.errors import UserError
from tests.data.samples import CLASSES, image_file, image_tree, pixels, tar_of, write_tree

CIFAR10_JPEG = "RWP_CIFAR10_JPEG"  # names the archive of all of CIFAR-10 as JPEG files


def packed(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        path.write_bytes(tar_of(files, {".xz": "w:xz", ".gz": "w:gz", ".tar": "w"}[path.suffix]))
    return path


def load(path: Path, image_size: int | None = None):
    return load_image_folder(str(path), image_size)


@pytest.fixture
def tree() -> dict[str, bytes]:
    return image_tree()


def test_a_tree_keeps_its_pixels_order_and_classes(tmp_path, tree):
    data = load(write_tree(tmp_path, tree))
    assert data.class_names == CLASSES
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.shape == (3, 12, 12)
    first = np.asarray(Image.open(io.BytesIO(tree["train/dog/002.png"])))
    assert torch.equal(data.train.images[6], torch.from_numpy(first.copy()).permute(2, 0, 1))


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "t.tar.xz", "t.zip"])
@pytest.mark.parametrize("top", ["", "./", "pets-master/"])
def test_archives_give_what_the_folder_gives(tmp_path, tree, name, top):
    shuffled = {f"{top}{key}": tree[key] for key in reversed(tree)}
    data = load(packed(tmp_path / name, {f"{top}train/.DS_Store": b"x", **shuffled}))
    expected = load(write_tree(tmp_path / "tree", tree))
    assert torch.equal(data.train.images, expected.train.images)
    assert torch.equal(data.test.images, expected.test.images)
    assert data.class_names == expected.class_names


def test_worker_processes_give_what_one_process_gives(tmp_path, tree, monkeypatch):
    from rwp.data.sources import decode

    write_tree(tmp_path, tree)
    expected = load(tmp_path)
    monkeypatch.setattr(decode, "_CHUNK", 5)
    monkeypatch.setattr(decode, "_SERIAL_LIMIT", 6)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert torch.equal(load(tmp_path).train.images, expected.train.images)


def test_a_process_that_is_killed_while_it_decodes_is_one_line(tmp_path, tree, monkeypatch):
    """As the system does for want of memory."""
    from rwp.data.sources import decode

    pool, killed = decode.ProcessPoolExecutor, (signal.SIGKILL,)
    dying = partial(pool, initializer=signal.raise_signal, initargs=killed)
    monkeypatch.setattr(decode, "ProcessPoolExecutor", dying)
    monkeypatch.setattr(decode, "_SERIAL_LIMIT", 6)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    with pytest.raises(UserError, match=r"expected 2 processes .* was killed, .*cores") as caught:
        load(write_tree(tmp_path, tree))
    assert "\n" not in str(caught.value)


def test_large_images_of_another_size_are_noticed_at_once(tmp_path, tree, monkeypatch):
    """Not with hundreds of photographs in memory."""
    from rwp.data.sources import decode

    tree["test/bird/000.png"] = image_file(pixels(1, 0, 14)[0])
    seen, original = [], decode.decode_image

    def decode_image(entry, image_size):
        seen.append(entry.name)
        return original(entry, image_size)

    monkeypatch.setattr(decode, "decode_image", decode_image)
    with pytest.raises(UserError, match="expected images of one size and kind"):
        load(write_tree(tmp_path, tree))
    assert len(seen) == 2
    monkeypatch.setattr(decode, "_CHUNK_BYTES", 2 * 3 * 12 * 12)
    monkeypatch.setattr(decode, "_SERIAL_LIMIT", 6)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    lengths, chunks = [], decode._chunks

    def noted(stream, pixels):
        for chunk in chunks(stream, pixels):
            lengths.append(len(chunk))
            yield chunk

    monkeypatch.setattr(decode, "_chunks", noted)
    with pytest.raises(UserError, match="expected images of one size and kind"):
        load(tmp_path)
    assert max(lengths) <= 2


class AtOnce:
    """A pool whose only worker is this process."""

    def __init__(self, workers, mp_context):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, work, *given):
        done = Future()
        done.set_result(work(*given))
        return done

    def shutdown(self, **options):
        pass


@pytest.mark.parametrize("cores", [1, 2])
def test_photographs_of_an_archive_do_not_pile_up(monkeypatch, cores):
    """Their files are far larger than what `image_size` leaves of them."""
    from rwp.data.sources import decode

    contents = [image_file(picture) for picture in pixels(20, 0, 12)]
    held, counts, found = [], [], []

    class File(bytes):
        def __del__(self):
            held.pop()

    def entries():
        for index, content in enumerate(contents):
            held.append(index)
            counts.append(len(held))
            yield TreeEntry((f"{index:02}.png",), File(content))

    expected = [decode.decode_image(TreeEntry(("x.png",), content), 2)[0] for content in contents]
    monkeypatch.setattr(decode, "ProcessPoolExecutor", AtOnce)
    monkeypatch.setattr(decode, "_CHUNK_BYTES", 2 * len(contents[0]))
    monkeypatch.setattr(decode, "_SERIAL_BYTES", 4 * len(contents[0]))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    for decoded in decode.decode_all(entries(), 2):
        found.append(decoded.pixels)
        assert len(found) < len(contents) or len(held) <= 2
    assert max(counts) <= 6
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def test_where_the_system_tells_no_cores(tmp_path, tree, monkeypatch):
    """As macOS."""
    expected = load(write_tree(tmp_path, tree))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert torch.equal(load(tmp_path).train.images, expected.train.images)


def test_gray_images_make_one_channel_and_palettes_three(tmp_path, tree):
    gray = {key: image_file(pixels(1, 1, 12)[0, :, :, 0]) for key in tree}
    assert load(write_tree(tmp_path / "gray", gray)).train.shape == (1, 12, 12)
    stream = io.BytesIO()
    Image.fromarray(pixels(1, 1, 12)[0]).quantize(16).save(stream, "PNG")
    palette = dict.fromkeys(tree, stream.getvalue())
    assert load(write_tree(tmp_path / "palette", palette)).train.shape == (3, 12, 12)


def test_image_size_brings_any_shape_to_one(tmp_path, tree):
    wide = np.zeros((20, 40, 3), dtype=np.uint8)
    wide[:, 10:30] = 255  # the center square is white, what is cut off is black
    tree["train/cat/wide.png"] = image_file(wide)
    data = load(write_tree(tmp_path, tree), image_size=8)
    assert data.train.shape == (3, 8, 8)
    assert data.train.images[4].min() == 255
    (note,) = data.notes
    assert note == "1 image cropped to the square in its middle (such as train/cat/wide.png)"
    assert load(tmp_path, image_size=8).test.images.equal(data.test.images)


def test_an_unlabeled_folder_may_be_any_tree(tmp_path, tree):
    files = {"a.png": tree["train/cat/000.png"], "deep/er/b.png": tree["test/eel/001.png"]}
    found, notes = load_unlabeled_folder(str(write_tree(tmp_path, files)), None, 3)
    assert notes == []
    assert found.labels.tolist() == [-1, -1]
    assert found.num_classes == 3
    more = {".d.png": files["a.png"], ".net/1.png": files["a.png"], ".DS_Store": b""}
    found, notes = load_unlabeled_folder(str(write_tree(tmp_path, more)), None, 3)
    assert len(found) == 2
    told = "2 hidden folders or images were left out, such as .d.png; rename what is meant"
    assert notes == [told]
    with pytest.raises(UserError, match=r"expected images, found none"):
        load_unlabeled_folder(str(write_tree(tmp_path / "empty", {".hidden": b""})), None, 3)


BAD_TREES = {
    "size": ({"train/dog/x.png": image_file(pixels(1, 0, 13)[0])}, "RGB 13x13 .*set image_size"),
    "gray": (
        {"test/dog/x.png": image_file(pixels(1, 0, 12)[0, :, :, 0])},
        "expected images of one size and kind, RGB 12x12 .* got gray 12x12 in test/dog/x.png",
    ),
    "cut": (
        {"train/dog/x.png": image_file(pixels(1, 0, 12)[0])[:300]},
        "train/dog/x.png: expected a readable image",
    ),
    "text": ({"train/dog/x.png": b"<html>"}, "train/dog/x.png: expected a readable image"),
    "suffix": ({"train/dog/x.gif": b"GIF"}, "got train/dog/x.gif; convert it or move it away"),
    "deep": ({"train/dog/more/x.png": b""}, "got train/dog/more"),
    "third split": ({"val/dog/x.png": b""}, "expected train/<class>/<image>.* got val"),
    "lone class": (
        {"train/fox/x.png": image_file(pixels(1, 0, 12)[0])},
        "same classes in train and test, got fox in only one",
    ),
    "two tops": ({"copy/train/dog/x.png": b""}, "got (copy|test)"),
}


@pytest.mark.parametrize("fault", BAD_TREES)
@pytest.mark.parametrize("pack", ["folder", "t.zip", "t.tar"])
def test_a_bad_tree_is_named_in_one_line(tmp_path, tree, fault, pack):
    change, message = BAD_TREES[fault]
    files = tree | change
    path = write_tree(tmp_path, files) if pack == "folder" else packed(tmp_path / pack, files)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_an_empty_class_folder_is_named(tmp_path, tree):
    write_tree(tmp_path, tree)
    (tmp_path / "train" / "fox").mkdir()
    with pytest.raises(UserError, match=r"found none in train/fox; add some or remove the folder"):
        load(tmp_path)


@pytest.mark.parametrize("pack", ["folder", "t.tar"])
def test_a_class_whose_name_is_no_text_is_refused(tmp_path, tree, pack):
    """Its passport could not be read; and before anything is decoded."""
    files = {name.replace("dog", "dog\udce9"): b"never read" for name in tree}
    try:
        path = write_tree(tmp_path, files) if pack == "folder" else packed(tmp_path / pack, files)
    except OSError:
        pytest.skip("no such name on this file system")
    message = r"expected class folders with names that can be written, got 'dog\\udce9'; rename it"
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("left", ["train", "test", None])
def test_a_missing_split_is_named(tmp_path, tree, left):
    files = {key: data for key, data in tree.items() if left and key.startswith(left)}
    path = write_tree(tmp_path / "tree", files or {".keep": b""})
    with pytest.raises(UserError, match=r"same classes in train and test|at least 2 classes"):
        load(path)
    with pytest.raises(UserError, match=r"found nothing; check the path"):
        load(tmp_path / "elsewhere")


def test_one_unreadable_image_among_ten_thousand_is_found(tmp_path):
    """Through the worker processes: the error crosses from there as one line."""
    good = image_file(pixels(1, 0, 4)[0])
    files = {
        f"{split}/{name}/{index:04}.png": good
        for split in ("train", "test")
        for name in ("cat", "dog")
        for index in range(2500)
    }
    files["train/dog/1234.png"] = good[:40]
    start = time.monotonic()
    with pytest.raises(UserError, match=r"train/dog/1234\.png: expected a readable image"):
        load(packed(tmp_path / "t.tar", files))
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("name", ["../outside.png", "/tmp/outside.png", "train/../../outside.png"])
@pytest.mark.parametrize("pack", ["t.zip", "t.tar.gz"])
def test_an_archive_that_escapes_its_folder_is_refused(tmp_path, tree, name, pack):
    before = set(tmp_path.parent.rglob("outside.png"))
    path = packed(tmp_path / pack, tree | {name: b"x"})
    with pytest.raises(UserError, match=r"expected paths inside the archive, got .*outside.png"):
        load(path)
    assert set(tmp_path.parent.rglob("outside.png")) == before


def test_an_archive_with_a_link_is_refused(tmp_path, tree):
    path = tmp_path / "t.tar"
    path.write_bytes(tar_of(tree, "w"))
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("train/dog/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(UserError, match=r"got a link or device at train/dog/link.png"):
        load(path)


def test_numbers_as_class_folders_are_counted_as_text_and_noted(tmp_path):
    for count, noted in ((10, False), (11, True)):
        files = {
            f"{split}/{number}/{split}{number}.png": image_file(pixels(1, number, 8)[0])
            for split in ("train", "test")
            for number in range(count)
        }
        path = packed(tmp_path / f"{count}.zip", files)
        found = load(path)
        assert found.class_names == sorted(map(str, range(count)))
        assert (found.notes != []) == noted
    assert found.notes[0].startswith("the class folder 10 is class 2: ")


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "t.tar.xz", "t.zip"])
def test_a_truncated_or_foreign_archive_is_refused(tmp_path, tree, name):
    path = packed(tmp_path / name, tree)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"got a damaged or foreign file|expected a readable image"):
        load(path)
    path.write_bytes(b"<html>not an archive</html>")
    with pytest.raises(UserError, match=r"got a damaged or foreign file"):
        load(path)


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "t.tar.xz", "t.zip"])
def test_an_archive_with_any_bytes_replaced_is_read_or_refused(tmp_path, tree, name):
    path = packed(tmp_path / name, tree)
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        # half of them near the end, where a zip keeps the names of its members
        start = draw.randrange(len(whole)) if draw.random() < 0.5 else -draw.randrange(1, 400)
        start %= len(whole)
        put = draw.randbytes(draw.randrange(1, 9))
        path.write_bytes(whole[:start] + put + whole[start + len(put) :])
        try:
            load(path)
        except UserError:
            refused += 1
    assert refused


@pytest.mark.slow
@pytest.mark.skipif(CIFAR10_JPEG not in os.environ, reason=f"{CIFAR10_JPEG} names no archive")
def test_all_of_cifar10_in_jpeg_takes_less_than_a_minute():
    start = time.monotonic()
    data = load(Path(os.environ[CIFAR10_JPEG]))
    assert time.monotonic() - start < 60
    assert data.train.class_counts() == [5000] * 10
    assert data.test.class_counts() == [1000] * 10
    assert data.train.shape == (3, 32, 32)
    means = data.train.images.double().mean((0, 2, 3)) / 255
    published = torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64)
    assert (means - published).abs().max() < 0.002
    _assert_learns(data.train)


def _assert_learns(train: ImageSet) -> None:
    """A PreAct ResNet-18 takes real steps on it: its loss on a few augmented images falls."""
    torch.manual_seed(0)
    model = build_network("preact_resnet", num_classes=10, in_channels=3, mean=None, std=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    policy = AugmentationSpec(
        crop_padding=4, padding_mode="reflect", flip=True, rotation_degrees=0.0
    )
    generator = torch.Generator().manual_seed(0)
    index = epoch_batches(len(train), batch_size=16, seed=0, epoch=0)[0]
    losses = []
    for _ in range(8):
        images = augment(train.images[index], policy, generator=generator) / 255
        loss = torch.nn.functional.cross_entropy(model(images), train.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-2:]) / 2 < losses[0] - 0.1
