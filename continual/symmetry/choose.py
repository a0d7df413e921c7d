"""The symmetry that settings ask for."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from continual.symmetry import KINDS
from continual.symmetry.base import Symmetry
from continual.symmetry.views import group_named


def symmetry_of(settings: Any, fitted: Mapping[str, Tensor]) -> Symmetry | None:
    """Return the symmetry of learner settings, None without a group; raises InputError for an unknown one of either."""
    if settings.group is None:
        return None
    return KINDS.get(settings.symmetry)(group_named(settings.group), settings.views, fitted)
