"""Image files: which are there, what they hold, and clear words for those that hold nothing."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from continual.console import count
from continual.data import checked_files
from continual.data.bands import pictures
from continual.data.decoding import EncodedImage as EncodedImage
from continual.data.decoding import as_rgb
from continual.data.decoding import decoded as decoded
from continual.data.file_kinds import is_read, kind_at
from continual.data.folders import (
    alike_inside,
    class_folders,
    ignored,
    ignored_path,
    irregular,
    refuse_split,
    subfolders,
)
from continual.data.tensors import picture
from continual.errors import InputError

#: bytes that `DecodedOnce` keeps: some 30,000 images of 64 x 64 pixels, or 500 of 500 x 500
LIMIT = 2**29


def open_image(raw: Any, index: int | str = 0, channels: int = 3, value_range: str | None = None) -> Any:
    """Return a raw image as RGB, a PIL image or a tensor; of a file of other `channels`, its array.

    `value_range` is the name of what numbers of 16 bits mean. Raises InputError with the file's name, or the index, if
    it is not one.
    """
    if isinstance(raw, str | Path | EncodedImage):
        return decoded(raw, channels, value_range).image
    raw = raw if isinstance(raw, Image.Image) else picture(raw, index, channels=channels)
    if isinstance(raw, Tensor):
        return raw
    try:
        return upright(raw, value_range)
    except ValueError as error:
        raise InputError(f"image {index} cannot be used: {error}") from None


class DecodedOnce(Sequence[Any]):
    """A sequence of images whose files are opened when they are first asked for, and not again.

    They are kept up to `limit` bytes; what does not fit, and what is no file, is handed on. Of several loading
    processes each keeps what it has opened, within its share of the limit.
    """

    def __init__(
        self, images: Sequence[Any], limit: int = LIMIT, channels: int = 3, value_range: str | None = None
    ) -> None:
        self.images, self.limit, self.channels, self.value_range = images, limit, channels, value_range
        self.held = 0
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        if index in self._kept:
            return self._kept[index]
        raw = self.images[index]
        if not isinstance(raw, str | Path | EncodedImage):
            return raw
        image, worker = open_image(raw, channels=self.channels, value_range=self.value_range), get_worker_info()
        # Of a pixel in memory, the fourth byte is unused.
        size = 4 * image.width * image.height if isinstance(image, Image.Image) else image.nbytes
        if self.held + size <= self.limit // (1 if worker is None else worker.num_workers):
            self._kept[index] = image
            self.held += size
        return image


def upright(image: Image.Image, value_range: str | None = None) -> Image.Image:
    """Return an image in RGB as people see it, see `continual.data.decoding`.

    Raises ValueError for pixels of unknown brightness: floats, or whole numbers beyond 16 bits.
    """
    found: Image.Image = as_rgb(image, value_range).image
    return found


def image_files(folder: Path, channels: int = 3) -> list[Path]:
    """Return the image files at any depth below a folder, sorted; what is `ignored` is left out.

    For a backbone of many `channels`, .npy files are images, too.

    Links are followed. Raises InputError for a folder that cannot be read, a link to a folder around it, names that
    are not UTF-8, which could not be written to any result, and pipes and devices that are called images.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from None

    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        here = Path(place)
        folders[:] = [name for name in folders if not ignored(name)]
        for link in [here / name for name in folders if (here / name).is_symlink()] + [here] * here.is_symlink():
            if link.parent.resolve().is_relative_to(link.resolve()):
                raise InputError(f"{link} links to a folder that it is in: remove the link")
        names = [name for name in names if not ignored(name)]
        found += [here / name for name in names if is_image(here / name, channels)]
    found.sort()
    if odd := [path for path in found if irregular(path)]:
        raise InputError(f"{odd[0]} is a pipe or a device, no file: remove it")
    if odd := [path for path in found if any("\ud800" <= c <= "\udfff" for c in str(path))]:
        shown = ", ".join(ascii(os.fsencode(path)) for path in odd[:5])
        raise InputError(f"{len(odd)} file names are not UTF-8: rename {shown}{', …' if len(odd) > 5 else ''}")
    return found


def is_image(path: Path, channels: int = 3) -> bool:
    """Tell whether a file in a folder is taken for an image, for a backbone of so many channels."""
    return is_read(kind_at(path)) or (not pictures(channels) and path.suffix.lower() == ".npy")


def unread(folder: Path, *, others: bool = True, channels: int = 3) -> str:
    """Say what lies below a folder and is left out: pictures of kinds that are not read, and `others`, no pictures."""
    found, strange = Counter[str](), []
    for path in sorted(folder.rglob("*")):
        if ignored_path(path.relative_to(folder)) or not path.is_file() or is_image(path, channels):
            continue
        kind = kind_at(path)
        if kind is None:
            strange.append(path.name)
        else:
            found[kind] += 1
    said = []
    if found:
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(found.items()))
        cure = "convert them, to JPEG or PNG say" + (", or pip install 'equimos[heif]'" if "HEIF" in found else "")
        said.append(f"pictures of kinds that are not read ({counts}): {cure}")
    if strange and others:
        shown = ", ".join([*strange[:3], *(["…"] if len(strange) > 3 else [])])
        said.append(f"{count(len(strange), 'file')} that hold{'s' * (len(strange) == 1)} no picture ({shown})")
    return "; ".join(said)


def warn_of_unread(folder: str | Path, channels: int = 3) -> None:
    """Warn of pictures below a folder that are left out: where nobody prints a plan."""
    if said := unread(Path(folder), others=False, channels=channels):
        warnings.warn(f"left out of {folder}: {said}", UserWarning, stacklevel=3)


def warn_of_classes(folder: str | Path) -> None:
    """Warn of folders that are taken for classes and look like something else: where nobody prints a plan."""
    if Path(folder).is_dir() and (said := alike_inside(subfolders(Path(folder)))):
        warnings.warn(said, UserWarning, stacklevel=3)


def list_folder(folder: str | Path, channels: int = 3) -> tuple[list[Path], list[str]]:
    """Return the image files below `folder/<class>/` and their class names, sorted.

    Raises InputError if there is no such folder, no image in it, or if its folders are the parts of a split.
    """
    folder = Path(folder)
    refuse_split(folder)
    found = [(path, kind.name) for kind in class_folders(folder) for path in image_files(kind, channels)]
    if not found:
        others = unread(folder, channels=channels)
        said = f" but {others}" if others else ": it needs one sub-folder of images per class"
        raise InputError(f"{folder} holds no images{said}")
    return [path for path, _ in found], [name for _, name in found]


def check_readable(
    paths: Sequence[str | Path],
    progress: Callable[[str, int, int, dict[str, float]], None] | None = None,
    channels: int = 3,
) -> None:
    """Open every file once; raise one InputError that names those that are no images of so many `channels`.

    In a block of `continual.data.checked_files.remembered`, files that have not changed since they were readable are
    passed over.
    """
    broken, checked = [], checked_files.current()
    for done, path in enumerate(paths, 1):
        try:
            if checked is None or not isinstance(path, str | Path):
                open_image(path, channels=channels)
            elif not checked.knows(path, channels):
                with checked.unchanged(path, channels):
                    open_image(path, channels=channels)
        except InputError as error:
            broken.append(str(error))
        if progress is not None:
            progress("checking images", done, len(paths), {})
    if checked is not None:
        checked.save()
    if broken:
        more = f"\n(and {len(broken) - 10} more)" if len(broken) > 10 else ""
        raise InputError(f"{len(broken)} of {len(paths)} images cannot be read:\n" + "\n".join(broken[:10]) + more)
