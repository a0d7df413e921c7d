"""The published data sets of `catalogue.toml`, in whichever of their layouts they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import platformdirs

from continual.datasets.catalogue import catalogue, published
from continual.datasets.collection import Collection, check_classes, count_problems
from continual.datasets.readers import READERS
from continual.datasets.readers.base import DataTable, Reader, collected
from continual.datasets.readers.record import RECORD, recorded
from continual.errors import InputError


class PublishedSets(Reader):
    """`source` is a name of the catalogue; `root`, or $EQUIMOS_DATA/NAME, is where it lies."""

    name = "published"
    keys = frozenset({"root"})

    def sources(self) -> Iterable[str]:
        return catalogue()

    def read(self, config: DataTable, *, download: bool = False) -> Collection:
        name, about, root = config.source, published(config.source), root_of(config)
        layouts: dict[str, Any] = {row.kind: READERS.get(row.kind)() for row in about.layouts}
        for row in about.layouts:
            layout = layouts[row.kind]
            for place in (root, *[root / inside for inside in row.inside]):
                if layout.lists_files and (place / RECORD).is_file():
                    return recorded(config, place, (x for x in layouts.values() if x.lists_files), about)
                found = layout.look(place) if layout.may_be(place) else None
                if isinstance(found, tuple):
                    train, test = found
                    made = Collection(name, train, test, f"python batches in {place}", row.split, row)
                    check_classes(made)
                    return made
                if found:
                    origin = f"{row.kind} layout in {place}"
                    return collected(config, found, origin, row.split, published=row, folder=place)
        said = f"{name} is not in {root}: get it from {about.get}; name its folder (--root DIR, or data.root=DIR)"
        if about.archive is not None:
            said += f", or fetch {about.archive.megabytes} MB with: equimos data prepare {name} --download"
        raise InputError(said)

    def check(self, found: Collection, config: DataTable) -> None:
        about = published(config.source)
        problems = count_problems(found)
        if problems and (config.exact or len(found.classes) != about.classes):
            raise InputError(
                f"{found.origin} is not {about.title} as published: {'; '.join(problems)}. Complete it, or set "
                "data.exact=false and do not compare with published figures"
            )


def root_of(config: DataTable) -> Path:
    """Return where a published data set is looked for: `root`, $EQUIMOS_DATA/NAME, or below the user's data folder."""
    home = os.environ.get("EQUIMOS_DATA") or platformdirs.user_data_path("equimos") / "data"
    return (config.root or Path(home) / config.source).absolute()
