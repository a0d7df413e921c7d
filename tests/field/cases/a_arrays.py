"""Arrays and tensors of images, in the numbers people have them in."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from continual import SimpleCILLearner
from continual.errors import InputError
from continual.testing import coloured_squares, tiny_backbone
from tests.field.case import Case


def _floats_with_nan(folder: Path) -> None:
    from continual import StrataLearner

    images, labels = coloured_squares(range(2), 4)
    spoiled = images.float()
    spoiled[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="finite|NaN"):
        StrataLearner(tiny_backbone()).learn(spoiled, labels)


def _tensors_without_plain_numbers(folder: Path) -> None:
    images, labels = coloured_squares(range(2), 4)
    unit = images / 255
    learner = SimpleCILLearner(tiny_backbone())
    for given, cure in (
        (unit.to_sparse(), r"sparse: pass tensor\.to_dense"),
        (unit.to("meta"), "on the meta device, without numbers"),
        ([image.to_sparse() for image in images], r"sparse: pass tensor\.to_dense"),
    ):
        with pytest.raises(InputError, match=cure):
            learner.learn(given, labels)
    learner.learn(unit, labels, value_range="unit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (unit.clone().requires_grad_(), unit.to(torch.float8_e4m3fn)):
            assert learner.predict(given).labels == labels


CASES = [
    Case(
        "Numbers and ranges",
        "sparse, quantized and meta tensors; floats of 8 bits; tensors with a gradient",
        "the first three are refused with the cure, the others are used",
        "operators that are not implemented for a layout or dtype, in many trackers",
        _tensors_without_plain_numbers,
    ),
    Case(
        "Numbers and ranges",
        "a float batch with NaN",
        "one error that names it; nothing is learned",
        "a division by a zero standard deviation before the model, common in tracker threads on timm",
        _floats_with_nan,
    ),
]
