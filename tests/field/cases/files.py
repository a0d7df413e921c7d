"""Image files: modes, suffixes, transparency, metadata, sizes."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from continual.data.file_kinds import is_read
from continual.data.images import image_files, open_image
from continual.data.preprocessing import Preprocessing
from continual.errors import InputError
from continual.lifecycle.new_images import plan
from continual.lifecycle.seen_images import SeenImages
from tests.field.case import Case
from tests.support.odd_files import LEFT_RED, ODD_EXIF, chunk, exif, jpeg, png, turned, webp

Check = Callable[[Path], None]


def _seen(path: Path, data: bytes) -> np.ndarray:
    path.write_bytes(data)
    return np.asarray(open_image(path))


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _mode(mode: str, form: str = "PNG") -> Check:
    def check(folder: Path) -> None:
        found = _seen(folder / "x", _saved(Image.new("RGB", (6, 4), "red").convert(mode), form))
        assert found.shape == (4, 6, 3)

    return check


def _deep(folder: Path) -> None:
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    found = _seen(folder / "x.png", _saved(Image.fromarray(wide), "PNG"))
    np.testing.assert_array_equal(found, np.repeat((wide // 256)[..., None], 3, axis=2))


def _deep_with_a_range(folder: Path) -> None:
    wide = np.arange(24 * 24, dtype=np.uint16).reshape(24, 24) * 7  # of a camera of 12 bits
    (folder / "x.png").write_bytes(_saved(Image.fromarray(wide), "PNG"))
    found = np.asarray(open_image(folder / "x.png", value_range="0..4095"))
    np.testing.assert_array_equal(found[..., 0], np.floor(255.0 * wide / 4095 + 0.5).clip(0, 255))


def _nearly_black(folder: Path) -> None:
    (folder / "x").mkdir()
    (folder / "x" / "x.png").write_bytes(_saved(Image.fromarray(np.full((24, 24), 1800, np.uint16)), "PNG"))
    assert any("--value-range 0..2047" in note for note in plan(folder, SeenImages(), []).notes)


def _floats(folder: Path) -> None:
    (folder / "x.tif").write_bytes(_saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))
    with pytest.raises(InputError, match="8 or 16 bits per channel"):
        open_image(folder / "x.tif")


def _suffix(form: str, *names: str) -> Check:
    def check(folder: Path) -> None:
        for name in names:
            assert _seen(folder / name, _saved(Image.new("RGB", (24, 24), "red"), form)).shape == (24, 24, 3)
        assert {path.name for path in image_files(folder)} == set(names)

    return check


def _heic(folder: Path) -> None:
    (folder / "rose").mkdir()
    (folder / "rose" / "a.png").write_bytes(png())
    (folder / "rose" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    found = plan(folder, SeenImages(), [])
    assert len(found.learn) == 1
    words = "not readable" if is_read("HEIF") else "1 HEIF"
    assert any(words in note for note in found.notes)


def _unread(folder: Path) -> None:
    (folder / "rose").mkdir()
    for name, data in (("a.png", png()), ("b.jxl", b"\xff\x0a"), ("labels.csv", b"a,b")):
        (folder / "rose" / name).write_bytes(data)
    note = plan(folder, SeenImages(), []).notes[-1]
    assert "1 JPEG XL" in note
    assert "1 file that holds no picture (labels.csv)" in note


def _liar(folder: Path) -> None:
    (folder / "photo.jpg").write_bytes(b"<html>not found</html>")
    assert image_files(folder) == [folder / "photo.jpg"]
    with pytest.raises(InputError, match="photo.jpg is not a readable image"):
        open_image(folder / "photo.jpg")


def _transparent(form: str, mode: str = "RGBA") -> Check:
    def check(folder: Path) -> None:
        pixels = np.zeros((32, 32, 4), np.uint8)
        pixels[:, :16, 3] = 255
        image = Image.fromarray(pixels).convert(mode)
        if mode == "P":
            image.info["transparency"] = 0
            image.putdata([1] * 16 * 32 + [0] * 16 * 32)
            image.putpalette([0, 0, 0, 0, 0, 0])
            image = image.transpose(Image.Transpose.TRANSPOSE)
        found = _seen(folder / "x", _saved(image, form, **({"lossless": True} if form == "WEBP" else {})))
        assert (found[:, :16].max(), found[:, 16:].min()) == (0, 255)

    return check


def _counted(folder: Path) -> None:
    (folder / "logo").mkdir()
    Image.new("RGBA", (8, 8), (0, 0, 0, 90)).save(folder / "logo" / "a.png")
    assert "1 new image transparent in part, which is seen as white" in plan(folder, SeenImages(), []).notes


def _metadata(name: str) -> Check:
    def check(folder: Path) -> None:
        data, orientation = ODD_EXIF[name]
        expected = LEFT_RED if orientation == 1 else np.rot90(LEFT_RED, -1)
        for number, file in enumerate((jpeg(data), png((b"eXIf", data)), webp(data))):
            assert _seen(folder / str(number), file).shape == expected.shape

    return check


def _long_text(folder: Path) -> None:
    np.testing.assert_array_equal(_seen(folder / "x.png", png((b"tEXt", b"prompt\0" + bytes(2**21)))), LEFT_RED)


def _film(folder: Path) -> None:
    plain = jpeg(exif([turned(1)]))
    assert _seen(folder / "x.jpg", plain + b"\xff\xda\0\0" * 500).shape == LEFT_RED.shape


def _scans(folder: Path) -> None:
    plain = _saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    start, end = plain.rindex(b"\xff\xda"), plain.rindex(b"\xff\xd9")
    (folder / "x.jpg").write_bytes(plain[:end] + plain[start:end] * 60 + plain[end:])
    with pytest.raises(InputError, match="scans: at most 50"):
        open_image(folder / "x.jpg")


def _thread(folder: Path) -> None:
    image = open_image_of(folder, _saved(Image.new("RGB", (1_000_000, 1), "red"), "PNG"))
    assert Preprocessing((32, 32)).evaluation()(image).shape == (3, 32, 32)


def _bomb(folder: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (folder / "x.png").write_bytes(data)
    with pytest.raises(InputError, match="too many pixels"):
        open_image(folder / "x.png")


def open_image_of(folder: Path, data: bytes) -> Image.Image:
    (folder / "x").write_bytes(data)
    found = open_image(folder / "x")
    assert isinstance(found, Image.Image)
    return found


def _rotated(folder: Path) -> None:
    draw = np.random.default_rng(0)
    view = Preprocessing((56, 56)).for_a_group().evaluation()
    for height, width in ((85, 64), (33, 97), (57, 57)):
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        one, other = (
            view(open_image_of(folder, _saved(Image.fromarray(p), "PNG"))) for p in (pixels, np.rot90(pixels).copy())
        )
        np.testing.assert_array_equal(np.rot90(one.numpy(), axes=(1, 2)), other.numpy())


WHITE = "transparent parts are laid on white; `data check` and the plan of `learn` count such images"
TURNED = "the orientation alone is read and the pixels are rotated; all other metadata is ignored"
METADATA = "photo archives that went through several programs; tracebacks of Pillow's EXIF in trackers of photo tools"
BY_SUFFIX = "reports of data set loaders with a fixed list of suffixes that skip files without a word"

HIDDEN = "logos and icons whose shapes vanish after `convert('RGB')`"
MODES = "`channels` and `mode` errors in threads on image loaders"
BOMBS = "decompression bombs"
#: orientation -> what happens, and the row of all such cases
EXIF = {
    6: (TURNED, "EXIF, also if it is damaged in part, cut off, there twice, or has unknown tags"),
    1: ("nothing is rotated", "EXIF that cannot be read, or has no orientation from 1 to 8"),
}
SUFFIXES = "`.jfif`, `.jpe`, `.pjpeg`, `.pnm`, `.pbm`, `.ppm`, `.tga`, `.avif`"

CASES = [
    Case("Files", "mode 1", "read as RGB", MODES, _mode("1"), row="mode 1, L, P or CMYK"),
    Case("Files", "mode L", "read as RGB", MODES, _mode("L"), row="mode 1, L, P or CMYK"),
    Case("Files", "mode P", "read as RGB", MODES, _mode("P"), row="mode 1, L, P or CMYK"),
    Case("Files", "mode CMYK", "read as RGB", MODES, _mode("CMYK", "JPEG"), row="mode 1, L, P or CMYK"),
    Case("Files", "16 bits per channel", "the upper 8 bits are used", "microscope images that turn white", _deep),
    Case(
        "Files",
        "16 bits per channel, and `--value-range 0..4095`",
        "what lies between black and white is used",
        "cameras of 12 bits",
        _deep_with_a_range,
    ),
    Case(
        "Files",
        "16 bits per channel, none above 4095",
        "a note: nearly black, say what white is",
        "cameras of 12 bits",
        _nearly_black,
    ),
    Case("Files", "floats or 32-bit numbers in a TIFF", "one error: save it with 8 or 16 bits", MODES, _floats),
    Case(
        "Files",
        "`.jfif`, `.jpe`, `.pjpeg`",
        "read",
        BY_SUFFIX,
        _suffix("JPEG", "a.jfif", "b.jpe", "c.pjpeg"),
        row=SUFFIXES,
    ),
    Case("Files", "`.apng`", "read: the first frame", BY_SUFFIX, _suffix("PNG", "a.apng")),
    Case("Files", "`.pnm`, `.pbm`, `.ppm`", "read", BY_SUFFIX, _suffix("PPM", "a.pnm", "b.pbm", "c.ppm"), row=SUFFIXES),
    Case("Files", "`.tga`", "read", BY_SUFFIX, _suffix("TGA", "a.tga"), row=SUFFIXES),
    Case("Files", "`.ico`", "read: the largest picture in it", BY_SUFFIX, _suffix("ICO", "a.ico")),
    Case("Files", "`.avif`", "read", BY_SUFFIX, _suffix("AVIF", "a.avif"), row=SUFFIXES),
    Case(
        "Files",
        "no suffix, or that of another kind",
        "read: content decides",
        BY_SUFFIX,
        _suffix("PNG", "a", "b.jpg", "c.dat"),
    ),
    Case(
        "Files",
        "HEIC",
        "read with the extra `heif`; without it an error names the extra, and for folders it is named as left out",
        "telephones' photos that vanish from training sets",
        _heic,
    ),
    Case(
        "Files",
        "JPEG XL, JPEG 2000, SVG, camera raw",
        "left out; `learn`, `predict`, `data check` and `run` name them, and `learn` also files that hold no picture",
        BY_SUFFIX,
        _unread,
    ),
    Case(
        "Files",
        "a `.jpg` that holds something else",
        "an error that names it, or a note in the plan of `learn`",
        "web pages saved by crawlers under an image's name",
        _liar,
    ),
    Case(
        "Files",
        "PNG with transparency (RGBA)",
        WHITE,
        HIDDEN,
        _transparent("PNG"),
        row="PNG, GIF, WebP or TIFF with transparency",
    ),
    Case(
        "Files",
        "PNG with transparency (LA)",
        WHITE,
        HIDDEN,
        _transparent("PNG", "LA"),
        row="PNG, GIF, WebP or TIFF with transparency",
    ),
    Case(
        "Files",
        "PNG with transparency (palette)",
        WHITE,
        HIDDEN,
        _transparent("PNG", "P"),
        row="PNG, GIF, WebP or TIFF with transparency",
    ),
    Case(
        "Files",
        "GIF with transparency",
        WHITE,
        HIDDEN,
        _transparent("GIF", "P"),
        row="PNG, GIF, WebP or TIFF with transparency",
    ),
    Case(
        "Files",
        "WebP with transparency",
        WHITE,
        HIDDEN,
        _transparent("WEBP"),
        row="PNG, GIF, WebP or TIFF with transparency",
    ),
    Case(
        "Files",
        "TIFF with transparency",
        WHITE,
        HIDDEN,
        _transparent("TIFF"),
        row="PNG, GIF, WebP or TIFF with transparency",
    ),
    Case("Files", "a class with transparent images", "the plan of `learn` counts them", HIDDEN, _counted, row=""),
    *(
        Case("Files", f"EXIF: {name}", happens, METADATA, _metadata(name), row)
        for name, (_, orientation) in ODD_EXIF.items()
        for happens, row in [EXIF[orientation]]
    ),
    Case(
        "Files",
        "a PNG with megabytes of text",
        "the text is ignored",
        "generators that write prompts",
        _long_text,
        row="",
    ),
    Case("Files", "a JPEG with a film behind it", "the film is ignored", "motion photos of telephones", _film, row=""),
    Case("Files", "a JPEG of more than 50 scans", "one error: each costs as much as a picture", BOMBS, _scans, row=""),
    Case("Files", "a picture more than 32 times as long as wide", "its middle is used", BOMBS, _thread),
    Case("Files", "more than 178,956,970 pixels", "one error, before anything is decoded", BOMBS, _bomb),
    Case(
        "Files",
        "a file and its quarter turn, for a model with a group",
        "the same answer, bit for bit",
        "equivariant models whose data pipeline is not",
        _rotated,
    ),
]
