"""What MOS's stacks make of a batch of images, each computed when it is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from continual.adapters.bottleneck import shared
from continual.backbones.vit import Prefix
from continual.learning.feature_cache import FeatureCache

if TYPE_CHECKING:
    from continual.methods.mos.learner import MOSLearner


class StackFeatures:
    """Features (B, D) of prepared images (B, 3, H, W) under the stacks of a MOS learner, remembered in a cache.

    Where a symmetry looks at several views of an image, the first stack sees them all, and later ones a few of them.
    What a later stack changes in the few is taken for what it changes in the mean (a control variate):

        phi(x; A_k) = mean_all phi(g x; A_1) + mean_few [phi(g x; A_k) - phi(g x; A_1)]
    """

    def __init__(self, learner: MOSLearner, images: Tensor, cache: FeatureCache | None = None) -> None:
        settings, state, symmetry = learner.settings, learner.state, learner.symmetry
        self.learner, self.images, self.cache = learner, images, cache
        self.bank = state.stacked_bank if settings.consolidate is None else state.consolidated_bank
        fewer = symmetry is not None and settings.retrieved_views < symmetry.looked
        self.few = settings.retrieved_views if fewer else None  #: views that later stacks see, if not all

    @cached_property
    def prefix(self) -> Prefix:
        """What all stacks have in common."""
        return self.learner.prefix(self.images)

    @property
    def first(self) -> Tensor:
        """Features (B, D) under the first stack."""
        return self._first_and_rest[0]

    def later(self, rows: Tensor, stacks: Tensor) -> Tensor:
        """Return features (M, D) of the images with indices `rows` (M,), each under its stack (M,), none the first."""
        found = self._remembered(rows, stacks)
        return found if self.few is None else found + self._first_and_rest[1][rows]

    @cached_property
    def _first_and_rest(self) -> tuple[Tensor, Tensor]:
        """Features under the first stack, and what they have over those of the few views."""
        every = torch.arange(len(self.images), device=self.images.device)
        if self.few is None:
            first = self._remembered(every, torch.zeros_like(every))
            return first, torch.zeros_like(first)
        learner, few = self.learner, self.few
        stack = shared({name: tensor[0] for name, tensor in self.bank.items()}, learner.settings.adapter_scale)

        def compute(rows: Tensor) -> Tensor:
            return torch.cat(learner.features_and_some(self.prefix[rows], stack, few), 1)

        name = ("first", few)
        both = compute(every) if self.cache is None else self.cache.features(self.images, [name] * len(every), compute)
        first, some = both.chunk(2, 1)
        return first, first - some

    def _remembered(self, rows: Tensor, stacks: Tensor) -> Tensor:
        """Return features (M, D) of the views that stacks (M,) see."""

        def compute(new: Tensor) -> Tensor:
            prefix = self.prefix[rows[new]]
            return self.learner.served(prefix if self.few is None else prefix.only(self.few), self.bank, stacks[new])

        if self.cache is None:
            return compute(torch.arange(len(rows), device=rows.device))
        # Consolidation leaves the first stack as it is.
        consolidate = self.learner.settings.consolidate
        names = [(k, consolidate if k else None, self.few) for k in stacks.tolist()]
        return self.cache.features(self.images[rows], names, compute)
