"""What readers of folders share: class folders, lists of images, and errors that name many files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from continual.data.images import image_files, subfolders
from continual.datasets.collection import Entry
from continual.errors import InputError

SHOWN = 10  #: how many problems an error names


def many_problems(what: str, problems: list[str]) -> InputError:
    """Return one error that names the first ten problems, each on a line of its own."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return InputError(f"{what}:\n" + "\n".join([*problems[:SHOWN], *more]))


def below(folder: Path, root: Path, split: str | None, *, domains: bool = False) -> Iterator[Entry]:
    """Yield the images of every class folder, in the order of names.

    Raises InputError for a folder without class folders, and one that names the empty ones.
    """
    places: list[tuple[str | None, Path]] = [(d.name, d) for d in subfolders(folder)] if domains else [(None, folder)]
    kinds = [(domain, kind) for domain, place in places for kind in subfolders(place)]
    if not kinds:
        wanted = "domain folders with class folders in them" if domains else "one sub-folder of images per class"
        raise InputError(f"{folder} holds no images: it needs {wanted}")
    found = [(domain, kind, image_files(kind)) for domain, kind in kinds]
    if empty := [kind for _, kind, paths in found if not paths]:
        raise many_problems(f"{len(empty)} class folders hold no images: fill or remove them", [*map(str, empty)])
    for domain, kind, paths in found:
        yield from (Entry(path, path.relative_to(root).as_posix(), kind.name, split, domain) for path in paths)


def table(path: Path, columns: int) -> dict[str, list[str]]:
    """Read lines of so many words, by their first word; raises InputError that names every line that is not one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    rows: dict[str, list[str]] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != columns:
            problems.append(f"line {number}: {len(words)} words instead of {columns}")
        elif words[0] in rows:
            problems.append(f"line {number}: {words[0]} is listed twice")
        else:
            rows[words[0]] = words[1:]
    if problems or not rows:
        raise many_problems(f"{path} is not a list of images", problems or ["it is empty"])
    return rows


def present(source: Path, entries: list[Entry]) -> list[Entry]:
    """Return the entries; raises InputError if any of their files is not there."""
    if gone := [entry.name for entry in entries if not entry.image.is_file()]:
        raise many_problems(f"{source} lists {len(gone)} images that are not there", gone)
    return entries
