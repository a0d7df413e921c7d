"""What folders of images hold beside images: what systems leave in them, the parts of a split, and names of classes."""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from continual.data.names import printed, same_name
from continual.errors import InputError

#: left in folders by macOS, Windows, network drives (Synology, QNAP) and programs that sort or copy photographs; in
#: lower case. Hidden names begin with a dot.
LITTER = {
    "__macosx", "network trash folder", "temporary items", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db",
    "desktop.ini", "$recycle.bin", "system volume information", "lost+found", "@eadir", "@synoeastream", "@tmp",
    "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot", "picasa.ini", "_gsdata_", "__pycache__",
}  # fmt: skip
#: what they put behind the name of a file, for its attributes
_ATTRIBUTES = ("@synoeastream", "@synoresource", ":zone.identifier", ":encryptable")

#: the parts of a split, and the names by which folders, manifests and the hub call them, in any case
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
_PART_OF = {name: part for part, names in PARTS.items() for name in names}
#: names of folders that people sort images into before they have a class, in lower case
_SORTED_INTO = {"misc", "new", "test", "train", "unknown", "unsorted", "val", "wrong"}
#: words beside them, as in `training_set` and `test-images`
_BESIDE = re.compile(r"[\W_]+|(?:data)?sets?|data|split|images?|imgs?|pictures?|photos?|20\d\d")


def ignored(name: str) -> bool:
    """Tell whether a file or folder is hidden, or something that systems leave behind: no reader looks at it.

    >>> [name for name in ("cat", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "Thumbs.db") if not ignored(name)]
    ['cat']
    """
    return name.startswith(".") or name.lower() in LITTER or name.lower().endswith(_ATTRIBUTES)


def ignored_path(path: PurePath) -> bool:
    """Tell whether any part of a relative path is `ignored`."""
    return any(ignored(part) for part in path.parts if part not in (".", ".."))


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in one, sorted, without ignored ones; raises InputError if there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}: give a folder with one sub-folder of images per class")
    return sorted(p for p in folder.iterdir() if p.is_dir() and not ignored(p.name))


def part_of(name: str) -> str | None:
    """Return which part of a split a name means; None for other names.

    >>> part_of("Train"), part_of("eval"), part_of("test_set"), part_of("training-images"), part_of("trains")
    ('train', 'val', 'test', 'train', None)
    """
    return _PART_OF.get(_BESIDE.sub("", name.lower()))


def parts_in(folder: Path) -> dict[str, Path]:
    """Return the folders of a split's parts, by part; none of a folder that holds no split.

    A folder holds one if it has two parts, or nothing but one, in which folders lie: a class may be called "train".
    Raises InputError for two folders of one part.
    """
    inside = subfolders(folder) if folder.is_dir() else []
    found = [(part, place) for place in inside if (part := part_of(place.name))]
    parts = dict(found)
    if len(parts) < 2 and not (found and len(found) == len(inside) and all(subfolders(place) for _, place in found)):
        return {}
    for part, place in found:
        if place != parts[part]:
            raise InputError(
                f"{folder} has {place.name}/ and {parts[part].name}/, both for {part}: merge or rename one"
            )
    return parts


def refuse_split(folder: Path) -> None:
    """Raise InputError for a folder that holds a split's parts where one of classes is needed."""
    if parts := parts_in(folder):
        names = " and ".join(f"{place.name}/" for place in parts.values())
        cure = f"give {parts['train']}" if "train" in parts else "give a folder of training images"
        raise InputError(f"{folder} holds {names}, the parts of a split and no classes: {cure}")


def class_folders(folder: Path) -> list[Path]:
    """Return the folders of classes in one, sorted; raises InputError where one holds the parts of a split itself.

    Its test images would be learned with the others, as images of a class called `data`, say.
    """
    found = subfolders(folder)
    for kind in found:
        inside = [name for name in sorted(_inside(kind)) if part_of(name)]
        if len({part_of(name) for name in inside}) > 1:
            names = " and ".join(f"{name}/" for name in inside)
            raise InputError(
                f"{kind} holds {names}, the parts of a split, where images of a class {kind.name!r} are looked for: "
                f"give {kind} if that is the data set, or put the parts above the classes, {inside[-1]}/{kind.name}"
            )
    return found


def alike_inside(folders: Sequence[Path]) -> str:
    """Say that folders taken for classes hold folders of the same names, as those of a split or of domains do."""
    first = _inside(folders[0]) if len(folders) > 1 else set()
    if len(first) < 2 or any(_inside(other) != first for other in folders[1:]):
        return ""
    shown = ", ".join([*sorted(first)[:3], *(["…"] if len(first) > 3 else [])])
    return (
        f"{folders[0].name} and {folders[1].name} are taken for classes, and hold the same folders, {shown}: if those "
        f"are the classes, give {folders[0]}"
    )


def doubtful(names: Iterable[str | int]) -> list[str]:
    """Say of each name of a class that it is one which folders of other images have, in any case.

    >>> doubtful(["nut", "New"])
    ["'New' is learned as a class: is it one?"]
    """
    found = sorted(name for name in map(str, names) if name.strip().lower() in _SORTED_INTO)
    return [f"{name!r} is learned as a class: is it one?" for name in found]


def _inside(folder: Path) -> set[str]:
    """Return the names of the folders in one, without those that are ignored."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_dir() and not ignored(entry.name)}


def alike(names: Iterable[str]) -> list[str]:
    r"""Say, for each group of names that differ in case, spaces or the way letters are encoded alone, what is wrong.

    They are spelled out where they look the same.

    >>> alike(["Käfer", "käfer", "nut"])
    ["the classes 'Käfer' and 'käfer' are one name for people: rename them to one"]
    >>> alike(["Käfer", "Ka\u0308fer"])
    ["the classes 'K\\xe4fer' and 'Ka\\u0308fer' are one name for people: rename them to one"]
    """
    groups = defaultdict[str, list[str]](list)
    for name in dict.fromkeys(names):
        groups[same_name(name)].append(name)
    shown = []
    for group in groups.values():
        looks = set(map(printed, group))
        if len(group) > 1:
            shown.append(" and ".join(map(repr if len(looks) == len(group) else ascii, group)))
    return [f"the classes {names} are one name for people: rename them to one" for names in shown]


def irregular(path: Path) -> bool:
    """Tell whether something is there that is no file: a pipe or a device, whose reading may never end."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
