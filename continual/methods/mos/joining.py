"""Several models of MOS as one: all their adapters, and what is remembered under each.

Stage one of retrieval asks prototypes under the first adapter, so those of other models are mapped to its features. A
class that several models know stays under the adapter of the one that comes first; what the others remember of it is
mapped there. What models have in common that began from one file, to the bit, is there once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from continual.adapters.base import AdapterKind
from continual.learning.joining import Meeting
from continual.learning.state import JointClasses, learned
from continual.methods.bases.alignment import AlignmentSettings
from continual.methods.bases.joint_bank import JointBank
from continual.methods.bases.moved_alignment import joined_fields
from continual.methods.mos.feature_shift import ShiftStatistics
from continual.methods.mos.state import MOSState
from continual.statistics.class_statistics import ClassStatistics, fit
from continual.statistics.head import Prototypes, joined_prototypes


def joined(
    kind: AdapterKind, settings: AlignmentSettings, states: Sequence[MOSState], joint: JointClasses, meeting: Meeting
) -> MOSState:
    """Return what models of these states know together; see `IncrementalLearner.joined_apart`."""
    bank = JointBank.of([state.bank for state in states], joint, meeting, kind.reading)
    of_class = [bank.numbers[origin] for origin in joint.origins]
    statistics, prototypes = bank.statistics(states, joint), []
    for model, (state, kept) in enumerate(zip(states, statistics, strict=True)):
        known, first = learned(state.prototypes), bank.map((model, 0), 0)
        again = torch.tensor([own is None for own in kept], device=known.count.device)
        count = known.count.masked_fill(again, 0)
        prototypes.append(Prototypes(known.mean if first is None else first.points(known.mean), count))
    common = {**joint.common(states), "class_experience": tuple(of_class), "experiences": len(bank.bank)}
    return replace(
        states[0],
        **common,
        **joined_fields(settings, states, joint, statistics, common["updates"]),
        bank=bank.bank,
        prototypes=joined_prototypes(prototypes, joint.places),
        **_shifts(states, bank),
    )


def _shifts(states: Sequence[MOSState], bank: JointBank) -> dict[str, Any]:
    """Return what is remembered of the adapters' shifts from the first one; nothing where a model remembers none.

    What was found against the same first adapter stays. Of other models the mean shift of an adapter's own images is
    known, as their mean feature is mapped (after a port it is not: then that of the meeting's images is taken); how
    shifts vary around it is that of the meeting's images. Their part that is linear in features is forgotten where a
    model's sums are, or hold more than the adapters that are kept, or what another's do.
    """
    if any(len(state.shifts) < state.experiences for state in states):
        return {"shifts": (), "shift_sums": None}
    shifts: list[ClassStatistics] = []
    origins: list[Tensor] = []
    parts: list[ShiftStatistics] = []
    for number, (model, k) in enumerate(bank.places):
        sums, own, to_first = states[model].shift_sums, states[model].shifts[k], bank.map((model, 0), 0)
        if to_first is not None:
            first, under = (bank.meeting.features(place) for place in (bank.places[0], bank.places[number]))
            parts.append(ShiftStatistics.of(first, under))
            around = fit(under - first, "low_rank")
            moved = None if sums is None else sums.origins[k] + own.mean - to_first.points(sums.origins[k])
            own = around if moved is None else around.moved(moved - around.mean)
        shifts.append(own)
        if sums is not None:
            origins.append(sums.origins[k] if to_first is None else to_first.points(sums.origins[k]))
    for model, state in enumerate(states):
        if bank.map((model, 0), 0) is None and state.shift_sums is not None:
            kept = sum(place[0] == model for place in bank.places) + (model > 0)
            parts += [state.shift_sums] if kept == state.experiences else []
            origins = origins if kept == state.experiences else []
    if len(origins) < len(shifts):
        return {"shifts": tuple(shifts), "shift_sums": None}
    total = reduce(ShiftStatistics.plus, parts)
    return {"shifts": tuple(shifts), "shift_sums": replace(total, origins=torch.stack(origins))}
