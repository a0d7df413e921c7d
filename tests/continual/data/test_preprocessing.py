"""Preprocessing: MOS's protocol, timm's evaluation view, and a check of finished inputs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform

from continual.data.preprocessing import Preprocessing
from continual.seeding import seeded

PLAIN = Preprocessing((16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def photo(height: int = 40, width: int = 56) -> Image.Image:
    y, x = np.mgrid[:height, :width] / 56
    waves = [np.sin(9 * x), np.cos(7 * y), np.sin(5 * (x + y))]
    return Image.fromarray((127 * (1 + np.stack(waves, -1))).astype(np.uint8))


def test_the_defaults_are_those_of_the_protocol() -> None:
    plain = Preprocessing((224, 224))
    assert (plain.mean, plain.std) == ((0.0,) * 3, (1.0,) * 3)
    assert (plain.interpolation, plain.crop_pct, plain.crop_scale) == ("bicubic", 0.875, (0.05, 1.0))
    assert "size=[256]" in repr(plain.evaluation())
    assert "ratio=(0.75, 1.333" in repr(plain.training())


@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_the_evaluation_view_is_timms(crop_pct: float) -> None:
    ours = Preprocessing((16, 16), PLAIN.mean, PLAIN.std, crop_pct=crop_pct).evaluation()(photo())
    theirs = create_transform((3, 16, 16), interpolation="bicubic", mean=PLAIN.mean, std=PLAIN.std, crop_pct=crop_pct)
    torch.testing.assert_close(torch.Tensor(ours), theirs(photo()))


@given(height=st.integers(1, 40), width=st.integers(1, 40), other=st.integers(8, 24))
def test_any_image_becomes_the_models_size(height: int, width: int, other: int) -> None:
    images = torch.zeros(3, height, width, dtype=torch.uint8)
    plain = Preprocessing((16, other))
    for view in (plain.training(), plain.evaluation()):
        assert view(images).shape == (3, 16, other)


def test_bytes_become_zero_to_one_and_are_normalised() -> None:
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(PLAIN.mean)) / torch.tensor(PLAIN.std)
    torch.testing.assert_close(PLAIN.evaluation()(white)[:, 3, 5], expected)


def test_the_training_view_is_random_and_the_evaluation_view_is_not() -> None:
    def two(view: Any) -> bool:
        with seeded(0):
            return torch.equal(view(photo()), view(photo()))

    assert not two(PLAIN.training())
    assert two(PLAIN.evaluation())
    assert two(Preprocessing((16, 16), augment=False).training())


def test_mirroring_can_be_switched_off() -> None:
    half = torch.zeros(3, 16, 16, dtype=torch.uint8)
    half[:, :, :8] = 255

    def sides(mirror: bool) -> set[bool]:
        view = Preprocessing((16, 16), crop_scale=(1.0, 1.0), mirror=mirror).training()
        with seeded(0):
            return {bool(x[..., 0].mean() > x[..., -1].mean()) for x in (view(half) for _ in range(20))}

    assert sides(True) == {True, False}
    assert sides(False) == {True}


def test_it_survives_json() -> None:
    assert Preprocessing.from_json(json.loads(json.dumps(asdict(PLAIN)))) == PLAIN
    assert "size" not in Preprocessing.changeable()


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 16, 17), (1, 16, 16, 3)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes \(B, 3, 16, 16\), got .*pass uint8 tensors"):
        PLAIN.check(torch.zeros(shape))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_inputs_that_are_not_finite_are_refused(value: float) -> None:
    images = torch.zeros(2, 3, 16, 16)
    PLAIN.check(images)
    images[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        PLAIN.check(images)
