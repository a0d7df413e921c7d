"""Image files of every kind: what they are, which way is up, what is under transparency, and how large they may be."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from continual.data import decoding
from continual.data.decoding import Decoded, UnreadableError, as_rgb, decode, on_ground
from continual.data.file_kinds import is_read, kind_at, kind_of
from continual.data.images import image_files, open_image, unread
from continual.errors import InputError
from tests.support.odd_files import LEFT_RED, ODD_EXIF, chunk, exif, jpeg, png, tiff, turned, webp

STANDING = {1: LEFT_RED, 6: np.rot90(LEFT_RED, -1)}


def pixels(found: Decoded) -> np.ndarray:
    assert found.image.mode == "RGB"
    return np.asarray(found.image)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


# Metadata ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_EXIF)
def test_the_orientation_alone_is_read_of_exif(name: str) -> None:
    data, orientation = ODD_EXIF[name]
    for file in (png((b"eXIf", data)), png((b"eXIf", data), late=True), webp(data)):
        np.testing.assert_array_equal(pixels(decode(file)), STANDING[orientation])
    found = pixels(decode(jpeg(data)))
    assert found.shape == STANDING[orientation].shape
    assert np.abs(found.astype(int) - STANDING[orientation]).max() < 60


@pytest.mark.parametrize("compression", [1, 8])
def test_the_orientation_alone_is_read_of_a_tiff(compression: int) -> None:
    odd = {
        "resolution": (0x011A, 10, 1, struct.pack(">ii", -72, 1)),
        "xmp as text": (0x02BC, 2, 20, b"<x:xmpmeta></x:xmp>\0"),
        "no number": (0x011A, 11, 1, struct.pack(">f", float("nan"))),
        "gps": (0x8825, 2, 3, b"abc\0"),
        "directory": (0x8769, 4, 1, b"\x7f\xff\xff\xff"),
        "text": (0x010F, 2, 4, b"\xff\xfe\xfd\0"),
        "profile": (34675, 7, 5, b"abcde"),
    }
    for name, field in odd.items():
        np.testing.assert_array_equal(pixels(decode(tiff([turned(), field], compression))), STANDING[6], name)
        np.testing.assert_array_equal(pixels(decode(tiff([field], compression))), LEFT_RED, name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_are_pillow_s(orientation: int) -> None:
    from PIL import ImageOps

    file = png((b"eXIf", exif([turned(orientation)])))
    with Image.open(io.BytesIO(file)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(pixels(decode(file)), expected)


def test_without_exif_xmp_says_the_orientation() -> None:
    about = b'<x tiff:Orientation="6"/>'
    text = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + about)
    raw = "\nexif\n      0\n" + (b"Exif\0\0" + exif([turned()])).hex() + "\n"
    for one in (text, (b"tEXt", b"Raw profile type exif\0" + raw.encode())):
        np.testing.assert_array_equal(pixels(decode(png(one))), STANDING[6])
    plain = jpeg(b"")
    body = b"http://ns.adobe.com/xap/1.0/\0" + about
    with_xmp = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    assert pixels(decode(with_xmp)).shape == STANDING[6].shape


def test_damaged_or_endless_metadata_costs_nothing() -> None:
    wrong = bytearray(chunk(b"tEXt", b"note\0hello"))
    wrong[-1] ^= 1  # its checksum
    plain = png()
    place = plain.index(b"IDAT") - 4
    np.testing.assert_array_equal(pixels(decode(plain[:place] + bytes(wrong) + plain[place:])), LEFT_RED)
    np.testing.assert_array_equal(pixels(decode(png((b"iCCP", b"broken")))), LEFT_RED)
    np.testing.assert_array_equal(pixels(decode(png((b"tEXt", b"note\0" + bytes(2**21))))), LEFT_RED)


def test_a_jpeg_without_its_metadata_has_the_same_pixels() -> None:
    draw = np.random.default_rng(0)
    noise = Image.fromarray(draw.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    for image, options in (
        (noise, {}),
        (noise, {"progressive": True, "comment": b"a comment"}),
        (noise.convert("CMYK"), {}),
        (noise.convert("L"), {"icc_profile": bytes(70_000), "dpi": (300, 300)}),
        (noise, {"exif": exif([turned(1)]), "subsampling": 0}),
    ):
        file = saved(image, "JPEG", **options)
        with Image.open(io.BytesIO(file)) as opened:
            np.testing.assert_array_equal(pixels(decode(file)), np.asarray(opened.convert("RGB")))


# Transparency ------------------------------------------------------------------------------------------

HALF = np.zeros((4, 6, 4), np.uint8)
HALF[:, :3, 3] = 255  # black at the left; at the right, black and transparent
WHITE_RIGHT = np.full((4, 6, 3), 255, np.uint8)
WHITE_RIGHT[:, :3] = 0


def transparent_files() -> dict[str, bytes]:
    rgba = Image.fromarray(HALF)
    coloured = Image.fromarray(np.where(HALF[..., 3:] > 0, np.uint8(0), np.array([0, 255, 0], np.uint8)))
    palette = coloured.quantize(2)
    green = palette.convert("RGB").getpixel((5, 0))
    hidden = int(np.asarray(palette)[0, 5])
    grey = Image.fromarray(np.where(HALF[..., 3] > 0, np.uint8(0), np.uint8(9)))
    deep = Image.fromarray(np.where(HALF[..., 3] > 0, 0, 5000).astype(np.uint16))
    assert green == (0, 255, 0)
    return {
        "PNG RGBA": saved(rgba, "PNG"),
        "PNG LA": saved(rgba.convert("LA"), "PNG"),
        "PNG palette": saved(palette, "PNG", transparency=hidden),
        "PNG palette of bytes": saved(palette, "PNG", transparency=bytes([255 * (i != hidden) for i in range(2)])),
        "PNG grey tRNS": saved(grey, "PNG", transparency=9),
        "PNG RGB tRNS": saved(coloured, "PNG", transparency=(0, 255, 0)),
        "PNG 16 bits tRNS": saved(deep, "PNG", transparency=5000),
        "GIF": saved(palette, "GIF", transparency=hidden),
        "WEBP": saved(rgba, "WEBP", lossless=True),
        "TIFF": saved(rgba, "TIFF"),
        "TGA": saved(rgba, "TGA"),
        "ICO": saved(Image.fromarray(np.repeat(np.repeat(HALF, 8, 0), 8, 1)), "ICO", sizes=[(48, 32)]),
    }


@pytest.mark.parametrize("name", transparent_files())
def test_transparent_parts_are_white_whatever_colour_they_hide(name: str) -> None:
    found = decode(transparent_files()[name], name="x.tga" if name == "TGA" else "")
    assert found.transparent
    seen = pixels(found)
    np.testing.assert_array_equal(seen[::8, ::8] if name == "ICO" else seen, WHITE_RIGHT)


def test_what_is_opaque_keeps_its_bits() -> None:
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (9, 7, 4), dtype=np.uint8)
    noise[..., 3] = 255
    for form in ("PNG", "WEBP", "TIFF"):
        found = decode(saved(Image.fromarray(noise), form, **({"lossless": True} if form == "WEBP" else {})))
        assert not found.transparent
        np.testing.assert_array_equal(pixels(found), noise[..., :3])
    strange = Image.fromarray(noise[..., :3])
    strange.info["transparency"] = b"no colour"
    assert not as_rgb(strange).transparent


def test_every_mixture_is_rounded_alike_with_and_without_pillow() -> None:
    colour, alpha = np.mgrid[:256, :256].astype(np.uint8)
    every = np.stack([colour, colour, colour, alpha], -1)
    expected = on_ground(every)
    np.testing.assert_array_equal(pixels(as_rgb(Image.fromarray(every))), expected)
    exact = (colour * (alpha / 255.0) + 255 * (1 - alpha / 255.0)).round()
    np.testing.assert_array_equal(expected[..., 0], exact)


# Kinds -------------------------------------------------------------------------------------------------

KINDS = [("JPEG", ".jfif"), ("JPEG", ".jpe"), ("JPEG", ".pjpeg"), ("PNG", ".apng"), ("PPM", ".pnm"), ("TGA", ".tga")]
KINDS += [("ICO", ".ico"), ("BMP", ".bmp"), ("AVIF", ".avif"), ("GIF", ".gif"), ("TIFF", ".tif"), ("WEBP", ".webp")]


@pytest.mark.parametrize(("form", "suffix"), KINDS)
def test_content_decides_and_no_suffix_is_needed(tmp_path: Path, form: str, suffix: str) -> None:
    data = saved(Image.fromarray(np.repeat(np.repeat(LEFT_RED, 3, 0), 3, 1)), form)
    names = [f"a{suffix}", "b.jpg", "c.dat", "d"] if form != "TGA" else [f"a{suffix}"]
    for name in names:
        (tmp_path / name).write_bytes(data)
    assert [path.name for path in image_files(tmp_path)] == names
    assert {np.asarray(open_image(path)).shape[2] for path in image_files(tmp_path)} == {3}
    assert unread(tmp_path) == ""


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    files = {
        "a.png": png(), "b.heic": png(), "c": heic, "d.JXL": b"\xff\x0a", "e.dng": tiff([]), "notes.txt": b"P1 is mine",
        "list.csv": b"BMW,3", ".hidden": png(), "f.svg": b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "empty": b"",
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    read = is_read("HEIF")
    assert [path.name for path in image_files(tmp_path)] == ["a.png", "b.heic", *(["c"] if read else [])]
    said = unread(tmp_path)
    assert ("1 HEIF" in said) != read
    assert "1 JPEG XL" in said
    assert "1 SVG" in said
    assert "1 camera raw" in said
    assert "3 files that hold no picture (empty, list.csv, notes.txt)" in said
    assert "txt" not in unread(tmp_path, others=False)
    if not read:
        with pytest.raises(InputError, match=r"c is not a readable image .*equimos\[heif\]"):
            open_image(tmp_path / "c")
    with pytest.raises(InputError, match="e.dng is not a readable image .it is camera raw"):
        open_image(tmp_path / "e.dng")


def test_heic_is_read_with_the_extra(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    picture = Image.fromarray(np.repeat(np.repeat(LEFT_RED, 8, 0), 8, 1))
    heif.from_pillow(picture).save(tmp_path / "IMG_1.jpg", quality=-1, exif=b"Exif\0\0" + exif([turned()]))
    assert kind_of(io.BytesIO((tmp_path / "IMG_1.jpg").read_bytes())) == "HEIF"
    assert open_image(tmp_path / "IMG_1.jpg").size == (64, 128)


def test_pipes_are_no_pictures(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    assert kind_at(tmp_path / "pipe") is None
    with pytest.raises(InputError, match="pipe is not a readable image .it is no file"):
        open_image(tmp_path / "pipe")


# Limits ------------------------------------------------------------------------------------------------


def refused(data: bytes, kind: str, words: str, **limits: int) -> None:
    with pytest.raises(UnreadableError, match=words) as error:
        decode(data, **limits)
    assert error.value.kind == kind


def test_pixels_and_scans_are_bounded_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(png(), "large", "16 x 8 pixels: at most 100", most_pixels=100)
    plain = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    assert decode(plain).image.size == (64, 64)
    start, end = plain.rindex(b"\xff\xda"), plain.rindex(b"\xff\xd9")
    refused(plain[:end] + plain[start:end] * 60 + plain[end:], "large", "scans: at most 50")
    monkeypatch.setattr(decoding, "MOST_SCANS", 2)
    refused(plain, "large", "scans: at most 2")


def test_what_follows_a_jpeg_is_no_part_of_it() -> None:
    """Telephones append films, in which the mark of a scan is found by chance."""
    plain = saved(Image.new("RGB", (64, 64)), "JPEG")
    assert decode(plain + b"\xff\xda\0\0" * 500).image.size == (64, 64)


def test_an_icon_s_list_does_not_hide_a_large_picture() -> None:
    large = saved(Image.new("RGB", (300, 300)), "PNG")
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(large), 22) + large
    refused(icon, "large", "300 x 300 pixels", most_pixels=1000)


def test_of_several_frames_the_first_is_taken() -> None:
    first, second = Image.new("RGB", (6, 4), "red"), Image.new("RGB", (6, 4), "blue")
    for form in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        options = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "AVIF" else {}
        data = saved(first, form, save_all=True, append_images=[second], **options)
        red, _, blue = pixels(decode(data))[0, 0]
        assert (red > 250, blue < 5) == (True, True), form
