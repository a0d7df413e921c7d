"""Which places an answer needs, of any method: each is covered in turn, and what the class loses is its share.

As Zeiler and Fergus do (ECCV 2014, arXiv 1311.2901). The cover is the mean colour of what the backbone was trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continual.learning.answers import Scores
from continual.learning.learner import IncrementalLearner

#: places along each side
CELLS = 7


def occluded(
    learner: IncrementalLearner[Any], image: Tensor, index: int, against: int | None = None, cells: int = CELLS
) -> tuple[float, NDArray[np.float64]]:
    """Return what the class has, and what it loses (cells, cells) with each place of a prepared image covered.

    That is its probability, or its score where a method has none, less that of `against`. It costs cells^2 + 1 passes.
    """
    height, width = image.shape[-2:]
    rows, columns = ([round(k * side / cells) for k in range(cells + 1)] for side in (height, width))
    covered = image.repeat(cells * cells + 1, 1, 1, 1)
    for place in range(cells * cells):
        r, c = divmod(place, cells)
        covered[place + 1, :, rows[r] : rows[r + 1], columns[c] : columns[c + 1]] = 0
    size = learner.settings.eval_batch_size
    found = torch.cat([_worth(learner.score_batch(batch), index, against) for batch in covered.split(size)])
    return float(found[0]), (found[0] - found[1:]).reshape(cells, cells).double().numpy()


def _worth(scores: Scores, index: int, against: int | None) -> Tensor:
    values = scores.values if scores.probabilities is None else scores.probabilities
    return values[:, index] - (0 if against is None else values[:, against])
