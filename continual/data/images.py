"""Image files: which are there, what they hold, and clear words for those that hold nothing."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import get_worker_info

from continual.data.folders import ignored, ignored_path, irregular, refuse_split, subfolders
from continual.errors import InputError

#: what is read: Pillow's names and file suffixes; every further one is a decoder that strangers may try
FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm"),
}
IMAGE_SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes}
#: pictures of kinds that are not read; people who have them wonder
UNREAD_SUFFIXES = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".svg"}

#: bytes that `DecodedOnce` keeps: some 30,000 images of 64 x 64 pixels, or 500 of 500 x 500
LIMIT = 2**29


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file that lies in something larger (a parquet file, say), read when they are asked for."""

    name: str
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


def open_image(raw: Any, index: int = 0) -> Image.Image | Tensor:
    """Return a raw image as RGB; raise InputError with the file's name, or the index, if it is not one."""
    if isinstance(raw, str | Path | EncodedImage):
        try:
            file = io.BytesIO(raw.read()) if isinstance(raw, EncodedImage) else raw
            with Image.open(file, formats=list(FORMATS)) as image:
                return upright(image)
        except InputError:
            raise
        except FileNotFoundError:
            raise InputError(f"no image at {raw}") from None
        except UnidentifiedImageError:
            raise InputError(f"{raw} is not a readable image ({', '.join(FORMATS)}): remove or convert it") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{raw} is not a readable image ({error}): remove it or replace it") from error
    if isinstance(raw, Image.Image):
        try:
            return upright(raw)
        except ValueError as error:
            raise InputError(f"image {index} cannot be used: {error}") from None
    if isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and (raw.ndim == 2 or raw.shape[2:] in ((1,), (3,), (4,))):
        return Image.fromarray(raw[..., 0] if raw.shape[2:] == (1,) else raw).convert("RGB")
    if isinstance(raw, Tensor) and raw.dtype == torch.uint8 and raw.ndim == 3 and raw.shape[0] in (1, 3):
        return raw.expand(3, -1, -1)
    shape = f" of shape {tuple(raw.shape)} and dtype {raw.dtype}" if hasattr(raw, "shape") else ""
    raise InputError(
        f"image {index} is a {type(raw).__name__}{shape}: give paths, PIL images, uint8 tensors (3, H, W), uint8 "
        "arrays (H, W, 3), or finished float inputs (3, H, W)"
    )


class DecodedOnce(Sequence[Any]):
    """A sequence of images whose files are opened when they are first asked for, and not again.

    They are kept up to `limit` bytes; what does not fit, and what is no file, is handed on. Of several loading
    processes each keeps what it has opened, within its share of the limit.
    """

    def __init__(self, images: Sequence[Any], limit: int = LIMIT) -> None:
        self.images, self.limit, self.held = images, limit, 0
        self._kept: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        if index in self._kept:
            return self._kept[index]
        raw = self.images[index]
        if not isinstance(raw, str | Path | EncodedImage):
            return raw
        image, worker = open_image(raw), get_worker_info()
        assert isinstance(image, Image.Image)
        size = 4 * image.width * image.height  # of a pixel in memory, the fourth byte is unused
        if self.held + size <= self.limit // (1 if worker is None else worker.num_workers):
            self._kept[index] = image
            self.held += size
        return image


def upright(image: Image.Image) -> Image.Image:
    """Return an image as people see it: rotated as its EXIF says, in RGB, the upper 8 of 16 bits per channel.

    Raises ValueError for pixels of unknown brightness: floats, or whole numbers beyond 16 bits.
    """
    image.load()  # first, so that what is wrong with the picture itself is not taken for its EXIF's
    try:
        rotated = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # every format has its own for EXIF that is damaged
        rotated = False
    if rotated:
        image = ImageOps.exif_transpose(image)
    if image.mode[0] == "I":
        pixels = np.asarray(image)
        if 0 <= pixels.min() <= pixels.max() < 2**16:
            return Image.fromarray((pixels // 256).astype(np.uint8)).convert("RGB")
    if image.mode[0] in "IF":
        raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}): save it with 8 or 16 bits per channel")
    return image.convert("RGB")


def image_files(folder: Path) -> list[Path]:
    """Return the image files at any depth below a folder, sorted; what is `ignored` is left out.

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
        found += [here / name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    found.sort()
    if odd := [path for path in found if irregular(path)]:
        raise InputError(f"{odd[0]} is a pipe or a device, no file: remove it")
    if odd := [path for path in found if any("\ud800" <= c <= "\udfff" for c in str(path))]:
        shown = ", ".join(ascii(os.fsencode(path)) for path in odd[:5])
        raise InputError(f"{len(odd)} file names are not UTF-8: rename {shown}{', …' if len(odd) > 5 else ''}")
    return found


def unread(folder: Path) -> str:
    """Say how many pictures below a folder are of kinds that are not read; nothing if there are none."""
    every = (path for path in folder.rglob("*") if path.suffix.lower() in UNREAD_SUFFIXES)
    found = Counter(path.suffix.lower() for path in every if not ignored_path(path.relative_to(folder)))
    if not found:
        return ""
    counts = ", ".join(f"{n} {suffix}" for suffix, n in sorted(found.items()))
    return f"pictures of kinds that are not read ({counts}): convert them, to JPEG or PNG say"


def list_folder(folder: str | Path) -> tuple[list[Path], list[str]]:
    """Return the image files below `folder/<class>/` and their class names, sorted.

    Raises InputError if there is no such folder, no image in it, or if its folders are the parts of a split.
    """
    folder = Path(folder)
    refuse_split(folder)
    found = [(path, kind.name) for kind in subfolders(folder) for path in image_files(kind)]
    if not found:
        others = unread(folder)
        said = f" but {others}" if others else ": it needs one sub-folder of images per class"
        raise InputError(f"{folder} holds no images{said}")
    return [path for path, _ in found], [name for _, name in found]


def check_readable(
    paths: Sequence[str | Path], progress: Callable[[str, int, int, dict[str, float]], None] | None = None
) -> None:
    """Open every file once; raise one InputError that names those that are not images."""
    broken = []
    for done, path in enumerate(paths, 1):
        try:
            open_image(path)
        except InputError as error:
            broken.append(str(error))
        if progress is not None:
            progress("checking images", done, len(paths), {})
    if broken:
        more = f"\n(and {len(broken) - 10} more)" if len(broken) > 10 else ""
        raise InputError(f"{len(broken)} of {len(paths)} images cannot be read:\n" + "\n".join(broken[:10]) + more)
