"""Explain an answer: exactly where the method allows it, else by covering places of the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continual.data.inputs import Label, prepared
from continual.errors import InputError
from continual.explaining.explanation import Explanation
from continual.explaining.occlusion import occluded
from continual.explaining.patches import divided, divisible
from continual.learning.learner import IncrementalLearner
from continual.methods.strata import StrataLearner

NEAREST = 5  #: classes named


def explain(learner: IncrementalLearner[Any], image: Any, against: Label | None = None) -> Explanation:
    """Say why a learner answers as it does for one image, as `predict` takes them.

    For `strata` without a group the shares of the patches are exact, and cost one pass; for all else 49 places are
    covered one after the other. `against` is a class with which the answer is compared. Raises InputError before
    anything was learned, for a class never learned, and for an image that cannot be used.
    """
    if not learner.classes:
        raise InputError("nothing has been learned yet: call learn first")
    return explained(learner, prepared_for(learner, image), against)


def prepared_for(learner: IncrementalLearner[Any], image: Any) -> Tensor:
    """Return one image as the learner's input (C, H, W)."""
    preprocessing = learner.preprocessing
    return prepared(image, 0, preprocessing, preprocessing.evaluation(), learner.state.value_range)


def explained(learner: IncrementalLearner[Any], image: Tensor, against: Label | None = None) -> Explanation:
    """Do what `explain` does for an image that is prepared, (C, H, W)."""
    other = None if against is None else int(learner.indices([against]))
    scores = learner.score_batch(image[None])
    index = int(scores.values[0].argmax())
    nearest: list[tuple[Label, float]] = []
    if scores.similarity is not None:
        best = scores.similarity[0].argsort(descending=True).tolist()[:NEAREST]
        nearest = [(learner.classes[place], float(scores.similarity[0, place])) for place in best]
    answer, seen = learner.classes[index], picture(learner, image)
    if divisible(learner):
        assert isinstance(learner, StrataLearner)
        value, base, whole, places = divided(learner, image, index, other)
        return Explanation(answer, against, True, value, base, whole, places, seen, nearest)
    value, places = occluded(learner, image, index, other)
    return Explanation(answer, against, False, value, 0.0, 0.0, places, seen, nearest)


def picture(learner: IncrementalLearner[Any], image: Tensor) -> Image.Image | None:
    """Return what a model sees of a prepared image; None for images that are no pictures, or of several backbones."""
    preprocessing = learner.preprocessing
    if image.shape[0] not in (1, 3) or len(learner.backbone.parts) > 1:
        return None
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = ((image.cpu() * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
