"""Frozen timm networks: loaded, checked, and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from continual.backbones.recommended import Recommended


def backbones() -> dict[str, Recommended]:
    """Return backbones to begin with, by their tags; any other ViT or CNN of timm will do as well."""
    from continual.backbones.recommended import RECOMMENDED

    return {choice.tag: choice for choice in RECOMMENDED}
