"""What MOS has learned."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from continual.adapters.bank import stacked
from continual.adapters.base import Weights
from continual.data.inputs import Label
from continual.merging.base import merged_before
from continual.methods.bases.alignment import AlignedState
from continual.methods.bases.regression_update import RegressionState
from continual.methods.mos.early_exit import EarlyExit
from continual.methods.mos.feature_shift import ShiftStatistics
from continual.statistics.class_statistics import ClassStatistics
from continual.statistics.head import Prototypes


@dataclass(frozen=True)
class MOSState(AlignedState):
    """Finished adapters, head, class statistics (each under its class's own adapter), prototypes (under A_1).

    An adapter stays when the classes of its experience are forgotten: later ones were merged towards it.
    """

    bank: tuple[Weights, ...] = ()
    prototypes: Prototypes | None = None  #: (C, D)
    shifts: tuple[ClassStatistics, ...] = ()  #: of each adapter, phi(x; A_k) - phi(x; A_1); none in older files
    shift_sums: ShiftStatistics | None = None  #: what else is remembered of them; None in older files
    #: what stage one has learned where it is a ridge regression, its names of the classes included; None else
    regression: RegressionState | None = None

    def renamed(self, old: Label, new: Label) -> Self:
        own = self.regression and self.regression.renamed(old, new)
        return replace(super().renamed(old, new), regression=own)

    @cached_property
    def experience_of_class(self) -> Tensor:
        """`class_experience` as a tensor, (C,) int64, on the device of the prototypes."""
        device = self.prototypes.mean.device if self.prototypes is not None else "cpu"
        return torch.tensor(self.class_experience, dtype=torch.int64, device=device)

    def stacked_bank(self, consolidate: str | None = None) -> Weights:
        """Return all finished adapters along a leading axis; with a merge rule, every one from the second on is
        replaced by a merge of those before it.
        """
        if consolidate not in self._banks:
            self._banks[consolidate] = stacked(merged_before(consolidate, self.bank) if consolidate else self.bank)
        return self._banks[consolidate]

    @cached_property
    def _banks(self) -> dict[str | None, Weights]:
        return {}

    @cached_property
    def early_exits(self) -> dict[Any, tuple[EarlyExit, float]]:
        """What early exits of this state need, by settings; filled when it is first asked for."""
        return {}
