"""How test images are answered that are transformed by random elements of a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from continual.metrics.base import Series, metric
from continual.metrics.cell import Cell, NotRecorded, derived


def transformed_measures(
    untransformed: ArrayLike, transformed: ArrayLike, truth: ArrayLike, order: int
) -> dict[str, float]:
    """Return shares of answers (N,) to images as they are and transformed by a random element but the identity.

    - `turned`: the accuracy if every element of the group, of that order, is as likely, the identity included.
    - `consistency`: images whose two answers agree.
    - `orbit_flips`: images answered right as they are and wrong when transformed: the orbit flip rate.

    >>> transformed_measures([0, 1, 0, 0], [1, 1, 1, 0], truth=[0, 1, 0, 1], order=4)
    {'turned': 0.375, 'consistency': 0.5, 'orbit_flips': 0.5}
    """
    before, after, y = np.asarray(untransformed), np.asarray(transformed), np.asarray(truth)
    right, still = before == y, after == y
    return {
        "turned": float((right.mean() + (order - 1) * still.mean()) / order),
        "consistency": float((before == after).mean()),
        "orbit_flips": float((right & ~still).mean()),
    }


@derived("turned")
def by_group(cell: Cell) -> list[dict[str, dict[str, float]]]:
    """Return `transformed_measures` after each experience, by group."""
    orders = {group: order for group, order in cell.groups.items() if order is not None}
    found = zip(cell.seen("answers"), cell.each("transformed"), strict=True)
    return [
        {g: transformed_measures(a, other[g][: len(a)], cell.truth[: len(a)], order) for g, order in orders.items()}
        for a, other in found
    ]


@metric(heading="transformed by {} [%]", higher_is_better=True, table="main", order=20, range=(0, 1), by_group=True)
def turned(cell: Cell, group: str) -> Series:
    """The accuracy on test images that are transformed by an element of the group, each of which is as likely."""
    return _measure(cell, group, "turned")


@metric(heading="same under {} [%]", higher_is_better=True, table="main", order=21, range=(0, 1), by_group=True)
def consistency(cell: Cell, group: str) -> Series:
    """The share of test images that are answered alike as they are and transformed by a random element."""
    return _measure(cell, group, "consistency")


@metric(heading="flips under {} [%]", higher_is_better=False, table="main", order=22, range=(0, 1), by_group=True)
def orbit_flips(cell: Cell, group: str) -> Series:
    """The share of test images that are answered right as they are and wrong when transformed."""
    return _measure(cell, group, "orbit_flips")


def _measure(cell: Cell, group: str, name: str) -> Series:
    if group not in cell.groups:
        raise NotRecorded(f"{cell.label!r} was not asked about images transformed by {group}")
    return [found[group][name] for found in by_group(cell)]
