"""What MOS has learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from continual.adapters.bottleneck import StackWeights, stacked
from continual.learning import model_file
from continual.learning.state import State, replace_state, without_row
from continual.merging.mean import consolidate_mean
from continual.methods.bases.alignment import AlignedState, unpack_aligned
from continual.methods.mos.early_exit import Foretelling
from continual.methods.mos.feature_shift import ShiftSums
from continual.statistics.class_statistics import ClassStatistics, restore


@dataclass(frozen=True)
class MOSState(AlignedState):
    """Finished stacks, head, class statistics (each under its class's own stack), prototypes (under A_1).

    A stack stays when the classes of its experience are forgotten: later ones were merged towards it.
    """

    bank: tuple[StackWeights, ...] = ()
    prototypes: Tensor | None = None  #: (C, D)
    prototype_counts: Tensor | None = None  #: (C,) int64
    shifts: tuple[ClassStatistics, ...] = ()  #: of each stack, phi(x; A_k) - phi(x; A_1); none in older files
    shift_sums: ShiftSums | None = None  #: what else is remembered of them; None in older files

    def own_without(self, index: int) -> dict[str, Any]:
        """Leave out head row, statistics and prototype."""
        assert self.prototypes is not None
        assert self.prototype_counts is not None
        return super().own_without(index) | {
            "prototypes": without_row(self.prototypes, index),
            "prototype_counts": without_row(self.prototype_counts, index),
        }

    @cached_property
    def experience_of_class(self) -> Tensor:
        """`class_experience` as a tensor, (C,) int64, on the device of the prototypes."""
        device = self.prototypes.device if self.prototypes is not None else "cpu"
        return torch.tensor(self.class_experience, dtype=torch.int64, device=device)

    @cached_property
    def stacked_bank(self) -> dict[str, Tensor]:
        """All finished stacks along a leading axis."""
        return stacked(self.bank)

    @cached_property
    def consolidated_bank(self) -> dict[str, Tensor]:
        """`stacked_bank` with every stack k >= 2 replaced by the mean of those before it."""
        return stacked(consolidate_mean(self.bank))

    @cached_property
    def foretellings(self) -> dict[Any, tuple[Foretelling, float]]:
        """What early exits of this state need, by settings; filled when it is first asked for."""
        return {}

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything but the common fields as tensors and JSON values, for `unpack`."""
        tensors, values = self.pack_aligned()
        if self.prototypes is not None and self.prototype_counts is not None:
            tensors |= {"prototypes/mean": self.prototypes, "prototypes/count": self.prototype_counts}
        for k, stack in enumerate(self.bank):
            tensors |= model_file.join(f"bank/{k}", stack)
        for k, shift in enumerate(self.shifts):
            tensors |= model_file.join(f"shifts/{k}", shift.tensors())
        tensors |= model_file.join("shift_sums", vars(self.shift_sums) if self.shift_sums else {})
        return tensors, {**values, "shifts": [[shift.kind, shift.count] for shift in self.shifts]}

    @staticmethod
    def unpack(common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> MOSState:
        """Rebuild the state from the common fields and what `pack` gave."""
        if not common.classes:
            return replace_state(common, MOSState)
        sums = model_file.part(tensors, "shift_sums")
        return replace_state(
            common,
            MOSState,
            bank=tuple(model_file.part(tensors, f"bank/{k}") for k in range(common.experiences)),
            **unpack_aligned(tensors, values),
            prototypes=tensors["prototypes/mean"],
            prototype_counts=tensors["prototypes/count"],
            shifts=tuple(
                restore(kind, count, model_file.part(tensors, f"shifts/{k}"))
                for k, (kind, count) in enumerate(values.get("shifts", []))
            ),
            shift_sums=ShiftSums(**sums) if sums else None,
        )
