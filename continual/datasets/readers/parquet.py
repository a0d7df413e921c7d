"""Image data sets in parquet files, read through `datasets` (extra `hub`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from continual.data.folders import ignored_path, irregular, part_of
from continual.data.images import EncodedImage
from continual.datasets.collection import Collection, Entry
from continual.datasets.listed_files import read_regular, refused
from continual.datasets.readers.base import DataTable, Reader, collected, many_problems
from continual.errors import InputError, nearest


class Parquet(Reader):
    """A path to a parquet file, or to a folder with any below it."""

    name = "parquet"
    by_path = True
    keys = frozenset({"domains"})  # allowed, and not needed: a column names them

    def read(self, config: DataTable, *, download: bool = False) -> Collection | None:
        path = Path(config.source)
        if path.suffix.lower() != ".parquet" and not (path.is_dir() and _files(path)):
            return None
        if not path.exists():
            raise InputError(f"no parquet file at {path}")
        files: dict[str | None, list[Path]] = _files_by_split(path) if path.is_dir() else {None: [path]}
        entries = _entries(path, files, config)
        split = "the files'" if entries and entries[0].split else "drawn"
        used = {file for part in files.values() for file in part}
        left = [file for file in _files(path) if file not in used] if path.is_dir() else []
        remarks = [f"{len(left)} parquet files of no part, such as {file.name}, are left out" for file in left[:1]]
        return collected(config, entries, f"parquet {path}", split, remarks)


def _entries(path: Path, by_split: dict[str | None, list[Path]], config: DataTable) -> list[Entry]:
    """Read the files of each part."""
    datasets = library()
    import pyarrow.parquet

    tables = {}
    for split, files in by_split.items():
        if odd := next((file for file in files if irregular(file)), None):
            raise InputError(f"{odd} is no regular file: give a parquet file")
        try:
            # Read where they lie: `datasets` itself would copy everything into a cache.
            parts = [datasets.Dataset(pyarrow.parquet.read_table(file, memory_map=True)) for file in files]
            tables[split] = datasets.concatenate_datasets(parts)
        except Exception as error:  # pyarrow has many of its own
            raise InputError(f"{path} is not readable parquet ({first_line(error)}): download it again") from error
    within = path if path.is_dir() else path.parent
    return [entry for split, table in tables.items() for entry in rows_of(table, split, str(path), config, (within,))]


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.parquet") if not ignored_path(file.relative_to(folder)))


def _files_by_split(folder: Path) -> dict[str | None, list[Path]]:
    """Return the files by the part that the first word of their names means, or the nearest folder's name."""
    found: dict[str | None, list[Path]] = {}
    for file in _files(folder):
        word = re.match("[A-Za-z]*", file.name)
        names = [word.group() if word else "", *reversed(file.relative_to(folder).parts[:-1])]
        found.setdefault(next(filter(None, map(part_of, names)), None), []).append(file)
    every = found.pop(None, [])
    if "train" in found and len(found) > 1:
        return found
    return {None: found.get("train") or [*every, *(file for files in found.values() for file in files)]}


def rows_of(table: Any, split: str | None, place: str, config: DataTable, within: Sequence[Path]) -> Iterator[Entry]:
    """Yield the rows; images stay encoded until they are asked for.

    Those that a row names by a path, in place of their bytes, lie below one of `within`, unless others are allowed.
    """
    datasets = library()
    features = table.features
    of_kind = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    images = of_kind or [name for name in ("image", "img") if name in features]
    image = config.image_column or next(iter(images), "image")
    for key, name in (("image", image), ("label", config.label_column), ("domain", config.domain_column)):
        if name is not None and name not in features:
            raise InputError(f"{place} has no column {name!r}: {nearest(name, features)} (data.{key}_column)")
    own = features[image]
    # A struct {bytes, path}, as images are stored without a note of it, or plain bytes.
    holds_bytes = (isinstance(own, dict) and "bytes" in own) or "binary" in str(getattr(own, "dtype", ""))
    if isinstance(own, datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))
    elif not holds_bytes:
        raise InputError(f"{place}: column {image!r} holds {own}, not images: set data.image_column")
    kind = features[config.label_column]
    names = kind.names if isinstance(kind, datasets.ClassLabel) else None
    labels = table[config.label_column][:]
    domains = table[config.domain_column][:] if config.domain_column else [None] * len(labels)
    rows = table.select_columns([image])
    problems = [f"row {i}: no {config.label_column}" for i, label in enumerate(labels) if label in (None, "", -1)]
    odd = [(i, label) for i, label in enumerate(labels) if isinstance(label, list | dict)]
    if problems := [*problems, *(f"row {i}: label {label} is not a name or a number" for i, label in odd)]:
        raise many_problems(f"{place} has {len(problems)} problems", problems)
    for i, (label, domain) in enumerate(zip(labels, domains, strict=True)):
        name, known = f"{split or 'all'}/{i}", names[label] if names else str(label)
        encoded = EncodedImage(f"{place}, {name}", partial(_read, rows, image, i, within, config.outside))
        yield Entry(encoded, name, known, split, None if domain is None else str(domain))


def _read(rows: Any, column: str, index: int, within: Sequence[Path], outside: bool) -> bytes:
    value = rows[index][column]
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else _named(value.get("path"), within, outside)
    if not isinstance(value, bytes):
        raise ValueError("no image")
    return value


def _named(name: Any, within: Sequence[Path], outside: bool) -> bytes:
    """Read a file that a row names, relative to one of the folders; raises ValueError if it is not to be read."""
    problem: str | None = "no image"
    for root in within if name and isinstance(name, str) else ():
        problem = refused(root / name, None if outside else root)
        if problem is None:
            return read_regular(root / name)
        problem = f"{name} {problem}"
    raise ValueError(problem)


def library() -> Any:
    """Return the module `datasets`; raises InputError without the extra."""
    try:
        import datasets
    except ImportError:
        raise InputError("parquet and hub data sets need the extra: pip install 'equimos[hub]'") from None
    return datasets


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).strip().partition("\n")[0]
