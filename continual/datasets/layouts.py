"""Readers of the folder layouts in which people have images; each returns None if it is not this layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from continual.data.images import image_files
from continual.datasets.catalogue import Kind
from continual.datasets.collection import Entry, Images
from continual.errors import InputError

#: The first ten problems are told, each on a line of its own.
SHOWN = 10


def told(what: str, problems: list[str]) -> InputError:
    """Return one error that tells the first ten problems."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return InputError(f"{what}:\n" + "\n".join([*problems[:SHOWN], *more]))


def folders(root: Path, domains: bool = False) -> list[Entry] | None:
    """Read train/CLASS and test/CLASS (or val/CLASS); with `domains`, train/DOMAIN/CLASS."""
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or test is None:
        return None
    return [
        *below(root / "train", root, "train", domains=domains),
        *below(test, root, "test", domains=domains),
    ]


def flat(root: Path, domains: bool = False) -> list[Entry] | None:
    """Read CLASS folders without a split; with `domains`, DOMAIN/CLASS."""
    return list(below(root, root, None, domains=domains)) if root.is_dir() else None


def below(folder: Path, root: Path, split: str | None, *, domains: bool = False) -> Iterator[Entry]:
    """Yield the images of every class folder, in the order of names.

    Raises InputError for a folder without class folders, and one that names the empty ones.
    """
    places = [(d.name, c) for d in _subfolders(folder) for c in _subfolders(d)] if domains else []
    kinds: list[tuple[str | None, Path]] = [*places] if domains else [(None, c) for c in _subfolders(folder)]
    if not kinds:
        wanted = "domain folders with class folders in them" if domains else "one sub-folder of images a class"
        raise InputError(f"{folder} holds no images: it needs {wanted}")
    found = [(domain, kind, image_files(kind)) for domain, kind in kinds]
    if empty := [kind for _, kind, paths in found if not paths]:
        raise told(f"{len(empty)} class folders hold no images: fill or remove them", [str(kind) for kind in empty])
    for domain, kind, paths in found:
        for path in paths:
            yield Entry(path, path.relative_to(root).as_posix(), kind.name, split, domain)


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}: give a folder with one sub-folder of images a class")
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def cub(root: Path, domains: bool = False) -> list[Entry] | None:
    """Read CUB-200-2011's images.txt and train_test_split.txt; a class is the folder of its images."""
    if not (root / "images.txt").is_file():
        return None
    paths = _table(root / "images.txt", 2)
    training = _table(root / "train_test_split.txt", 2)
    if paths.keys() != training.keys():
        odd = sorted(paths.keys() ^ training.keys())
        raise InputError(f"{root}: images.txt and train_test_split.txt list different images, such as {odd[0]}")
    if bad := [key for key, (flag,) in training.items() if flag not in ("0", "1")]:
        raise InputError(f"{root / 'train_test_split.txt'}: image {bad[0]} is neither 1 (training) nor 0 (test)")
    entries = [
        Entry(root / "images" / name, name, name.rpartition("/")[0], "train" if training[key] == ["1"] else "test")
        for key, (name,) in paths.items()
    ]
    return _present(root / "images.txt", entries)


def tiny_imagenet(root: Path, domains: bool = False) -> list[Entry] | None:
    """Read tiny-imagenet-200: train/WNID/images, and val/images with val_annotations.txt as the test images."""
    notes = root / "val" / "val_annotations.txt"
    if not notes.is_file():
        return None
    train = list(below(root / "train", root, "train"))
    labels = _table(notes, 6)
    test = [
        Entry(root / "val" / "images" / name, f"val/images/{name}", label, "test")
        for name, (label, *_) in labels.items()
    ]
    return [*train, *_present(notes, test)]


def _table(path: Path, columns: int) -> dict[str, list[str]]:
    """Read lines of so many words, by their first word; tell every line that is not one."""
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
        raise told(f"{path} is not a list of images", problems or ["it is empty"])
    return rows


def _present(source: Path, entries: list[Entry]) -> list[Entry]:
    if gone := [entry.name for entry in entries if not entry.image.is_file()]:
        raise told(f"{source} lists {len(gone)} images that are not there", gone)
    return entries


def cifar(root: Path, kind: str) -> tuple[Images, Images] | None:
    """Read CIFAR's python batches through torchvision, as arrays (H, W, 3); None if they are not there."""
    from torchvision.datasets import CIFAR10, CIFAR100

    reader = {"cifar10": CIFAR10, "cifar100": CIFAR100}[kind]
    place = root.parent if root.name == reader.base_folder else root
    if not (place / reader.base_folder).is_dir():
        return None
    parts = []
    for train in (True, False):
        try:
            found = reader(str(place), train=train, download=False)
        except Exception as error:  # torchvision passes on whatever reading and unpickling raise
            raise InputError(
                f"{place / reader.base_folder} is damaged ({error}): unpack the archive again (equimos data prepare "
                f"{kind} --download)"
            ) from error
        labels = [found.classes[target] for target in found.targets]
        split = "train" if train else "test"
        parts.append(Images(list(found.data), labels, None, [f"{split}/{i}" for i in range(len(labels))]))
    return parts[0], parts[1]


#: Readers of the layouts that list files.
READERS: dict[Kind, Callable[[Path, bool], list[Entry] | None]] = {
    "folders": folders,
    "flat": flat,
    "cub": cub,
    "tiny_imagenet": tiny_imagenet,
}
