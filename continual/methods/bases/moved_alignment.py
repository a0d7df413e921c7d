"""An aligned head and its class statistics on another backbone, or of several models in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from continual.learning.porting import Space
from continual.learning.state import JointClasses, learned
from continual.methods.bases.alignment import AlignedState, AlignmentSettings, Kept, Rescale, align, unchanged
from continual.methods.bases.compatibility import divergence
from continual.seeding import generator as seeded
from continual.statistics.class_statistics import ClassStatistics
from continual.statistics.head import Head
from continual.uncertainty.gaussians import calibrate


def ported_fields(
    settings: AlignmentSettings,
    state: AlignedState,
    spaces: Sequence[Space],
    of_class: Sequence[int],
    keep_answers: float,
    rescale: Rescale = unchanged,
) -> dict[str, Any]:
    """Return an `AlignedState`'s own fields on another backbone, by the space of each class (C,).

    The head is aligned again on the statistics as they are mapped, beginning at the old one. With `keep_answers`, it is
    held to the old one's answers on the mapping images, which have features in both.
    """
    statistics = tuple(spaces[k].map.statistics(own) for k, own in zip(of_class, state.statistics, strict=True))
    before, kept = learned(state.head), None
    used = sorted({*of_class})
    new, old = (torch.cat([getattr(spaces[k], name) for k in used]) for name in ("new", "old"))
    wanted = before(old)

    def hold(head: Head, *_: Tensor) -> Tensor:
        return keep_answers * divergence(wanted, head(new)).mean()

    if keep_answers:
        kept = hold
    return _anew("port", settings, before, statistics, state.updates, rescale, kept)


def joined_fields(
    settings: AlignmentSettings,
    states: Sequence[AlignedState],
    joint: JointClasses,
    statistics: Sequence[Sequence[ClassStatistics | None]],
    updates: int,
    rescale: Rescale = unchanged,
) -> dict[str, Any]:
    """Return an `AlignedState`'s own fields of several states, by each one's `statistics` in the features they share.

    None of them are left out. The head is aligned again; a class's row begins as in the state that brought it.
    """
    every: dict[int, ClassStatistics] = {}
    for own, places in zip(statistics, joint.places, strict=True):
        for found, index in zip(own, places.tolist(), strict=True):
            if found is not None:
                every[index] = every[index].merged(found) if index in every else found
    heads = [learned(state.head) for state in states]
    rows = [
        (number, states[number].classes.index(c)) for c, (number, _) in zip(joint.classes, joint.origins, strict=True)
    ]
    parts = {name: torch.stack([getattr(heads[m], name)[row] for m, row in rows]) for name in ("weight", "bias")}
    head = replace(heads[0], **parts)
    return _anew("merge", settings, head, [every[index] for index in range(len(rows))], updates, rescale)


def _anew(
    purpose: str,
    settings: AlignmentSettings,
    head: Head,
    statistics: Sequence[ClassStatistics],
    updates: int,
    rescale: Rescale = unchanged,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Return an `AlignedState`'s own fields with a head that is aligned whatever the settings: its features are new."""
    if not settings.alignment_epochs:
        default = type(settings).model_fields["alignment_epochs"].default
        settings = settings.model_copy(update={"alignment_epochs": default})
    draw = seeded(settings.seed, purpose, updates, device=head.weight.device)
    head = align(head, statistics, settings, generator=draw, rescale=rescale, kept=kept)
    calibration = calibrate(statistics, seeded(settings.seed, "calibration", updates))
    return {"head": head, "statistics": tuple(statistics), "calibration": calibration}
