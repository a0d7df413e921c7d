"""Files of many channels, for backbones that take as many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from continual.data.inputs import PreparedImages, as_experience, list_folder, to_predict
from continual.data.preprocessing import Preprocessing
from continual.errors import InputError
from tests.field.case import Case

SECTION = "Images of many channels"
FIVE = Preprocessing((16, 16), (0.1,) * 5, (0.2,) * 5)


def _scene(kind: Any = np.uint16) -> np.ndarray:
    return (np.random.default_rng(0).random((20, 24, 5)) * 4000 % 256 ** (np.dtype(kind).itemsize)).astype(kind)


def _tiff(path: Path, values: np.ndarray, **options: Any) -> Path:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, values, photometric="minisblack", **options)
    return path


def _prepared(images: Any, value_range: str | None) -> torch.Tensor:
    return PreparedImages(images, [0] * len(images), FIVE, augment=False, value_range=value_range)[0][0]


def _same(folder: Path) -> None:
    for kind, name in ((np.uint8, None), (np.uint16, "0..4095"), (np.float32, "0..4095")):
        values = _scene(kind)
        first = np.moveaxis(values, -1, 0)
        expected = _prepared([values], name)
        np.save(folder / "a.npy", first)
        for given in (
            folder / "a.npy",
            _tiff(folder / "chunky.tif", values, planarconfig="contig", compression="zlib"),
            _tiff(folder / "planar.tif", first, planarconfig="separate"),
            _tiff(folder / "pages.tif", first),
        ):
            assert torch.equal(_prepared([given], name), expected), (kind, given)


def _range(folder: Path) -> None:
    path = _tiff(folder / "a.tif", _scene(), planarconfig="contig")
    with pytest.raises(InputError, match=r"whole numbers that are not uint8: pass value_range"):
        as_experience([path], ["a"], FIVE)
    data = as_experience([path], ["a"], FIVE, value_range=(0, 4095))
    assert data.value_range == "0..4095"
    assert torch.equal(as_experience([path], ["a"], FIVE, remembered="0..4095").evaluation[0][0], data.evaluation[0][0])


def _others(folder: Path) -> None:
    four = _tiff(folder / "four.tif", _scene()[..., :4], planarconfig="contig")
    with pytest.raises(InputError, match=r"four\.tif .*it has 4 channels, and the backbone takes 5"):
        _prepared([four], "unit")
    Image.new("RGB", (9, 9)).save(folder / "photo.jpg")
    with pytest.raises(InputError, match=r"photo\.jpg .*it is JPEG, a picture, and the backbone takes 5 channels"):
        _prepared([folder / "photo.jpg"], "unit")


def _folders(folder: Path) -> None:
    for name in ("water", "forest"):
        (folder / name).mkdir()
        _tiff(folder / name / "a.TIF", _scene(), planarconfig="contig")
        np.save(folder / name / "b.npy", _scene())
        np.savez(folder / name / "c.npz", _scene())
    assert [path.name for path in list_folder(folder, 5)[0]] == ["a.TIF", "b.npy"] * 2
    assert [path.name for path in to_predict(folder, 5)] == ["a.TIF", "b.npy"] * 2
    assert [path.name for path in list_folder(folder)[0]] == ["a.TIF"] * 2
    data = as_experience(folder, None, FIVE, value_range=(0, 4095))
    assert sorted(data.labels) == ["forest"] * 2 + ["water"] * 2


CASES = [
    Case(
        SECTION,
        "TIFF files of as many channels as the backbone takes: chunky, planar or a page each, uint8, uint16, float32",
        "the same bits as their arrays, with the extra `tiff`; transformed as their orientation tag says",
        "rasterio, GDAL and tifffile write channels in different places, and Pillow reads none of them",
        _same,
    ),
    Case(
        SECTION,
        "files whose numbers are not uint8",
        "`value_range=(black, white)`, `--value-range 0..4095`, is asked for before learning, and remembered",
        "12-bit sensors in 16-bit files come out nearly black",
        _range,
    ),
    Case(
        SECTION,
        "files of another number of channels, and photographs",
        "one error that names the file, what it has, and what the backbone takes",
        "in_chans=5 and an alpha channel, or a preview beside the scene",
        _others,
    ),
    Case(
        SECTION,
        "`.npy` files in folders",
        "images where the backbone takes other than one or three channels, (H, W, C) or (C, H, W); else left out, as "
        "`.npz` is",
        "patches of scenes are often saved with np.save",
        _folders,
    ),
]
