"""The published data sets by name: a table, read from `catalogue.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from continual.errors import InputError, nearest


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Archive(_Row):
    """A file that `equimos data prepare NAME --download` may fetch."""

    url: str
    megabytes: int
    md5: str | None = None


class Layout(_Row):
    """One form in which people have a data set, and how many images it holds."""

    kind: str  #: the layout's reader, see continual/datasets/readers
    train: int
    test: int
    split: str  #: where the split is from
    inside: tuple[str, ...] = ()  #: folders below the root in which it may lie as well


class Published(_Row):
    """What is published about a data set."""

    title: str
    classes: int
    paper: str
    licence: str
    get: str  #: where people get it
    streams: tuple[str, ...]  #: class-incremental protocols in print: B = classes first, Inc = classes after
    layouts: tuple[Layout, ...]
    archive: Archive | None = None


@cache
def catalogue() -> dict[str, Published]:
    """Return every published data set by its name."""
    table = tomllib.loads((files(__package__) / "catalogue.toml").read_text(encoding="utf-8"))
    return {name: Published(**row) for name, row in table.items()}


def published(name: str) -> Published:
    """Return a published data set; raises InputError with the nearest names."""
    if name not in catalogue():
        raise InputError(f"unknown data set {name!r}: {nearest(name, catalogue())}")
    return catalogue()[name]
