"""Features of held-out images, kept if asked for: what an experience broke is known also when the images are gone.

That is exact for methods whose answers follow from features that never change (`IncrementalLearner.fixed_features`).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from continual.data.inputs import Label
from continual.learning import model_file
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.lifecycle.entries import unchanged
from continual.lifecycle.new_images import Picture
from continual.lifecycle.seen_images import SeenImages
from continual.seeding import generator
from continual.selection.base import selected


@dataclass(frozen=True)
class HeldOutFeatures:
    """Features of images, which are known by their digests (see `SeenImages`)."""

    digests: tuple[int, ...] = ()
    rows: Mapping[str, Tensor] = field(default_factory=dict)  #: (n, D) under the weights of that name

    @classmethod
    def of(cls, learner: IncrementalLearner[Any], images: Mapping[int, Path], *, workers: int = 0) -> Self:
        """Compute them, of images by their digests."""
        notes = _Notes()
        if images:
            learner.predict([unchanged(path, mark) for mark, path in images.items()], cache=notes, workers=workers)
        return cls(tuple(images), {name: torch.stack(rows).cpu() for name, rows in notes.rows.items()})

    def labels(self, seen: SeenImages) -> list[Label]:
        """Return what the images are of."""
        return [seen.by_digest[mark].label for mark in self.digests]

    def only(self, digests: Collection[int]) -> HeldOutFeatures:
        """Return those of some images alone."""
        places = [place for place, mark in enumerate(self.digests) if mark in digests]
        kept = tuple(self.digests[place] for place in places)
        return HeldOutFeatures(kept, {name: rows[places] for name, rows in self.rows.items()})

    def without(self, digests: Collection[int]) -> HeldOutFeatures:
        """Return those of all images but some."""
        return self.only(set(self.digests).difference(digests))

    def plus(self, other: HeldOutFeatures) -> HeldOutFeatures:
        """Return both together."""
        if not (self.digests and other.digests):
            return self if self.digests else other
        rows = {name: torch.cat([own, other.rows[name]]) for name, own in self.rows.items()}
        return HeldOutFeatures(self.digests + other.digests, rows)

    def answers(self, learner: IncrementalLearner[Any]) -> list[Label]:
        """Return what the learner would answer for the images."""
        if not self.digests:
            return []
        numbers = torch.arange(len(self.digests)).reshape(-1, 1, 1, 1)
        known = {name: rows.to(learner.device) for name, rows in self.rows.items()}
        scores = learner.score_batch(numbers, _Replay(known))
        return [learner.classes[best] for best in scores.values.argmax(1).tolist()]

    def pack(self) -> dict[str, Tensor]:
        """Return tensors for the model file, beside those of the seen images."""
        if not self.digests:
            return {}
        return {"features_of": torch.tensor(self.digests, dtype=torch.int64), **model_file.join("features", self.rows)}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild what `pack` took apart; none of a file without."""
        if "features_of" not in tensors:
            return cls()
        return cls(tuple(tensors["features_of"].tolist()), model_file.part(tensors, "features"))


def chosen(pictures: Sequence[Picture], there: HeldOutFeatures, seen: SeenImages, most: int) -> dict[int, Path]:
    """Choose of which held-out images to keep features, at most so many per class with those that are kept already.

    The same ones of the same images in whatever order; one that is kept stays.
    """
    count, by_class = Counter(there.labels(seen)), defaultdict[Label, list[Picture]](list)
    for picture in sorted(pictures, key=lambda picture: picture.entry.digest):
        if picture.entry.digest not in there.digests:
            by_class[picture.entry.label].append(picture)
    found = {}
    for label, own in by_class.items():
        draw = generator(0, "held-out images", label)
        for place in selected("random", torch.empty(len(own), 0), max(most - count[label], 0), draw):
            found[own[place].entry.digest] = own[place].path
    return dict(sorted(found.items()))


class _Notes(FeatureCache):
    """Notes the features of images in the order in which a learner asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[Tensor]] = defaultdict(list)

    def features(self, images: Tensor, weights: Sequence[Hashable], compute: Callable[[Tensor], Tensor]) -> Tensor:
        found = compute(torch.arange(len(images), device=images.device))
        for name, row in zip(weights, found, strict=True):
            self.rows[json.dumps(name)].append(row)
        return found


class _Replay(FeatureCache):
    """Knows the features of images by the numbers given in place of them."""

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.rows = rows

    def features(self, images: Tensor, weights: Sequence[Hashable], compute: Callable[[Tensor], Tensor]) -> Tensor:
        places = images.flatten().tolist()
        return torch.stack([self.rows[json.dumps(name)][place] for place, name in zip(places, weights, strict=True)])
