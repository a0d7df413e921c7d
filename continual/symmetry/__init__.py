"""Answers that do not change when an image is rotated or mirrored, one file a kind.

An image's *views* are what a finite group makes of it. A learner with a `group` learns from single views, and answers
with the weighted mean of several views' features, chosen so that the same pictures are looked at whichever of them it
is given: f(g·x) = f(x). The views lie in an order that only their content decides, so that even the rounding is the
same. What differs between kinds is which views are looked at, and how they count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from continual.registry import Registry, own_name

if TYPE_CHECKING:
    from continual.symmetry.base import Symmetry


def _name_of(value: Any) -> str | None:
    from continual.symmetry.base import Symmetry

    return own_name(value) if isinstance(value, type) and issubclass(value, Symmetry) else None


#: what the setting `symmetry` may be
KINDS: Registry[type[Symmetry]] = Registry("symmetry", __name__, _name_of)
