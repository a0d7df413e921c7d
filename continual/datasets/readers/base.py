"""What a data reader is: the sources it takes, the keys of `[data]` it reads, and the images it finds there."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from continual.data.folders import alike, class_folders, subfolders
from continual.data.images import check_readable, image_files, unread
from continual.data.ranges import range_name
from continual.datasets.collection import Collection, Entry, Images, check_classes, draw_test
from continual.documents import Strict, is_path
from continual.errors import InputError

SHOWN = 10  #: how many problems an error names


class DataTable(Strict):
    """The keys of `[data]` that are always there; a reader may have more of its own, see `Reader.options`."""

    model_config = ConfigDict(extra="allow")

    source: str
    train: Path | None = Field(None, description="folder: a folder of class folders")
    test: Path | None = Field(None, description="folder: likewise, with the same classes")
    root: Path | None = Field(None, description="where a published data set lies; else $EQUIMOS_DATA/NAME")
    exact: bool = Field(True, description="refuse a published data set whose counts are not the published ones")
    domains: bool = Field(False, description="class folders lie in folders of domains: DOMAIN/CLASS")
    test_share: float = Field(0.2, gt=0, lt=1, description="of each class, where the source has no split")
    split_seed: int = Field(1993, description="which images those are")
    validation_as: Literal["train", "test"] | None = Field(
        None, description="where a validation part goes that stands beside a test part; else it is left out"
    )
    outside: bool = Field(False, description="manifest, parquet: images may lie outside their folder, or be links")
    channels: int = Field(
        3, ge=1, description="of the images; other than 1 and 3: TIFF and .npy files, else the backbone's own in_chans"
    )
    value_range: str | None = Field(
        None, description="what black and white are in images that are not uint8: [0, 4095], 'unit', 'bytes', …"
    )
    image_column: str | None = Field(None, description="parquet, hub: else the column of images")
    label_column: str = Field("label", description="parquet, hub")
    domain_column: str | None = Field(None, description="parquet, hub")

    @field_validator("value_range", mode="before")
    @classmethod
    def _range_is_known(cls, value: Any) -> str | None:
        return None if value is None else range_name(value)

    @model_serializer(mode="wrap")
    def _without_defaults_that_are_new(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The records of runs that were begun before there were these keys stay the same.
        new = {"channels": 3, "value_range": None}
        return {key: value for key, value in values(self).items() if key not in new or value != new[key]}


class Reader(ABC):
    """One kind of place where images lie; a file in `continual/datasets/readers/` holds one.

    class Squares(Reader):
        name = "squares"

        def read(self, config, *, download=False):
            ...
            return Collection("squares", train, test, "made up", "drawn")
    """

    name: ClassVar[str]
    keys: ClassVar[frozenset[str]] = frozenset()  #: which of train, test, root and domains go with it
    options: ClassVar[type[Strict]] = Strict  #: keys of `[data]` that it alone has; those of files are `Path`
    by_path: ClassVar[bool] = False  #: whether its source may be any path, instead of its name
    rank: ClassVar[int] = 0  #: where several take a source, the one of lowest rank is asked first

    def sources(self) -> Iterable[str]:
        """Return the names that `data.source` may be."""
        return () if self.by_path else (self.name,)

    def takes(self, source: str) -> bool:
        """Tell, by its words alone, whether a source may be for this reader."""
        return is_path(source) if self.by_path else source in self.sources()

    @abstractmethod
    def read(self, config: DataTable, *, download: bool = False) -> Collection | None:
        """Return the images with their split, none of them opened; None if, at a closer look, it is another's source.

        Only with `download` may anything be fetched. Raises InputError for images that are not there or cannot be used.
        """

    def check(self, found: Collection, config: DataTable) -> None:
        """Raise InputError for images that no work should begin with: by default, those that cannot be opened."""
        check_readable([*found.train.images, *found.test.images], channels=config.channels)

    def check_keys(self, config: DataTable) -> None:
        """Raise ValueError for keys of `[data]` that do not go with this reader."""
        source = config.source
        if (config.train or config.test) and "train" not in self.keys:
            raise ValueError(f"train and test go with source = 'folder', not {source!r}")
        if config.domains and "domains" not in self.keys:
            raise ValueError(f"{source} has no domains: leave domains out")
        if config.root is not None and "root" not in self.keys:
            raise ValueError(f"root goes with a published data set, not {source!r}")
        self.options(**(config.model_extra or {}))


class Layout(Reader):
    """A form in which a folder holds images; most are looked for in published data sets alone."""

    lists_files: ClassVar[bool] = True  #: whether images are files, so that a manifest can record their split

    def sources(self) -> Iterable[str]:
        """Return no names: it is known by what lies in a folder."""
        return ()

    def may_be(self, place: Path) -> bool:
        """Tell whether a folder can be the data set itself, and is not one around it."""
        return True

    @abstractmethod
    def look(self, place: Path, domains: bool = False, channels: int = 3) -> list[Entry] | tuple[Images, Images] | None:
        """Return what a folder holds: files, or training and test images; None if it does not have this form."""

    def read(self, config: DataTable, *, download: bool = False) -> Collection | None:
        """Return nothing: another reader looks with it."""
        return None


def collected(
    config: DataTable, entries: list[Entry], origin: str, split: str, remarks: Iterable[str] = (), **more: Any
) -> Collection:
    """Make a collection of entries, with `more` of its fields; those without a split get one drawn from the seed.

    A validation part is for testing, unless there is a test part as well: see `DataTable.validation_as`. Raises
    InputError for a class that is in one part only, and for classes whose names people take for one; those of a
    published data set are as they are.
    """
    said = list(remarks)
    if entries and entries[0].split is None:
        drawn = draw_test(entries, config.test_share, config.split_seed)
        entries = [replace(entry, split="test" if i in drawn else "train") for i, entry in enumerate(entries)]
        split = f"{split} (seed {config.split_seed}, {config.test_share:.0%} of each class for testing)"
    place = config.validation_as if any(e.split == "test" for e in entries) else "test"
    if place is None and (n := sum(e.split == "val" for e in entries)):
        said.append(
            f"{n} validation images stand beside the test images and are left out: data.validation_as='train', or "
            "'test', takes them in"
        )
    entries = [replace(e, split=place) if e.split == "val" else e for e in entries]
    if "published" not in more and (wrong := alike(sorted({e.label for e in entries}))):
        raise many_problems(f"{origin}: {len(wrong)} names of classes are there twice", wrong)
    parts = []
    for part in ("train", "test"):
        own = [e for e in entries if e.split == part]
        domains = [e.domain for e in own if e.domain is not None]
        parts.append(Images([e.image for e in own], [e.label for e in own], domains or None, [e.name for e in own]))
    folder = more.get("folder")
    if (
        folder is not None
        and "published" not in more
        and (others := unread(folder, others=False, channels=config.channels))
    ):
        said.append(f"left out: {others}")
    found = Collection(config.source, parts[0], parts[1], origin, split, remarks=tuple(said), **more)
    check_classes(found)
    return found


def many_problems(what: str, problems: list[str]) -> InputError:
    """Return one error that names the first ten problems, each on a line of its own."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return InputError(f"{what}:\n" + "\n".join([*problems[:SHOWN], *more]))


def below(folder: Path, root: Path, split: str | None, *, domains: bool = False, channels: int = 3) -> Iterator[Entry]:
    """Yield the images, of so many channels, of every class folder, in the order of names.

    Raises InputError for a folder without class folders, and one that names the empty ones.
    """
    places: list[tuple[str | None, Path]] = [(d.name, d) for d in subfolders(folder)] if domains else [(None, folder)]
    kinds = [(domain, kind) for domain, place in places for kind in class_folders(place)]
    if not kinds:
        wanted = "domain folders with class folders in them" if domains else "one sub-folder of images per class"
        raise InputError(f"{folder} holds no images: it needs {wanted}")
    found = [(domain, kind, image_files(kind, channels)) for domain, kind in kinds]
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
    """Return the entries; raises InputError if any of their files is not there, or not below the list's folder."""
    root = os.path.normpath(source.parent)
    if out := [entry.name for entry in entries if not Path(os.path.normpath(entry.image)).is_relative_to(root)]:
        raise many_problems(f"{source} lists {len(out)} images outside its folder", out)
    if gone := [entry.name for entry in entries if not entry.image.is_file()]:
        raise many_problems(f"{source} lists {len(gone)} images that are not there", gone)
    return entries
