"""Manifests: CSV files that list images (path, label and, where there are any, split and domain)."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from continual.data.folders import PARTS, ignored_path, part_of
from continual.datasets.collection import Collection, Entry
from continual.datasets.listed_files import GONE, read_regular, refused
from continual.datasets.readers.base import DataTable, Reader, collected, many_problems
from continual.errors import InputError, nearest
from continual.files import csv_text

COLUMNS = ("path", "label", "split", "domain")
SPLITS = tuple(name for names in PARTS.values() for name in names)


class Manifest(Reader):
    """A path that ends in .csv, in any case."""

    name = "manifest"
    by_path = True
    keys = frozenset({"domains"})  # allowed, and not needed: a column names them

    def takes(self, source: str) -> bool:
        return super().takes(source) and Path(source).suffix.lower() == ".csv"

    def read(self, config: DataTable, *, download: bool = False) -> Collection:
        path = Path(config.source)
        entries, remarks = read_manifest(path, outside=config.outside)
        split = "the manifest's" if entries[0].split else "drawn"
        return collected(config, entries, f"manifest {path}", split, remarks)


def read_manifest(path: Path, *, outside: bool = False) -> tuple[list[Entry], list[str]]:
    """Read a manifest, and say what is left out; other columns are ignored, relative paths are looked up beside it.

    Images that are `ignored` in folders are left out here, too. Images lie below the manifest's folder, unless
    `outside` allows others. Raises one InputError that names, with line numbers, the first ten problems: a missing or
    empty column, an unknown split, an image that is not there, not to be read, or listed twice.
    """
    rows = _rows(path)
    header, problems = _header(path, rows), []
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for number, cells in rows[1:]:
        if len(cells) != len(header):
            problems.append(f"line {number}: {len(cells)} columns instead of {len(header)}")
            continue
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if name in COLUMNS}
        entry, wrong = _entry(path.parent, row, outside)
        place = os.path.normpath(entry.image)
        if not wrong and place in seen:
            wrong = [f"{entry.name} is listed twice, first on line {seen[place]}"]
        seen.setdefault(place, number)
        problems += [f"line {number}: {problem}" for problem in wrong]
        entries.append(entry)
    if not entries and not problems:
        problems = ["it lists no images"]
    litter = [entry for entry in entries if ignored_path(Path(entry.name))]
    if entries and len(litter) == len(entries):
        problems.append(f"it lists nothing but hidden files and what systems leave behind, such as {litter[0].name}")
    if problems:
        raise many_problems(f"{path} has {len(problems)} problem{'s' * (len(problems) > 1)}", problems)
    said = [f"{len(litter)} images in hidden folders or those of a system, such as {e.name}, are left out"
            for e in litter[:1]]  # fmt: skip
    return [entry for entry in entries if entry not in litter], said


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of every line that is not blank."""
    try:
        data = read_regular(path)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no manifest at {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text; save the manifest as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _header(path: Path, rows: list[tuple[int, list[str]]]) -> list[str]:
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    if missing := next((name for name in ("path", "label") if name not in header), None):
        hint = nearest(missing, header) if any(header) else "it is empty"
        raise InputError(f"{path}, line 1: no column {missing!r} (a manifest has path,label[,split][,domain]): {hint}")
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise InputError(f"{path}, line 1: column {twice[0]!r} is there twice")
    return header


def _entry(folder: Path, row: dict[str, str], outside: bool) -> tuple[Entry, list[str]]:
    """Return the entry of a row and what is wrong with it."""
    split, domain = row.get("split"), row.get("domain")
    part = part_of(split or "")
    wrong = [f"no {name}" for name, value in row.items() if not value]
    if split and part is None:
        wrong.append(f"split {split!r}: {nearest(split, SPLITS)}")
    image = folder / row["path"]
    if row["path"] and (problem := refused(image, None if outside else folder)):
        wrong.append(f"no image at {row['path']!r}" if problem == GONE else f"{row['path']!r} {problem}")
    return Entry(image, row["path"], row["label"], part, domain), wrong


def manifest_text(found: Collection, folder: Path) -> str:
    """Write a collection of files as a manifest whose relative paths begin at `folder`."""
    named = found.train.domains is not None
    lines: list[list[object]] = [[*COLUMNS] if named else [*COLUMNS[:3]]]
    for split, part in (("train", found.train), ("test", found.test)):
        for i, (path, label) in enumerate(zip(part.images, part.labels, strict=True)):
            short = path.relative_to(folder) if path.is_relative_to(folder) else path
            lines.append([short.as_posix(), label, split, *([part.domains[i]] if named and part.domains else [])])
    return csv_text(lines, exact=True)
