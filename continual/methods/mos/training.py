"""How MOS learns an experience."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from continual.adapters.bank import completed, serve, shared, stacked
from continual.adapters.base import Weights
from continual.data.inputs import ExperienceData, Label
from continual.learning.training import Progress, Start
from continual.losses.feature_contrast import FeatureContrast
from continual.merging.base import effective_alpha, merge_, merged
from continual.methods.bases.adapter_training import AdapterTraining, beginning
from continual.methods.bases.alignment import ClassFits, aligned_fields
from continual.methods.bases.regression_update import RegressionState, RegressionUpdate
from continual.methods.mos.feature_shift import Shifts
from continual.methods.mos.settings import MOSSettings
from continual.methods.mos.state import MOSState
from continual.statistics.head import PrototypeSums


class MOSTraining(AdapterTraining[MOSState]):
    """Merging after every step, and the feature contrast, on top of adapter training."""

    settings: MOSSettings

    def __init__(
        self,
        start: Start[MOSState],
        data: ExperienceData,
        regression: Callable[[Weights], RegressionUpdate] | None = None,
    ) -> None:
        before, settings = start.state, start.settings
        contrast = FeatureContrast(weight=settings.feature_contrast, temperature=settings.contrast_temperature)
        newest = completed(before.bank)[-1] if before.bank else None
        fixed = settings.adapter_kind.reading if before.bank else ()
        super().__init__(start, data, newest, before.head, contrast, fixed=fixed)
        self.anchor: Weights | None = None
        self.regression = regression  #: of stage one, where it is one, for a first adapter
        if before.bank:
            begin = beginning(settings, start.extractor.backbone, before.bank[0])
            only = self.adapter.weights().keys()
            self.anchor = merged(settings.anchor, before.bank, begin, only=only, **settings.anchor_args)
        merges = 1 if settings.merge == "step" else start.extractor.backbone.depth + 1
        self.alpha = effective_alpha(settings.alpha, merges)
        self.epochs = self.epochs if self.new_classes else 0

    def after_step(self) -> None:
        """Merge the working adapter towards the finished ones (MOS, equation 6)."""
        super().after_step()
        if self.anchor is not None and self.alpha > 0:
            merge_(self.adapter.weights(), self.anchor, self.alpha)
            self.unread()

    def finish(self, progress: Progress | None = None) -> MOSState:
        """Keep the adapter, remember the classes, align the head (MOS section 3.2)."""
        before = self.before
        bank = (*before.bank, self.adapter.frozen()) if self.new_classes else before.bank
        fits, prototypes = ClassFits(self.settings), PrototypeSums(before.prototypes, len(self.classes))
        shifts = Shifts(before.shifts, before.shift_sums, before.experiences)

        def fold(found: list[Tensor], targets: Tensor) -> list[Tensor]:
            (own, first), new = found, targets >= len(before.classes)
            fits.add(own, targets)
            prototypes.add(first, targets)
            shifts.add(first[new], own[new])
            return [own]

        held = self.streamed(self._reading(bank), fold, progress, by_class=True)
        known = {**aligned_fields(self, fits, held), **shifts.fields(), "prototypes": prototypes.prototypes()}
        return MOSState(**self.progress_counts(), **known, bank=bank, regression=self._regressed(bank[0], progress))

    def _regressed(self, first: Weights, progress: Progress | None) -> RegressionState | None:
        if self.regression is None:
            return None
        update = self.regression(first)
        update.workers, update.correcting = self.workers, self.correcting
        return update.finish(progress)

    def _reading(self, bank: Sequence[Weights]) -> Callable[[Tensor, Sequence[Label]], Sequence[Tensor]]:
        """Return what reads images' features under their own class's adapter, and under A_1."""
        kind, extractor = self.settings.adapter_kind, self.extractor
        experience = torch.tensor(self.class_experience(), device=self.device)
        under_first, every = shared(kind, bank[0]), stacked(bank)

        def compute(images: Tensor, labels: Sequence[Label]) -> Sequence[Tensor]:
            stem = extractor.stem(images, reads=kind.reads)
            first, chosen = extractor.features(stem, under_first), experience[[self.index[label] for label in labels]]
            return (serve(kind, extractor.features, stem, every, chosen) if chosen.any() else first), first

        return compute
