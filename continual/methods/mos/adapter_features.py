"""What the adapters of MOS make of a batch of images, each computed when it is asked for."""

from functools import cached_property

import torch
from torch import Tensor

from continual.adapters.bank import one, serve, shared
from continual.adapters.base import AdapterKind, Weights
from continual.backbones.base import SharedStem
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache


class AdapterFeatures:
    """Features (B, D) of prepared images (B, 3, H, W) under the adapters of a bank (T, ...), remembered in a cache.

    Where a symmetry looks at several views of an image, the first adapter sees them all, and later ones `views` of
    them. What a later adapter changes in the few is taken for what it changes in the mean (a control variate):

        phi(x; A_k) = mean_all phi(g x; A_1) + mean_few [phi(g x; A_k) - phi(g x; A_1)]

    In the cache the features of later adapters are known by their number and what was made of the `bank`.
    """

    def __init__(
        self,
        extractor: Extractor,
        kind: AdapterKind,
        bank: Weights,
        images: Tensor,
        *,
        views: int,
        bank_name: str | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        self.extractor, self.kind, self.bank, self.images = extractor, kind, bank, images
        self.bank_name, self.cache = bank_name, cache
        fewer = extractor.symmetry is not None and views < extractor.symmetry.looked
        self.few = views if fewer else None  #: views that later adapters see, if not all

    @cached_property
    def stem(self) -> SharedStem:
        """What all adapters have in common."""
        return self.extractor.stem(self.images, reads=self.kind.reads)

    @property
    def first(self) -> Tensor:
        """Features (B, D) under the first adapter."""
        return self._first_and_rest[0]

    def later(self, rows: Tensor, chosen: Tensor) -> Tensor:
        """Return features (M, D) of the images `rows` (M,), each under its adapter (M,), none of them the first."""
        found = self._remembered(rows, chosen)
        return found if self.few is None else found + self._first_and_rest[1][rows]

    def of_each(self, chosen: Tensor) -> Tensor:
        """Return features (B, D) of all images, each under its adapter (B,)."""
        if self.few is None:
            return self._remembered(None, chosen)
        rows = chosen.nonzero().squeeze(-1)
        return self.first.index_copy(0, rows, self.later(rows, chosen[rows])) if len(rows) else self.first

    @cached_property
    def _first_and_rest(self) -> tuple[Tensor, Tensor]:
        """Features under the first adapter, and what they have over those of the few views."""
        every = torch.arange(len(self.images), device=self.images.device)
        if self.few is None:
            first = self._remembered(None, torch.zeros_like(every))
            return first, torch.zeros_like(first)
        few, adapters = self.few, shared(self.kind, one(self.bank, 0))

        def compute(rows: Tensor) -> Tensor:
            return torch.cat(self.extractor.features_and_some(self.stem[rows], adapters, few), 1)

        name = ("first", few)
        both = compute(every) if self.cache is None else self.cache.features(self.images, [name] * len(every), compute)
        first, some = both.chunk(2, 1)
        return first, first - some

    def _remembered(self, rows: Tensor | None, chosen: Tensor) -> Tensor:
        """Return features (M, D) of the views that adapters (M,) see, of the images `rows` (M,) or of all."""

        def compute(new: Tensor) -> Tensor:
            # Tokens of all images are not copied: of those that a ladder reads that would take as long as it does.
            every = rows is None and len(new) == len(self.images)
            stem = self.stem if every else self.stem[new if rows is None else rows[new]]
            seen = stem if self.few is None else stem.only(self.few)
            return serve(self.kind, self.extractor.features, seen, self.bank, chosen[new])

        if self.cache is None:
            return compute(torch.arange(len(chosen), device=chosen.device))
        # Consolidation leaves the first adapter as it is.
        names = [(k, self.bank_name if k else None, self.few) for k in chosen.tolist()]
        return self.cache.features(self.images if rows is None else self.images[rows], names, compute)
