"""The split of a folder as `equimos data prepare` recorded it, in a manifest that lies there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from continual.datasets.catalogue import Published
from continual.datasets.collection import Collection, Entry
from continual.datasets.readers import readers_for
from continual.datasets.readers.base import DataTable, Layout, Reader, collected
from continual.datasets.readers.manifest import read_manifest
from continual.errors import InputError

#: A manifest of this name in a data set's folder is its split.
RECORD = "equimos.csv"


class Record(Reader):
    """A path to a folder that holds a record."""

    name = "record"
    keys = frozenset({"domains"})
    by_path, rank = True, 1

    def read(self, config: DataTable, *, download: bool = False) -> Collection | None:
        folder = Path(config.source)
        if not (folder / RECORD).is_file():
            return None
        return recorded(config, folder, (r for r in readers_for(config.source) if isinstance(r, Layout)))


def recorded(config: DataTable, folder: Path, layouts: Iterable[Layout], about: Published | None = None) -> Collection:
    """Read the split recorded in a folder; images that came later are no part of it, which is a remark."""
    entries, remarks = read_manifest(folder / RECORD, outside=config.outside)
    listed = {os.path.realpath(entry.image) for entry in entries}
    later = [e for e in _there(folder, layouts, config) if os.path.realpath(e.image) not in listed]
    remarks += [
        f"{len(later)} images in {folder}, such as {entry.name}, are not in {RECORD} and are left out: remove "
        "that file to take them in"
        for entry in later[:1]
    ]
    train, forms = sum(entry.split == "train" for entry in entries), about.layouts if about else ()
    # The layout whose counts it has, or the first.
    counts = next((form for form in forms if form.train == train), forms[0] if forms else None)
    origin = f"recorded in {RECORD}"
    return collected(config, entries, str(folder), origin, remarks, published=counts, folder=folder)


def _there(folder: Path, layouts: Iterable[Layout], config: DataTable) -> list[Entry]:
    """Return what a folder would hold without its record; nothing if it could not be read."""
    for layout in layouts:
        with suppress(InputError):
            found = layout.look(folder, config.domains, config.channels)
            if found and isinstance(found, list):
                return found
    return []
