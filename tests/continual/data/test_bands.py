"""Files of many channels: the same numbers back, and no more memory or time than they say and may have."""

from __future__ import annotations

import builtins
import io
import struct
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from continual.data.bands import read_bands
from continual.data.decoding import MOST_PIXELS, TURNS, decode, opened
from continual.data.file_kinds import UnreadableError, kind_of
from continual.errors import InputError, NeedsExtraError

tifffile = pytest.importorskip("tifffile")

MIB = 2**20
KINDS = [np.uint8, np.uint16, np.int16, np.float32]
#: how programs write channels: options of `tifffile.imwrite`, and whether channels come first
WAYS: dict[str, tuple[dict[str, Any], bool]] = {
    "chunky": ({"planarconfig": "contig"}, False),
    "planar": ({"planarconfig": "separate"}, True),
    "a page each": ({}, True),
    "planar, Deflate": ({"planarconfig": "separate", "compression": "zlib"}, True),
    "chunky, Deflate, strips": ({"planarconfig": "contig", "compression": "zlib", "rowsperstrip": 7}, False),
    "tiles": ({"planarconfig": "contig", "compression": "zlib", "tile": (16, 16)}, False),
    "planar tiles": ({"planarconfig": "separate", "tile": (16, 16)}, True),
    "BigTIFF, the other byte order": ({"planarconfig": "contig", "bigtiff": True, "byteorder": ">"}, False),
}


def scene(channels: int, kind: Any = np.uint16) -> np.ndarray:
    return (np.random.default_rng(channels).random((30, 41, channels)) * 120).astype(kind)


def written(values: np.ndarray, way: str = "chunky", **more: Any) -> bytes:
    options, first = WAYS[way]
    file = io.BytesIO()
    tifffile.imwrite(
        file, np.moveaxis(values, -1, 0) if first else values, photometric="minisblack", **{**options, **more}
    )
    return file.getvalue()


def saved(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def refused(data: bytes, channels: int = 5, most: int = MOST_PIXELS) -> UnreadableError:
    """The refusal, which took hardly more memory than the file."""
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError) as found:
            decode(data, channels=channels, most_pixels=most)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data) + 4 * MIB
    finally:
        tracemalloc.stop()
    return found.value


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_the_numbers_are_those_that_were_written(channels: int, way: str) -> None:
    for kind in KINDS:
        found = decode(written(scene(channels, kind), way), channels=channels).image
        assert found.dtype.newbyteorder("=") == kind
        np.testing.assert_array_equal(found, scene(channels, kind))


def test_whole_numbers_of_a_predictor_are_those_that_were_written() -> None:
    np.testing.assert_array_equal(
        decode(written(scene(5), compression="zlib", predictor=2), channels=5).image, scene(5)
    )


def test_npy_of_both_orders() -> None:
    for given in (scene(5), np.moveaxis(scene(5), -1, 0), np.asfortranarray(scene(5)), scene(5).astype(">u2")):
        np.testing.assert_array_equal(decode(saved(given), channels=5).image, scene(5))


@pytest.mark.parametrize("orientation", TURNS)
def test_the_orientation_is_that_of_pictures(orientation: int) -> None:
    values = scene(4, np.uint8)
    data = written(values, extratags=[(274, 3, 1, orientation, True)])
    turned = Image.fromarray(values).transpose(Image.Transpose[TURNS[orientation]])
    np.testing.assert_array_equal(decode(data, channels=4).image, np.asarray(turned))


def test_other_channels_are_named(tmp_path: Path) -> None:
    for way in ("chunky", "planar", "a page each"):
        assert str(refused(written(scene(4), way))) == "it has 4 channels, and the backbone takes 5"
    assert "it has 13 channels" in str(refused(written(scene(13), "planar")))
    assert "it has more than 5 channels" in str(refused(written(scene(13), "a page each")))
    assert "it has 1 channel, and" in str(refused(written(scene(1)[..., 0])))
    assert "its shape is (30, 41, 4), and the backbone takes 5 channels" in str(refused(saved(scene(4))))
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png .*it is PNG, a picture, and the backbone takes 5 channels"):
        opened(tmp_path / "a.png", str(tmp_path / "a.png"), 5)
    assert "it is no picture" in str(refused(b"hello"))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (20, 20)).save(file, "TIFF", compression="tiff_lzw")
    real, missing = builtins.__import__, {"imagecodecs"}

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name in missing:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NeedsExtraError, match=r"TIFF files with LZW need imagecodecs: pip install imagecodecs"):
        decode(file.getvalue(), channels=4)
    missing.add("tifffile")
    with pytest.raises(NeedsExtraError, match=r"pip install 'equimos\[tiff\]', or give \.npy"):
        decode(written(scene(5)), channels=5)
    assert decode(saved(scene(5)), channels=5).image.shape == (30, 41, 5)


# Hostile files -----------------------------------------------------------------------------------------


def with_tag(data: bytes, tag: int, value: int, kind: int | None = None, count: int | None = None) -> bytes:
    """Return a little-endian TIFF whose first page says otherwise in one tag."""
    found, place = bytearray(data), struct.unpack_from("<I", data, 4)[0]
    for entry in range(place + 2, place + 2 + 12 * struct.unpack_from("<H", data, place)[0], 12):
        number, _, many = struct.unpack_from("<HHI", data, entry)
        if number == tag:
            struct.pack_into("<HHII", found, entry, tag, kind or 4, many if count is None else count, value)
            return bytes(found)
    raise AssertionError(f"no tag {tag}")


def test_a_file_that_says_it_is_huge_is_refused_by_its_header() -> None:
    assert refused(with_tag(with_tag(written(scene(5)), 256, 10**6), 257, 10**6)).kind == "large"
    assert refused(written(scene(5)), most=30 * 41 * 5 - 1).kind == "large"
    assert refused(saved(scene(5)), most=30 * 41 * 5 - 1).kind == "large"
    decode(written(scene(5)), channels=5, most_pixels=30 * 41 * 5)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<u2", "fortran_order": False, "shape": (10**6, 10**6, 5)})
    assert refused(head.getvalue()).kind == "large"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<u2", "fortran_order": False, "shape": (3000, 3000, 5)})
    assert refused(head.getvalue() + bytes(100)).kind == "damaged"
    assert refused(with_tag(with_tag(written(scene(5)), 256, 3000), 257, 3000)).kind == "damaged"
    assert refused(written(scene(5, np.float64)), most=2 * 30 * 41 * 5 - 1).kind == "large", "of eight bytes each"


def test_nothing_is_printed_of_a_damaged_file(capfd: pytest.CaptureFixture[str]) -> None:
    refused(with_tag(written(scene(5)), 257, 3000))
    assert capfd.readouterr() == ("", "")


def test_tiles_and_strips_are_no_larger_than_the_picture() -> None:
    tiled = written(scene(5), "tiles")
    assert refused(with_tag(with_tag(tiled, 322, 2**17), 323, 2**17)).kind == "large"


def test_what_unpacks_to_more_than_it_says_is_refused() -> None:
    bomb = zlib.compress(bytes(64 * MIB), 9)
    data = written(scene(5), "chunky", compression="zlib")
    packed = with_tag(with_tag(data, 273, len(data)), 279, len(bomb)) + bomb
    assert "larger, unpacked, than it says" in str(refused(packed))
    many = written(scene(5), "chunky, Deflate, strips", rowsperstrip=1)
    sizes = next(t for t in tifffile.TiffFile(io.BytesIO(many)).pages[0].tags if t.code == 279)
    over = bytearray(many)
    width = 4 if sizes.dtype == 4 else 2
    whole = (len(many) // 2).to_bytes(width, "little")  # every strip is half of the file
    over[sizes.valueoffset : sizes.valueoffset + width * sizes.count] = whole * sizes.count
    assert "lie one on the other" in str(refused(bytes(over)))


def test_objects_and_text_are_not_loaded() -> None:
    for values in (np.array([[[{}] * 5]], dtype=object), np.array([[["a"] * 5]]), np.zeros((2, 2, 5), complex)):
        assert "its numbers are of dtype" in str(refused(saved(values)))


def test_twelve_bits_and_jpeg_are_refused_with_the_cure() -> None:
    two = written(scene(2))
    assert "save 8, 16 or 32 bits" in str(refused(with_tag(two, 258, 12 + (12 << 16), 3), 2))
    assert "its compression is JPEG: save it with Deflate" in str(refused(with_tag(two, 259, 7, 3), 2))


def test_damaged_files_give_one_kind_of_error() -> None:
    draw = np.random.default_rng(0)
    wholes = [written(scene(5), way) for way in WAYS] + [saved(scene(5))]
    tracemalloc.start()
    try:
        for number in range(400):
            data = bytearray(wholes[number % len(wholes)])
            for _ in range(1 + number % 5):
                data[draw.integers(min(len(data), 400) if number % 2 else len(data))] = draw.integers(256)
            if number % 7 == 0:
                del data[draw.integers(len(data)) :]
            file = io.BytesIO(bytes(data))
            with suppress(UnreadableError, NeedsExtraError):
                assert read_bands(file, kind_of(file), 5, 10**6).shape[2] == 5
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()
