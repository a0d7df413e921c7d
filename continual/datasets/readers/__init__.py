"""Where images may come from: a file here, or an entry point in the group `equimos.readers`, is found by name."""

from __future__ import annotations

from typing import Any

from continual.datasets.readers.base import Reader
from continual.registry import Registry, own_name


def _name_of(value: Any) -> str | None:
    return own_name(value) if isinstance(value, type) and issubclass(value, Reader) else None


READERS: Registry[type[Reader]] = Registry("data reader", __name__, _name_of)


def readers_for(source: str) -> list[Reader]:
    """Return the readers that may take a source, in the order in which they are asked."""
    every = (kind() for kind in READERS.all().values())
    return sorted((reader for reader in every if reader.takes(source)), key=lambda reader: reader.rank)
