"""Damaged tar archives lose no image in silence; sound ones of all kinds are read alike."""

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from rwp.data.sources.image_tree import iterate_tree
from rwp.errors import UserError
from tests.data.samples import image_tree, tar_of, write_tree

BLOCK = tarfile.BLOCKSIZE
COMPRESSORS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
KINDS = {"": bytes, **COMPRESSORS}
LONG = "a" * 150  # above the 100 letters of the oldest format


@pytest.fixture
def tree() -> dict[str, bytes]:
    return image_tree(per_class=2)


def read(path: Path) -> dict[str, bytes]:
    found = {}
    for entry in iterate_tree(path):
        if entry.source is not None:
            source = entry.source
            found[entry.name] = source if isinstance(source, bytes) else Path(source).read_bytes()
    return found


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def headers(content: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [member.offset for member in archive]


def end_of(content: bytes) -> int:
    """Where the last member ends."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        last = archive.getmembers()[-1]
    return last.offset_data + -(-last.size // BLOCK) * BLOCK


def assert_refused(path: Path, why: str = "") -> None:
    with pytest.raises(UserError, match=rf"got a damaged or foreign file \(.*{why}") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_flipped_byte_in_any_header_is_found(tmp_path, tree, suffix):
    whole = tar_of(tree, "w")
    for at in headers(whole):
        damaged = bytearray(whole)
        damaged[at + 30] ^= 1
        assert_refused(written(tmp_path / "t.tar", KINDS[suffix](bytes(damaged))), "bad checksum")
        damaged[at : at + BLOCK] = bytes(BLOCK)  # as of a block that was never written
        assert_refused(written(tmp_path / "t.tar", KINDS[suffix](bytes(damaged))), "more follows")


@pytest.mark.parametrize("suffix", KINDS)
def test_a_cut_between_two_members_or_inside_a_header_is_found(tmp_path, tree, suffix):
    whole = tar_of(tree, "w")
    end = end_of(whole)
    for at in [place + inside for place in headers(whole)[1:] for inside in (0, 200)]:
        assert_refused(written(tmp_path / "t.tar", KINDS[suffix](whole[:at])), "header")
    for at in (end, end + BLOCK, end + 2 * BLOCK - 1):
        assert_refused(written(tmp_path / "t.tar", KINDS[suffix](whole[:at])))


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_archive_that_is_cut_is_found(tmp_path, tree, suffix):
    whole = COMPRESSORS[suffix](tar_of(tree, "w"))
    for at in (1, 4, 8, 40, len(whole) // 2):
        assert_refused(written(tmp_path / "t.tar", whole[:-at]))


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_flipped_bit_in_compressed_pixels_is_found(tmp_path, tree, suffix):
    """Where the decompressor itself notices nothing its checksum does."""
    whole = COMPRESSORS[suffix](tar_of(tree, "w"))
    for at in range(len(whole) // 4, len(whole), len(whole) // 12):
        damaged = bytearray(whole)
        damaged[at] ^= 16
        assert_refused(written(tmp_path / "t.tar", bytes(damaged)))
    if suffix == ".gz":  # pixels that are stored as they are: the checksum alone can tell
        stored = bytearray(gzip.compress(tar_of(tree, "w"), 0))
        stored[stored.index(b"IDAT") + 9] ^= 1
        assert_refused(written(tmp_path / "t.tar", bytes(stored)), "CRC")


@pytest.mark.parametrize("suffix", KINDS)
def test_a_second_archive_behind_the_first_is_refused(tmp_path, tree, suffix):
    names = list(tree)
    first, second = (
        tar_of({name: tree[name] for name in part}, "w") for part in (names[:6], names[6:])
    )
    compress = KINDS[suffix]
    for content in (compress(first) + compress(second), compress(first + second)):
        assert_refused(written(tmp_path / "t.tar", content), "more follows behind its end")


def test_a_size_below_nothing_ends(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for pax_headers in ({}, {"size": "-1536"}):
            member = tarfile.TarInfo("train/cat/0.png")
            member.size, member.pax_headers = 4, pax_headers
            archive.addfile(member, io.BytesIO(b"1234"))
    assert_refused(written(tmp_path / "t.tar", stream.getvalue()), "lies before")


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("padding", [2 * BLOCK, 2 * BLOCK + 7, 20 * BLOCK])
def test_sound_archives_of_all_formats_are_read_alike(tmp_path, tree, suffix, format_, padding):
    if format_ != tarfile.USTAR_FORMAT:
        tree[f"train/cat/{LONG}-\u00e9.png"] = tree["train/cat/000.png"]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format_) as archive:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = stream.getvalue()
    content = content[: end_of(content)] + bytes(padding)
    assert read(written(tmp_path / "t.tar", KINDS[suffix](content))) == tree


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_an_archive_that_is_compressed_in_parts_is_read_whole(tmp_path, tree, suffix):
    """As programs do that compress on several cores."""
    whole, compress = tar_of(tree, "w"), COMPRESSORS[suffix]
    parts = [whole[at : at + 3000] for at in range(0, len(whole), 3000)]
    path = written(tmp_path / "t.tar", b"".join(map(compress, parts)))
    assert read(path) == tree


@pytest.mark.parametrize("options", ["--format=gnu", "--format=pax", "--format=v7", "-b1", "-z"])
def test_archives_of_the_program_tar_are_read(tmp_path, tree, options):
    if shutil.which("tar") is None:
        pytest.skip("no program tar")
    if options != "--format=v7":
        tree[f"train/cat/{LONG}.png"] = tree["train/cat/000.png"]
    folder, path = write_tree(tmp_path / "tree", tree), tmp_path / "t.tar"
    command = ["tar", options, "-cf", str(path), "-C", str(folder), "train", "test"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"a tar without {options}")
    assert read(path) == read(folder) == tree
