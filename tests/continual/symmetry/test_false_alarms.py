"""What is usual of known images is noted of what answers are made of, whatever a symmetry looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.methods import method

Blobs = Callable[..., tuple[Tensor, list[int]]]


EVERY: list[dict[str, Any]] = [
    {"symmetry": "equitune"},
    {"symmetry": "frame"},
    {"symmetry": "frame", "views": 1},
    {"symmetry": "canonicaliser"},
    {"symmetry": "pruned_orbit", "views": 1},
]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("ridge", {"symmetry": name}) for name in ("lambda_equitune", "equizero")),
        *((name, how) for name in ("ridge", "strata") for how in EVERY),
    ],
)
def test_as_many_known_images_are_called_unknown_as_were_asked_for(
    backbone: Backbone, blobs: Blobs, name: str, how: dict[str, Any]
) -> None:
    """A mean over few views varies more than one over all that were learned."""
    learner = method(name)(backbone, group="D4", **how)
    learner.learn(*blobs([0, 1, 2], 12))
    p_value = learner.predict(blobs([0, 1, 2], 60, seed=5)[0]).p_value
    assert p_value is not None
    assert float((p_value <= 0.2).float().mean()) == pytest.approx(0.2, abs=0.1)
