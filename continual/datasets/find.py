"""From a config's `[data]` table to a collection of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from continual.data.images import IMAGE_SUFFIXES
from continual.datasets import layouts
from continual.datasets.catalogue import Layout, Published, catalogue, default_root, published
from continual.datasets.collection import Collection, Entry, check_classes, collect
from continual.datasets.config import HUB, DataConfig
from continual.datasets.manifest import read_manifest
from continual.errors import InputError

Reader = Callable[[Path, bool], list[Entry] | None]

#: A manifest of this name in a data set's folder is its split; `equimos data prepare` writes it.
RECORD = "equimos.csv"


def find(config: DataConfig, *, download: bool = False) -> Collection:
    """Return the images that a config names, with their split; no image is opened.

    Only with `download` may a data set of the hub be fetched. Raises InputError for data that are not there,
    or not in a form that is known.
    """
    if config.source == "folder":
        assert config.train is not None
        assert config.test is not None
        entries = [
            entry
            for folder, split in ((config.train, "train"), (config.test, "test"))
            for entry in layouts.below(folder, folder.parent, split, domains=config.domains)
        ]
        return _collected(config, entries, f"{config.train} and {config.test}", "the two folders")
    if config.source.startswith(HUB):
        from continual.datasets.hub import read_hub

        return _collected(config, read_hub(config.source, config, download=download), config.source, "the hub's")
    if config.source in catalogue():
        return _find_published(config, published(config.source))
    return _find_path(config, Path(config.source))


def root_of(config: DataConfig) -> Path:
    """Return where a published data set is looked for."""
    return (config.root or default_root(config.source)).absolute()


def _collected(
    config: DataConfig,
    entries: list[Entry],
    origin: str,
    split: str,
    layout: Layout | None = None,
    folder: Path | None = None,
    remarks: tuple[str, ...] = (),
) -> Collection:
    share, seed = config.test_share, config.split_seed
    return collect(
        config.source,
        entries,
        origin,
        split,
        test_share=share,
        seed=seed,
        published=layout,
        folder=folder,
        remarks=remarks,
    )


def _recorded(
    config: DataConfig, folder: Path, readers: Sequence[Reader], about: Published | None = None
) -> Collection:
    """Read the split recorded in a folder; images that came later are no part of it, which is a remark."""
    record = folder / RECORD
    entries = read_manifest(record)
    listed = {os.path.realpath(entry.image) for entry in entries}
    later = [e for e in _there(folder, readers, config.domains) if os.path.realpath(e.image) not in listed]
    remarks: tuple[str, ...] = ()
    if later:
        remarks = (
            f"{len(later)} images in {folder}, such as {later[0].name}, are not in {RECORD} and are left out: remove "
            "that file to take them in",
        )
    layout = None if about is None else _counts(about, entries)
    return _collected(config, entries, str(folder), f"recorded in {RECORD}", layout, folder, remarks)


def _there(folder: Path, readers: Sequence[Reader], domains: bool) -> list[Entry]:
    """Return what a folder would hold without its record; nothing if it could not be read."""
    for read in readers:
        with suppress(InputError):
            if found := read(folder, domains):
                return found
    return []


def _find_path(config: DataConfig, path: Path) -> Collection:
    """Read a manifest, parquet, or a folder: one with a record, of parquet, of train/ and test/, or of classes."""
    drawn = "drawn"
    if path.suffix == ".csv":
        entries = read_manifest(path)
        return _collected(config, entries, f"manifest {path}", "the manifest's" if entries[0].split else drawn)
    if path.suffix == ".parquet" or (path.is_dir() and any(path.rglob("*.parquet"))):
        from continual.datasets.hub import read_parquet

        if not path.exists():
            raise InputError(f"no parquet file at {path}")
        entries = read_parquet(path, config)
        return _collected(config, entries, f"parquet {path}", "the files'" if entries and entries[0].split else drawn)
    if not path.is_dir():
        raise InputError(f"no data at {path}: give a folder with one sub-folder of images a class, or a CSV manifest")
    if (path / RECORD).is_file():
        return _recorded(config, path, (layouts.folders, layouts.flat))
    if entries := layouts.folders(path, config.domains) or []:
        return _collected(config, entries, f"train/ and test/ in {path}", "the folders'", folder=path)
    entries = layouts.flat(path, config.domains) or []
    return _collected(config, entries, f"class folders in {path}", drawn, folder=path)


def _find_published(config: DataConfig, about: Published) -> Collection:
    """Read the first layout that is there, or tell how to get the data."""
    root = root_of(config)
    for layout in about.layouts:
        for place in (root, *[root / inside for inside in layout.inside]):
            if layout.kind in ("cifar10", "cifar100"):
                if parts := layouts.cifar(place, layout.kind):
                    found = Collection(config.source, *parts, f"python batches in {place}", layout.split, layout)
                    check_classes(found)
                    return found
                continue
            if (place / RECORD).is_file():
                readers = [layouts.READERS[x.kind] for x in about.layouts if x.kind in layouts.READERS]
                return _recorded(config, place, readers, about)
            if layout.kind == "flat" and not _looks_flat(place):
                continue
            if found_entries := layouts.READERS[layout.kind](place, False):
                origin = f"{layout.kind} layout in {place}"
                return _collected(config, found_entries, origin, layout.split, layout, place)
    raise InputError(not_found(config.source, root))


def _looks_flat(place: Path) -> bool:
    """Tell whether a folder has images two levels down: class folders, not folders of data sets."""
    kinds = [kind for kind in place.iterdir() if kind.is_dir()] if place.is_dir() else []
    return any(file.suffix.lower() in IMAGE_SUFFIXES for kind in kinds for file in kind.iterdir())


def _counts(about: Published, entries: list[Entry]) -> Layout:
    """Return the layout whose counts a recorded split has, or the first."""
    train = sum(entry.split == "train" for entry in entries)
    return next((layout for layout in about.layouts if layout.train == train), about.layouts[0])


def not_found(name: str, root: Path) -> str:
    """Say where to get a data set and how to name its place."""
    about = published(name)
    fetch = ""
    if about.archive is not None:
        fetch = f", or fetch {about.archive.megabytes} MB with: equimos data prepare {name} --download"
    return f"{name} is not in {root}: get it from {about.get}; name its folder (--root DIR, or data.root=DIR){fetch}"
