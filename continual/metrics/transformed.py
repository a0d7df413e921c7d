"""How test images are answered that are transformed: the same pictures, moved by random elements of a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from continual.metrics.base import Series, metric
from continual.metrics.cell import Cell, NotRecorded, derived


def transformed_measures(
    untransformed: ArrayLike, transformed: ArrayLike, truth: ArrayLike, order: int
) -> dict[str, float]:
    """Return shares of answers (N,) to images as they are and moved by a random element that is not the identity.

    - `turned`: the accuracy if every element of the group, of that order, is as likely, the identity included.
    - `consistency`: images whose two answers agree.
    - `orbit_flips`: images answered right as they are and wrong when transformed: the orbit flip rate.

    >>> transformed_measures([0, 1, 0, 0], [1, 1, 1, 0], truth=[0, 1, 0, 1], order=4)
    {'turned': 0.375, 'consistency': 0.5, 'orbit_flips': 0.5}
    """
    as_they_are, moved, y = np.asarray(untransformed), np.asarray(transformed), np.asarray(truth)
    right, right_when_moved = as_they_are == y, moved == y
    return {
        "turned": float((right.mean() + (order - 1) * right_when_moved.mean()) / order),
        "consistency": float((as_they_are == moved).mean()),
        "orbit_flips": float((right & ~right_when_moved).mean()),
    }


@derived("turned")
def by_group(cell: Cell) -> list[dict[str, dict[str, float]]]:
    """Return `transformed_measures` after each experience, by group."""
    found = []
    for number, answers in enumerate(cell.arrays("answers")):
        n, transformed = cell.images(number), cell.evaluations[number].transformed
        found.append(
            {
                group: transformed_measures(answers[:n], transformed[group][:n], cell.truth[:n], order)
                for group, order in cell.groups.items()
                if order is not None
            }
        )
    return found


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
