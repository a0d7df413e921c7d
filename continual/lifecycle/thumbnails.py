"""Small pictures of learned images, kept if asked for: an answer can then be shown beside what it is like.

They are the only pictures that a model file can hold. Without them it holds sums, digests and names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continual.data.decoding import decoded
from continual.data.inputs import Label, prepared
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.lifecycle.new_images import Picture
from continual.lifecycle.seen_images import SeenImages
from continual.statistics.head import cosine_scores

SIDE = 64  #: pixels along each side
PART = "thumbnails"


@dataclass(frozen=True)
class Thumbnails:
    """Pictures by the digests of their files (see `SeenImages`), with frozen features to find them by."""

    digests: tuple[int, ...]
    pictures: Tensor  #: (n, SIDE, SIDE, 3) uint8
    features: Tensor  #: (n, D) float16, of the backbone without adapters, which never change

    @classmethod
    def none(cls) -> Self:
        """Return no pictures."""
        return cls((), torch.zeros(0, SIDE, SIDE, 3, dtype=torch.uint8), torch.zeros(0, 0, dtype=torch.float16))

    @classmethod
    def of(cls, learner: IncrementalLearner[Any], pictures: Sequence[Picture]) -> Self:
        """Make them of image files; raises InputError for a model of images that are no pictures."""
        if learner.preprocessing.channels not in (1, 3):
            raise InputError("thumbnails are of pictures: a model of many channels keeps none")
        found = [decoded(picture.image).image for picture in pictures]
        if not found:
            return cls.none()
        small = [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in found]
        rows = torch.cat([_features(learner, image) for image in found])
        digests = tuple(picture.entry.digest for picture in pictures)
        return cls(digests, torch.from_numpy(np.stack(small)), rows.half().cpu())

    def plus(self, other: Thumbnails) -> Thumbnails:
        """Return both together."""
        if not (self.digests and other.digests):
            return self if self.digests else other
        joined = [torch.cat(pair) for pair in ((self.pictures, other.pictures), (self.features, other.features))]
        return Thumbnails(self.digests + other.digests, *joined)

    def only(self, digests: Collection[int]) -> Thumbnails:
        """Return those of some images alone."""
        places = [place for place, mark in enumerate(self.digests) if mark in digests]
        return Thumbnails(tuple(self.digests[p] for p in places), self.pictures[places], self.features[places])

    def nearest(
        self, learner: IncrementalLearner[Any], image: Tensor, seen: SeenImages, count: int = 5
    ) -> list[tuple[Label, float, Image.Image]]:
        """Return the class, the cosine and the picture of those most like a prepared image (C, H, W)."""
        if not self.digests:
            return []
        own = learner.extractor.untransformed.frozen_features(image[None].to(learner.device)).cpu()
        cosines = cosine_scores(own, self.features.float())[0]
        best = cosines.argsort(descending=True).tolist()[:count]
        return [
            (seen.by_digest[self.digests[p]].label, float(cosines[p]), Image.fromarray(self.pictures[p].numpy()))
            for p in best
        ]

    def pack(self) -> dict[str, Tensor]:
        """Return tensors for the model file, beside those of the seen images."""
        if not self.digests:
            return {}
        of = torch.tensor(self.digests, dtype=torch.int64)
        return {f"{PART}/of": of, f"{PART}/pictures": self.pictures, f"{PART}/features": self.features}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild what `pack` took apart; none of a file without. Raises ValueError for parts that do not fit."""
        if f"{PART}/of" not in tensors:
            return cls.none()
        of, pictures, features = (tensors[f"{PART}/{name}"] for name in ("of", "pictures", "features"))
        if pictures.shape != (len(of), SIDE, SIDE, 3) or pictures.dtype != torch.uint8 or len(features) != len(of):
            raise ValueError(f"thumbnails are of shapes {tuple(pictures.shape)} and {tuple(features.shape)}")
        return cls(tuple(of.tolist()), pictures, features)


def chosen(pictures: Sequence[Picture], there: Thumbnails, seen: SeenImages, most: int) -> list[Picture]:
    """Return of which learned images to keep thumbnails: the first ones of each class, `most` with those there are."""
    count = Counter(seen.by_digest[mark].label for mark in there.digests if mark in seen.by_digest)
    found = []
    for picture in pictures:
        if count[picture.entry.label] < most and picture.entry.digest not in there.digests:
            count[picture.entry.label] += 1
            found.append(picture)
    return found


def _features(learner: IncrementalLearner[Any], image: Any) -> Tensor:
    preprocessing = learner.preprocessing
    given = prepared(image, 0, preprocessing, preprocessing.evaluation(), None)[None].to(learner.device)
    with torch.no_grad():
        return learner.extractor.untransformed.frozen_features(given)


def updated(
    there: Thumbnails | None,
    learner: IncrementalLearner[Any],
    pictures: Sequence[Picture],
    seen: SeenImages,
    most: int | None,
) -> Thumbnails:
    """Return what to keep once `pictures` were learned: what is there if `most` is None, nothing if it is 0."""
    kept = Thumbnails.none() if there is None or most == 0 else there
    return kept.plus(Thumbnails.of(learner, chosen(pictures, kept, seen, most))) if most else kept
