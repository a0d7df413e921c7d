"""Images of an experience that a list names, with the labels that someone filled in."""

from __future__ import annotations

from pathlib import Path

from continual.data.images import image_files, list_folder
from continual.datasets.readers.manifest import read_manifest
from continual.errors import InputError


def is_list(place: Path) -> bool:
    """Tell whether images are given by a manifest instead of a folder."""
    return place.suffix.lower() == ".csv" and not place.is_dir()


def found_in(
    place: Path, outside: bool = False, channels: int = 3, single: str | None = None
) -> tuple[list[Path], list[str]]:
    """Return the images of class folders or of a manifest, and their classes; of `single` all images at any depth."""
    if single is not None:
        return (paths := image_files(place, channels)), [single] * len(paths)
    return listed(place, outside) if is_list(place) else list_folder(place, channels)


def listed(manifest: Path, outside: bool = False) -> tuple[list[Path], list[str]]:
    """Return the images that a manifest lists for training, and their classes; raises InputError as it is read."""
    entries, _ = read_manifest(manifest, outside=outside)
    own = [entry for entry in entries if entry.split in (None, "train")]
    if not own:
        raise InputError(f"{manifest} lists no images for training")
    return [Path(entry.image) for entry in own], [str(entry.label) for entry in own]
