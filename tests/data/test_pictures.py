"""Pictures as people have them: each is read as a viewer shows it, or refused by name."""

import io
import os
import struct
import unicodedata
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from rwp.data.sources.decode import decode_image
from rwp.data.sources.image_folder import load_image_folder
from rwp.data.sources.image_tree import TreeEntry
from rwp.errors import UserError
from tests.data.samples import image_file, image_tree, pixels, write_tree

CORNER = np.zeros((6, 10, 3), dtype=np.uint8)
CORNER[:3, :5] = 255  # white at the upper left


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def read(content: bytes, name: str = "x.png", image_size: int | None = None):
    return decode_image(TreeEntry(("train", "cat", name), content), image_size)


def refused(content: bytes, message: str, name: str = "x.png") -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(content, name)
    assert str(caught.value).startswith(f"train/cat/{name}: expected")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("orientation", "white"),
    [(1, (0, 0)), (2, (0, 1)), (3, (1, 1)), (4, (1, 0)), (5, (0, 0)), (6, (0, 1)), (7, (1, 1)),
     (8, (1, 0))],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_orientation_is_applied(orientation: int, white: tuple[int, int], kind: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    name = "x.png" if kind == "PNG" else "x.JPG"
    found, notes = read(encoded(Image.fromarray(CORNER), kind, exif=exif), name)
    assert found.shape == ((3, 6, 10) if orientation < 5 else (3, 10, 6))
    height, width = found.shape[1:]
    rows, columns = np.unravel_index(found[0].astype(int).argmax(), (height, width))
    corner = found[0, white[0] * (height - 1), white[1] * (width - 1)]
    assert corner > 240, (rows, columns)
    assert (found[0] > 127).mean() == pytest.approx(0.25)
    assert notes == ([] if orientation == 1 else ["turned as the EXIF orientation says"])


def test_the_orientation_comes_before_the_square():
    exif = Image.Exif()
    exif[0x0112] = 6
    found, _ = read(encoded(Image.fromarray(CORNER), exif=exif), image_size=6)
    assert found[0, 1, 4] == 255
    assert found[0, 1, 1] == 0


@pytest.mark.parametrize("upright", [False, True])
def test_the_square_is_in_the_middle(upright: bool):
    picture = CORNER.transpose(1, 0, 2) if upright else CORNER
    found, _ = read(encoded(Image.fromarray(picture)), image_size=6)
    expected = np.zeros((6, 6))
    expected[:3, :3] = 255  # two of the five white rows or columns are cut off
    assert (found == expected).all()


def test_colors_of_another_profile_are_brought_to_srgb():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    picture = Image.fromarray(pixels(1, 0, 12)[0])
    found, notes = read(encoded(picture, icc_profile=profile.tobytes()))
    assert (found == np.asarray(picture).transpose(2, 0, 1)).all()
    assert notes == []
    # a white point of 5000 K: what it calls (128, 128, 128) is another color than sRGB's
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB", 5000)).tobytes()
    refused(encoded(picture, icc_profile=lab), "expected a color profile that fits, got another")
    refused(encoded(picture, icc_profile=b"broken"), "expected a color profile that fits")


def rgb_profile(gamma: float, name: str = "wide") -> bytes:
    """sRGB's profile with a plain power law in place of its curves, under another name of four
    letters."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", content[128:132])[0]
    for index in range(count):
        at = 132 + 12 * index
        kind, offset, size = struct.unpack(">4sII", content[at : at + 12])
        if kind in (b"rTRC", b"gTRC", b"bTRC"):
            content[offset : offset + size] = (
                b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(size)
            )[:size]
        if kind == b"desc":
            text = bytes(content[offset : offset + size])
            content[offset : offset + size] = text.replace(
                "sRGB".encode("utf-16-be"), name.encode("utf-16-be")
            )
    return bytes(content)


def test_a_linear_profile_makes_pictures_lighter():
    half = Image.new("RGB", (12, 12), (128, 128, 128))
    found, notes = read(encoded(half, icc_profile=rgb_profile(1.0)))
    assert abs(int(found.mean()) - 188) <= 1  # sRGB's curve at 128 / 255
    assert len(notes) == 1
    assert notes[0].startswith("brought to sRGB from the profile wide")


def test_a_profile_is_srgb_by_its_curves_and_not_by_its_name():
    half = Image.new("RGB", (12, 12), (128, 128, 128))
    found, notes = read(encoded(half, icc_profile=rgb_profile(1.0, "sRGB")))
    assert abs(int(found.mean()) - 188) <= 1
    assert notes[0].startswith("brought to sRGB from the profile sRGB")
    found, notes = read(encoded(half, icc_profile=rgb_profile(2.2, "sRGB")))
    assert (found == 128).all()
    assert notes == []


def with_chunk(content: bytes, kind: bytes, data: bytes) -> bytes:
    chunk = struct.pack(">I", len(data)) + kind + data
    chunk += struct.pack(">I", zlib.crc32(kind + data))
    return content[:33] + chunk + content[33:]


def png_of_16_bits() -> bytes:
    rows = b"".join(b"\0" + bytes(range(36)) for _ in range(6))
    header = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    start += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = zlib.compress(rows)
    body = struct.pack(">I", len(data)) + b"IDAT" + data
    body += struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return start + body + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def test_what_is_other_than_it_seems_is_named():
    picture = Image.fromarray(pixels(1, 0, 12)[0])
    deep = Image.fromarray(np.full((6, 6), 40_000, dtype=np.uint16))
    clear = Image.new("RGBA", (12, 12), (9, 9, 9, 128))
    frames = {"save_all": True, "append_images": [picture.rotate(90)]}
    refused(encoded(deep), "expected 8 bits per channel, got 16; convert it")
    refused(png_of_16_bits(), "expected 8 bits per channel, got 16; convert it")
    refused(encoded(picture.convert("CMYK"), "JPEG"), "got CMYK, the colors of print; convert it")
    refused(encoded(clear), "expected an opaque image, got transparency; lay it over a background")
    refused(encoded(Image.new("LA", (6, 6), (9, 0))), "an opaque image, got transparency")
    refused(encoded(picture.quantize(9), transparency=0), "an opaque image, got transparency")
    refused(encoded(picture, **frames), "expected one picture, got an animation of 2; keep one")
    refused(encoded(picture, "GIF"), "expected a PNG or JPEG file, got GIF inside; convert it")
    refused(encoded(picture, "TIFF", **frames), "got TIFF inside")
    refused(encoded(picture, "WEBP"), "got WEBP inside", "x.jpg")
    refused(encoded(picture, "BMP"), "got BMP inside", "x.jpg")
    refused(
        with_chunk(encoded(picture), b"gAMA", struct.pack(">I", 100_000)),
        "expected sRGB.s gamma .* got 1;",
    )
    wide = with_chunk(encoded(picture), b"cICP", bytes((9, 16, 0, 1)))
    refused(wide, r"expected sRGB's colors, got those of its chunk cICP \(9, 16\); convert it")
    assert read(with_chunk(encoded(picture), b"cICP", bytes((1, 13, 0, 1))))[1] == []
    srgb = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    adobe = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    primaries = [struct.pack(">8I", *(round(1e5 * x) for x in of)) for of in (srgb, adobe)]
    assert read(with_chunk(encoded(picture), b"cHRM", primaries[0]))[1] == []
    refused(
        with_chunk(encoded(picture), b"cHRM", primaries[1]),
        r"expected sRGB's colors, got the primaries 0\.64, 0\.33, 0\.21, 0\.71, .*; convert it",
    )
    known = with_chunk(encoded(picture), b"sRGB", b"\0")  # which counts more
    assert read(with_chunk(known, b"cHRM", primaries[1]))[1] == []
    gray = Image.new("L", (6, 6), 9)
    assert read(with_chunk(encoded(gray), b"cHRM", primaries[1]))[1] == []
    refused(b"", "expected a readable image, got an empty file; replace or remove it")
    refused(b"version https://git-lfs.github.com/spec/v1\noid", "got a Git LFS pointer")
    refused(b"\0\0\0\x18ftypheic" + bytes(40), r"got a HEIC file \(HEIC, AVIF or video\)", "x.jpg")
    refused(encoded(picture, "JPEG")[:-40], "expected a readable image, got OSError", "x.jpg")
    refused(b"\x00\x05\x16\x07" + bytes(80), "got what macOS notes about a file", "x.jpg")


def test_a_png_with_a_damaged_byte_or_without_its_end_is_refused():
    whole = encoded(Image.fromarray(CORNER))
    assert (read(whole)[0].transpose(1, 2, 0) == CORNER).all()
    for place in range(whole.index(b"IDAT"), len(whole)):
        refused(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], "a readable image")
        refused(whole[:place], "a readable image")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": True}])
def test_a_jpeg_whose_rest_is_zeros_is_refused(options: dict[str, bool]):
    """As a broken download or a full disk leaves it: Pillow would paint the rest gray."""
    small = encoded(Image.fromarray(pixels(1, 0, 12)[0]), "JPEG")
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9 is no end of the picture"
    more = {"exif": exif} if options.pop("exif", False) else options
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    whole = encoded(picture, "JPEG", quality=95, **more)
    for content in (whole, whole + bytes(100), small):  # some cameras write more behind the end
        assert read(content, "x.jpg")[1] == []
    half = len(whole) * 2 // 3
    message = "the file is cut: its end is not marked|image file is truncated"
    refused(whole[:half] + bytes(len(whole) - half), message, "x.jpg")


def test_a_huge_picture_is_named(monkeypatch: pytest.MonkeyPatch):
    content = encoded(Image.fromarray(pixels(1, 0, 12)[0]))
    for limit in (100, 10):  # a warning of Pillow's, then an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused(content, "expected an image of fewer pixels, got .*; scale it down")


def test_alpha_that_hides_nothing_is_dropped():
    picture = Image.fromarray(pixels(1, 0, 12)[0])
    opaque = picture.copy()
    opaque.putalpha(255)
    found, notes = read(encoded(opaque))
    assert (found == np.asarray(picture).transpose(2, 0, 1)).all()
    assert notes == ["alpha dropped that hides nothing"]
    assert read(encoded(Image.new("LA", (6, 6), (9, 255))))[0].shape == (1, 6, 6)


def test_names_do_not_decide_the_format():
    picture = Image.fromarray(pixels(1, 0, 12)[0])
    assert read(encoded(picture), "x.jpg")[1] == ["PNG inside a file of another name"]
    assert read(encoded(picture, "JPEG"))[1] == ["JPEG inside a file named .png"]
    bits = picture.convert("1")
    expected = np.asarray(bits.convert("L"))[None]
    assert (read(encoded(bits), "x.PNG")[0] == expected).all()


def test_enlarging_is_refused():
    with pytest.raises(UserError, match=r"at least 9 pixels \(image_size\), got 10x6; lower"):
        read(encoded(Image.fromarray(CORNER)), image_size=9)


def load(folder):
    return load_image_folder(str(folder), None)


def test_notes_are_counted(tmp_path):
    tree = image_tree()
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("train/cat/7.png", "test/dog/8.png"):
        tree[name] = encoded(Image.fromarray(pixels(1, 0, 12)[0]), exif=exif)
    assert load(write_tree(tmp_path, tree)).notes == [
        "2 images turned as the EXIF orientation says (such as test/dog/8.png)"
    ]


def test_clutter_is_left_out_and_links_are_followed_once(tmp_path):
    tree = image_tree()
    expected = load(write_tree(tmp_path / "plain", tree))
    clutter = ("Thumbs.db", "train/desktop.ini", "train/cat/.DS_Store", "train/cat/._000.png")
    folder = write_tree(tmp_path / "tree", tree | dict.fromkeys(clutter, b"?"))
    assert load(folder).train.images.equal(expected.train.images)
    (tmp_path / "linked").mkdir()
    for split in ("train", "test"):
        (tmp_path / "linked" / split).symlink_to(folder / split)
    assert load(tmp_path / "linked").train.images.equal(expected.train.images)
    (folder / "train" / "cat" / "up").symlink_to(folder / "train")
    with pytest.raises(UserError, match="got a link to one that it lies in; remove the link"):
        load(folder)
    (folder / "train" / "cat" / "up").unlink()
    (folder / "train" / "cat" / "gone.png").symlink_to(folder / "nowhere")
    with pytest.raises(UserError, match=r"gone\.png: expected a file, got a link to nothing"):
        load(folder)
    (folder / "train" / "cat" / "gone.png").unlink()
    os.mkfifo(folder / "train" / "cat" / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: expected a file, got a pipe"):
        load(folder)


def test_hidden_classes_and_images_are_told(tmp_path):
    tree = image_tree()
    folder = write_tree(tmp_path / "tree", tree)
    assert load(folder).notes == []
    picture = next(iter(tree.values()))
    more = {"train/.net/1.png": picture, "test/.net/1.png": picture, "train/cat/.1.png": picture}
    data = load(write_tree(folder, more))
    told = ["3 hidden folders or images were left out, such as test/.net; rename what is meant"]
    assert data.notes == told
    with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
        for name, content in (tree | more | {"__MACOSX/train/._cat/1.png": picture}).items():
            archive.writestr(name, content)
    assert load(tmp_path / "tree.zip").notes == told


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    folder = write_tree(tmp_path, image_tree())
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"dog: expected a folder that can be read, got Permission"):
        load(folder)


def test_accents_are_one_class_however_they_are_written(tmp_path):
    tree = {}
    for key, content in image_tree().items():
        form = "NFD" if key.startswith("train") else "NFC"
        tree[unicodedata.normalize(form, key.replace("dog", "bébé"))] = content
    assert load(write_tree(tmp_path, tree)).class_names == ["bébé", "cat", "eel"]


def test_a_name_of_odd_characters_stays_on_one_line(tmp_path):
    tree = image_tree() | {"train/dog/a\nb\x1b.png": image_file(pixels(1, 0, 13)[0])}
    with pytest.raises(UserError, match=r"in train/dog/a\\nb\\x1b\.png") as caught:
        load(write_tree(tmp_path, tree))
    assert "\n" not in str(caught.value)


def _png(kind: int, bits: int, rows: list[bytes], *chunks: tuple[bytes, bytes], interlaced=0):
    """A PNG of eight columns, as its parts are given."""
    header = struct.pack(">IIBBBBB", 8, 8, bits, kind, 0, 0, interlaced)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def test_a_png_whose_rows_or_colors_lack_is_refused():
    """Their checksums fit; what lacks was painted black."""
    gray = [bytes([200] * 8)] * 8
    assert read(_png(0, 8, gray))[0].min() == 200
    refused(_png(0, 8, gray[:4]), r"its pixels are cut: 36 of 72 bytes")
    palette = (b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    assert read(_png(3, 8, [bytes([1] * 8)] * 8, palette))[0][0, 0, 0] == 40
    refused(_png(3, 8, [bytes([2] * 8)] * 8, palette), r"color 2 of a palette of 2")
    seven = [*[b"\x80"] * 2, *[b"\x80\x80"] * 3, *[b"\x80" * 4] * 6, *[b"\x80" * 8] * 4]
    assert read(_png(0, 8, seven, interlaced=1))[0].min() == 128
    refused(_png(0, 8, seven[:-1], interlaced=1), "its pixels are cut: 70 of 79 bytes")


@pytest.mark.parametrize("bits", [2, 4])
def test_a_transparent_gray_of_few_bits_is_seen(bits: int):
    level = 2**bits - 2
    byte = sum(level << shift for shift in range(0, 8, bits))
    rows = [bytes([byte] * bits)] * 8
    expected = level * 255 // (2**bits - 1)
    assert set(np.unique(read(_png(0, bits, rows))[0])) == {expected}
    transparent = (b"tRNS", struct.pack(">H", level))
    refused(_png(0, bits, rows, transparent), "expected an opaque image, got transparency")
    other = (b"tRNS", struct.pack(">H", 0))
    assert read(_png(0, bits, rows, other))[1] == ["alpha dropped that hides nothing"]
