"""Where images may come from: a file here, or an entry point in the group `equimos.readers`, is found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from continual.datasets.readers.base import DataTable, Reader
from continual.documents import Strict
from continual.registry import Registry, own_name


def _name_of(value: Any) -> str | None:
    return own_name(value) if isinstance(value, type) and issubclass(value, Reader) else None


READERS: Registry[type[Reader]] = Registry("data reader", __name__, _name_of)


def readers_for(source: str) -> list[Reader]:
    """Return the readers that may take a source, in the order in which they are asked."""
    every = (kind() for kind in READERS.all().values())
    return sorted((reader for reader in every if reader.takes(source)), key=lambda reader: reader.rank)


def names() -> set[str]:
    """Return every name that `data.source` may be."""
    return {name for kind in READERS.all().values() for name in kind().sources()}


def path_keys() -> tuple[str, ...]:
    """Return the keys of `[data]` that are files or folders, a reader's own among them."""
    tables: list[type[Strict]] = [DataTable, *(kind.options for kind in READERS.all().values())]
    return tuple(
        key
        for table in tables
        for key, field in table.model_fields.items()
        if Path in (field.annotation, *get_args(field.annotation))
    )
