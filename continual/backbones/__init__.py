"""Frozen timm networks: loaded, checked, read, and several of them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from continual.backbones.recommended import Recommended


def backbones() -> dict[str, Recommended]:
    """Return backbones to begin with, by their tags; any other ViT or CNN of timm will do as well."""
    from continual.backbones.recommended import RECOMMENDED

    return {choice.tag: choice for choice in RECOMMENDED}


def described(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what `Backbone.describe` says of each backbone: of one, or of several side by side."""
    return [dict(part) for part in description.get("parts", [description])]
