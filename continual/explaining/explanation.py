"""What an answer rests on, as values that can be shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from continual.data.inputs import Label


@dataclass(frozen=True)
class Explanation:
    """Why a class was answered for one image.

    Where it is `exact`, `value` is the regression's value of the class (less that of `against`), and the sum of `base`,
    `whole` and all of `places`. Otherwise it is the class's probability, or score, and a place says by how much that
    falls when the place is covered; such falls do not add up.
    """

    answer: Label
    against: Label | None  #: the class it is compared with, if any
    exact: bool
    value: float
    base: float  #: what every image gets: the value of a mean image
    whole: float  #: what tokens of the whole image add
    places: NDArray[np.float64]  #: (rows, columns), what each place of the picture adds
    picture: Image.Image | None = None  #: what the model sees: resized and cut out
    nearest: list[tuple[Label, float]] = field(default_factory=list)  #: classes by the cosine to their prototypes

    @property
    def residual(self) -> float:
        """How far the parts are from the value: rounding, where it is exact."""
        return self.value - self.base - self.whole - float(self.places.sum())

    def strongest(self, count: int = 5) -> list[tuple[int, int, float]]:
        """Return the places that add most: row, column (from 0), and what they add."""
        order = np.argsort(-self.places, axis=None)[:count]
        rows, columns = np.unravel_index(order, self.places.shape)
        return [(int(r), int(c), float(self.places[r, c])) for r, c in zip(rows, columns, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Return all but the picture as JSON values."""
        return {
            "answer": self.answer,
            "against": self.against,
            "exact": self.exact,
            "value": self.value,
            "base": self.base,
            "whole": self.whole,
            "places": self.places.tolist(),
            "nearest": [{"class": name, "similarity": similarity} for name, similarity in self.nearest],
        }
