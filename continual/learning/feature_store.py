"""Features of prepared images under frozen weights, kept on the disk: computed once for methods, seeds and runs.

A frozen network gives an image the same features whoever asks. They are kept by what decides them: the weights' hash
and architecture, what is read of the network, the precision, the kind of device, the release of torch, and the bytes
of the prepared image, in which its file, its preprocessing and its view are. No image is kept. What a store gives is
bit for bit what was computed first; another batch, or another machine, rounds some features otherwise (within 1e-6).

    FOLDER/KEY/reading.json             what the features of this folder are
    FOLDER/KEY/NAME.safetensors         `images` (n, 16) uint8, digests, and `features` (n, D)
    FOLDER/readable/NAME.checked        which image files could be read, see `continual.data.checked_files`

Files are written whole or not at all, are never changed, and may be removed at any time, also while they are in use.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import platformdirs
import torch
from torch import Tensor

from continual import files
from continual.data.checked_files import CheckedFiles
from continual.errors import EquimosError
from continual.learning.feature_cache import digest

READING = "reading.json"
READABLE = "readable"
#: bytes, of all files together
LIMIT = 8 * 2**30
#: types of features by their names in a safetensors file
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
#: bytes of new features that are held before they are written
HELD = 64 * 2**20


def default_folder() -> Path:
    """Return `$EQUIMOS_CACHE/features`, or the same in the user's folder for what may be removed."""
    return Path(os.environ.get("EQUIMOS_CACHE") or platformdirs.user_cache_path("equimos")) / "features"


class Store(Protocol):
    """Where features are that were computed before: a `FeatureStore`, or `RecentFeatures`."""

    def features(self, images: Tensor, reading: Mapping[str, Any], compute: Callable[[Tensor], Tensor]) -> Tensor: ...


@dataclass(frozen=True)
class _File:
    """A file of features: where rows begin, and how they are to be understood."""

    path: Path
    begin: int
    row: int  #: bytes
    dtype: torch.dtype
    seconds: float  #: what computing one row took

    def read(self, number: int) -> Tensor:
        """Return features (D,); raises OSError, or ValueError for a file that was cut off."""
        with self.path.open("rb") as file:
            file.seek(self.begin + number * self.row)
            content = bytearray(file.read(self.row))
        if len(content) < self.row:
            raise ValueError("it is cut off")
        return torch.frombuffer(content, dtype=self.dtype)


class _Reading:
    """What is known of one way of reading features: rows in files, and rows to be written."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder, self.text = folder, text
        self.rows: dict[bytes, tuple[_File, int]] = {}
        self.new: dict[bytes, Tensor] = {}
        self.seconds = 0.0  #: spent on what is new
        self._seen: set[str] = set()
        self.refresh()

    def __contains__(self, image: bytes) -> bool:
        return image in self.new or image in self.rows

    def row(self, image: bytes) -> tuple[Tensor, float]:
        """Return features (D,) and the seconds that computing them took."""
        if image in self.new:
            return self.new[image], self.seconds / len(self.new)
        file, number = self.rows[image]
        return file.read(number), file.seconds

    def mark(self) -> None:
        """Make the folder, and say in it what its features are: others may have cleared the store."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_text(self.folder / READING, self.text)

    def forget_files(self) -> None:
        """Look again for what there is."""
        self.rows.clear()
        self._seen.clear()
        self.refresh()

    def refresh(self) -> None:
        """Take up files that others have written."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            try:
                header = files.read_header(path)
                images, features = files.fetch(path, "images")[0]["images"], header.tensors["features"]
                if (
                    images.dtype != torch.uint8
                    or images.shape != (features.shape[0], 16)
                    or len(features.shape) != 2
                    or not len(images)
                ):
                    raise ValueError("it holds no features")
                row, seconds = features.nbytes // len(images), float(header.metadata["seconds"])
                found = _File(path, header.length + features.start, row, DTYPES[features.dtype], seconds)
            except (OSError, ValueError, KeyError) as error:
                warnings.warn(f"features in {path} cannot be used ({error}) and are computed again", stacklevel=2)
                path.unlink(missing_ok=True)
                continue
            os.utime(path)  # it is in use: others are removed before it
            for number, image in enumerate(images.numpy()):
                self.rows.setdefault(image.tobytes(), (found, number))


class FeatureStore:
    """Gives features that were computed before, on this machine, and keeps those that were not.

    `folder` is `default_folder()` unless given; files are removed, the longest unused ones first, while they take more
    than `limit` bytes. A folder that cannot be written is warned of once, and then does without. `saved` is how many
    seconds of computing were saved so far, by what computing the same took.
    """

    def __init__(self, folder: str | Path | None = None, limit: int = LIMIT) -> None:
        self.folder = default_folder() if folder is None else Path(folder)
        self.limit, self.saved = limit, 0.0
        self._readings: dict[str, _Reading] = {}
        self._works = True

    def features(self, images: Tensor, reading: Mapping[str, Any], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `compute(images)`, features (B, D) of prepared images (B, 3, H, W), from the store if it has them all.

        `reading` says in JSON values what decides features besides the image. The whole batch is computed where one
        image is missing, so that features are rounded as they are without a store.
        """
        known, names = self._reading(reading), [digest(image) for image in images.cpu()]
        if all(name in known for name in names):
            try:
                rows, seconds = zip(*(known.row(name) for name in names), strict=True)
            except (OSError, ValueError):  # removed by another process
                known.forget_files()
            else:
                self.saved += sum(seconds)
                return torch.stack(rows).to(images.device)
        start = time.perf_counter()
        features = compute(images)
        new = features.detach().cpu()
        known.seconds += time.perf_counter() - start
        if torch.isfinite(new).all():
            known.new |= {name: row for name, row in zip(names, new, strict=True) if name not in known}
        if new[0].nbytes * len(known.new) > HELD:
            self._write(known)
        return features

    def flush(self) -> None:
        """Write what is new, take up what others have written, and keep to the limit."""
        for known in self._readings.values():
            self._write(known)
            known.refresh()
        with self._trying():
            self._make_room()

    def _reading(self, reading: Mapping[str, Any]) -> _Reading:
        text = files.json_text(reading)
        folder = self.folder / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        if folder.name not in self._readings:
            self._readings[folder.name] = _Reading(folder, text)
            with self._trying():
                self._readings[folder.name].mark()
        return self._readings[folder.name]

    def _write(self, known: _Reading) -> None:
        if not known.new:
            return
        images = torch.frombuffer(bytearray(b"".join(known.new)), dtype=torch.uint8).reshape(-1, 16)
        tensors = {"images": images, "features": torch.stack([*known.new.values()])}
        with self._trying():
            known.mark()
            path = known.folder / f"{secrets.token_hex(8)}.safetensors"
            files.store(path, tensors, {"seconds": repr(known.seconds / len(known.new))})
            known.refresh()
            self._make_room()
        known.new, known.seconds = {}, 0.0

    def _make_room(self) -> None:
        kept = contents(self.folder)
        while sum(each.nbytes for each in kept) > self.limit:
            kept.pop(0).path.unlink(missing_ok=True)

    @contextmanager
    def _trying(self) -> Iterator[None]:
        """Do without, and say so, where the folder cannot be written."""
        try:
            yield
        except (EquimosError, OSError) as error:
            if self._works:
                warnings.warn(f"features are not kept for other runs: {error}", stacklevel=4)
            self._works = False


@dataclass(frozen=True)
class Kept:
    """One file of a store."""

    path: Path
    nbytes: int
    used: float  #: seconds since 1970
    reading: str  #: what its features are, JSON


def contents(folder: Path | None = None) -> list[Kept]:
    """Return the files of a store, the longest unused first."""
    found = []
    for path in (folder or default_folder()).glob("*/*.safetensors"):
        with suppress(FileNotFoundError):  # another process removed it
            about, reading = path.stat(), path.with_name(READING)
            text = reading.read_text() if reading.exists() else "{}"
            found.append(Kept(path, about.st_size, about.st_mtime, text))
    return sorted(found, key=lambda kept: kept.used)


def clear(folder: Path | None = None) -> int:
    """Remove all files of a store; return how many bytes they took."""
    folder, kept = folder or default_folder(), contents(folder)
    for each in kept:
        each.path.unlink(missing_ok=True)
    for reading in folder.glob(f"*/{READING}"):
        reading.unlink(missing_ok=True)
        with suppress(OSError):  # a new file, or one of somebody else
            reading.parent.rmdir()
    return sum(each.nbytes for each in kept) + CheckedFiles(folder / READABLE).clear()
