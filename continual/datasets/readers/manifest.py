"""A CSV file that lists images."""

from __future__ import annotations

from pathlib import Path

from continual.datasets.collection import Collection
from continual.datasets.manifest import read_manifest
from continual.datasets.readers.base import DataTable, Reader, collected


class Manifest(Reader):
    """A path that ends in .csv; see `continual.datasets.manifest`."""

    name = "manifest"
    by_path = True
    keys = frozenset({"domains"})  # allowed, and not needed: a column names them

    def takes(self, source: str) -> bool:
        return super().takes(source) and Path(source).suffix == ".csv"

    def read(self, config: DataTable, *, download: bool = False) -> Collection:
        path = Path(config.source)
        entries = read_manifest(path)
        return collected(config, entries, f"manifest {path}", "the manifest's" if entries[0].split else "drawn")
