"""Arrays and tensors of images, in the numbers people have them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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


CASES = [
    Case(
        "Numbers and ranges",
        "a float batch with NaN",
        "one error that names it; nothing is learned",
        "a division by a zero standard deviation before the model, common in tracker threads on timm",
        _floats_with_nan,
    ),
]
