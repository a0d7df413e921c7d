"""Which named things a model's answers go along with, by CLIP: after WASP (Marani et al., arXiv 2410.18970).

WASP ranks concepts by how far the weights of a classifier on CLIP's embeddings differ between classes along a concept's
text. A model of another backbone is read through a stand-in: the linear map from CLIP's embeddings of images to the
model's own scores. Nothing is found that has no name here, and no cause is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from continual.backbones.clip import load_clip
from continual.data.inputs import Label, PreparedImages
from continual.errors import InputError
from continual.learning.extractor import Progress, extract
from continual.statistics.ridge import SHARES, best_penalty

#: what a thing is called in
TEMPLATES = ("a photo of {}", "a photo with {}", "{}")
#: images that the stand-in needs
FEWEST = 8


@dataclass(frozen=True)
class NamedConcept:
    """A thing, and how much the scores of classes differ along it."""

    name: str
    spread: float  #: max - min over the classes of the stand-in's weights along it, in their typical length
    most: Label  #: the class that goes along with it,
    least: Label  #: and the one that goes against it


def ranked(
    learner: Any,
    images: Sequence[Any],
    words: Sequence[str],
    clip: str,
    weights: Path | None = None,
    *,
    pretrained: bool = True,
    progress: Progress | None = None,
    workers: int = 0,
) -> list[NamedConcept]:
    """Return the things named by `words`, the one that the answers go along with most first.

    Raises InputError without open_clip, or for too few images, BackboneError for a CLIP that cannot be had.
    """
    tower, head, preprocessing = load_clip(clip, weights, {}, words, TEMPLATES, pretrained=pretrained)
    assert head is not None
    if len(images) < FEWEST:
        raise InputError(f"the stand-in for the model needs {FEWEST} images, and there are {len(images)}: give more")
    data = PreparedImages(images, [0] * len(images), preprocessing, augment=False)
    (embedded,), _ = extract(data, lambda x, _: [tower(x)], 64, torch.device("cpu"), progress, workers)
    scores = learner.predict(images, progress=progress, workers=workers).scores
    slopes = stand_in(embedded, scores)
    along = slopes @ normalize(head.weight.detach().double(), dim=1).mT  # (C, W)
    along = along / slopes.norm(dim=1).mean().clamp(min=1e-12)
    names = learner.classes
    found = [
        NamedConcept(word, float(own.max() - own.min()), names[int(own.argmax())], names[int(own.argmin())])
        for word, own in zip(words, along.unbind(1), strict=True)
    ]
    return sorted(found, key=lambda one: (-one.spread, one.name))


def stand_in(embedded: Tensor, scores: Tensor) -> Tensor:
    """Return the slopes (C, K) of the linear map from embeddings (n, K) to the logarithms of scores (n, C).

    Its penalty is the one that generalised cross-validation expects to be best.
    """
    x, y = embedded.double(), scores.double().clamp(min=1e-6).log()
    x, y = x - x.mean(0), y - y.mean(0)
    values, directions = torch.linalg.eigh(x.mT @ x)
    explained = (directions.mT @ x.mT @ y).square().sum(1)
    penalty, _ = best_penalty(values, explained, float(y.square().sum()), len(x) - 1)
    if penalty == float("inf"):
        penalty = SHARES[0] * float(values.clamp(min=0).mean())
    held = values.clamp(min=0) + max(penalty, 1e-12)
    return (directions @ ((directions.mT @ x.mT @ y) / held[:, None])).mT
