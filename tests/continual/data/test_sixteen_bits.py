"""Pictures of 16 bits per channel: of a camera of 12 bits they are nearly black, unless a range says what white is."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from continual.data.decoding import decode
from continual.data.file_kinds import UnreadableError
from continual.data.inputs import as_experience
from continual.data.preprocessing import Preprocessing
from continual.data.ranges import ValueRangeWarning
from continual.export.onnx_runner import prepare
from continual.lifecycle.new_images import plan
from continual.lifecycle.seen_images import SeenImages
from continual.serving.uploads import Limits, picture
from tests.continual.data.test_decoding import saved

DEEP = (np.arange(48 * 48).reshape(48, 48) * 4095 // (48 * 48 - 1)).astype(np.uint16)  # of a camera of 12 bits
BYTES = np.floor(255.0 * DEEP / 4095 + 0.5).astype(np.uint8)
FRAME = Preprocessing(size=(48, 48), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of such pictures, each of its own brightness."""
    for name, share in (("dim", 2), ("bright", 1)):
        (tmp_path / "deep" / name).mkdir(parents=True)
        for number in range(3):
            values = (DEEP.astype(int) // share - number).clip(0).astype(np.uint16)
            (tmp_path / "deep" / name / f"{number}.tif").write_bytes(saved(Image.fromarray(values), "TIFF"))
    return tmp_path / "deep"


@pytest.mark.parametrize("form", ["TIFF", "PNG"])
def test_a_stated_range_says_what_white_is(form: str) -> None:
    data = saved(Image.fromarray(DEEP), form)
    found = decode(data, value_range="0..4095")
    assert np.array_equal(np.asarray(found.image), np.repeat(BYTES[..., None], 3, 2))
    assert found.brightest == 4095
    cut = np.asarray(decode(data, value_range="1000..3000").image)[..., 0]
    assert (cut[DEEP <= 1000] == 0).all()
    assert (cut[DEEP >= 3000] == 255).all()
    for other in (None, "bytes", "unit", "normalised", "0..1.5"):  # of arrays: a picture of 16 bits uses all of them
        assert np.array_equal(np.asarray(decode(data, value_range=other).image)[..., 0], DEEP // 256)
    assert decode(saved(Image.fromarray(BYTES), form), value_range="0..4095").brightest is None


def test_colours_of_16_bits_are_refused_where_a_range_says_that_they_use_fewer() -> None:
    """Pillow reads 8 of them."""
    rows = b"".join(b"\0" + np.repeat(row[:, None], 3, 1).astype(">u2").tobytes() for row in DEEP)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 48, 48, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    assert decode(data).brightest == 4095
    with pytest.raises(UnreadableError, match=r"16 bits, of which Pillow reads 8: with value range 0\.\.4095, save it"):
        decode(data, value_range="0..4095")


def test_files_are_learned_and_asked_about_alike(folder: Path) -> None:
    data = as_experience(folder, None, FRAME, value_range=(0, 4095))
    path = folder / "bright" / "0.tif"
    image = data.evaluation[data.labels.index("bright")][0]
    unit = torch.from_numpy(BYTES).float() / 255
    torch.testing.assert_close(image, ((unit - 0.5) / 0.5).expand(3, -1, -1))
    about = {"size": (48, 48), "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bicubic"}
    np.testing.assert_allclose(prepare(path, about, value_range="0..4095"), image.numpy(), atol=1e-6)
    sent = picture(path.read_bytes(), "0.tif", Limits(), value_range="0..4095")
    assert np.array_equal(np.asarray(sent)[..., 0], BYTES)
    once = as_experience(folder, None, FRAME, value_range=(0, 4095), decoded=2**20)
    assert torch.equal(once.evaluation[data.labels.index("bright")][0], image)


def test_nearly_black_pictures_are_remarked_on(folder: Path) -> None:
    said = r"6 images of 16 bits are nearly black, with no number above 4095 of 65535: say .*--value-range 0\.\.4095"
    with pytest.warns(ValueRangeWarning, match=said):
        as_experience(folder, None, FRAME)
    for stated, remarks in ((None, 1), ("0..4095", 0)):
        notes = plan(folder, SeenImages(), [], value_range=stated).notes
        assert sum("--value-range 0..4095" in note for note in notes) == remarks


def test_a_picture_that_uses_its_bits_is_not(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for number in (1, 2):
        (tmp_path / "x" / f"{number}.tif").write_bytes(saved(Image.fromarray(DEEP * 16 + np.uint16(number)), "TIFF"))
    as_experience(tmp_path, None, FRAME)
    assert not any("16 bits" in note for note in plan(tmp_path, SeenImages(), []).notes)
