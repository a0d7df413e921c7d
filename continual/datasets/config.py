"""The tables `[data]` and `[stream]` of a config, and the images that they name, through the reader of their source."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import ConfigDict, Field, ValidationError, model_validator

from continual.data.bands import pictures
from continual.datasets.collection import Collection, Images
from continual.datasets.readers import READERS, readers_for
from continual.datasets.readers.base import DataTable, Reader
from continual.documents import Strict, read, refusal
from continual.errors import InputError, nearest


class DataConfig(DataTable):
    """Where the images come from.

    `source` is the name of a published data set (`equimos data list`), "digits" (comes with scikit-learn),
    a path (an image folder, a CSV manifest, or parquet; with a slash or the file's suffix), "hub:OWNER/NAME",
    "folder" with `train` and `test`, or what another reader takes (see `continual.datasets.readers`).
    """

    @model_validator(mode="after")
    def _a_reader_takes_it(self) -> DataConfig:
        readers = readers_for(self.source)
        if not readers:
            close = nearest(self.source, {name for kind in READERS.all().values() for name in kind().sources()})
            raise ValueError(f"unknown source {self.source!r} ({close}); a path has a slash: './{self.source}'")
        problems = [problem for reader in readers if (problem := self.problem_of(reader)) is not None]
        if len(problems) == len(readers):
            raise problems[0]
        return self

    def for_channels(self, channels: int) -> Self:
        """Return the same for a backbone of so many channels, which images of many channels must have.

        One and three are pictures alike. Raises InputError if `channels` is given, and another number.
        """
        if channels == self.channels or (pictures(channels) and pictures(self.channels)):
            return self
        if "channels" in self.model_fields_set:
            raise InputError(f"data.channels is {self.channels}, and the backbone takes {channels} (in_chans)")
        return self.model_copy(update={"channels": channels})

    def problem_of(self, reader: Reader) -> ValueError | None:
        """Return what is wrong with the keys if this reader is to read them."""
        try:
            reader.check_keys(self)
        except ValueError as error:
            return error
        return None


class StreamConfig(Strict):
    """How a data set becomes experiences of new classes (`classes`), or of new domains (`by = "domains"`)."""

    by: Literal["classes", "domains"] = Field("classes", description="what an experience brings")
    classes: int | list[int] | list[list[str]] | None = Field(
        None, description="classes per experience: one number, a number each, or their names; Inc in published names"
    )
    base: int | Literal["half"] | None = Field(
        None, description="classes of the first experience, where `classes` is one number; B in published names"
    )
    order: Literal["seed", "sorted"] | list[str] = Field(
        "seed", description="of classes, or of domains: the published permutation of the run's seed, or by name"
    )
    only: list[str] | None = Field(None, min_length=1, description="use only these classes; `order` is among them")
    max_classes: int | None = Field(None, ge=1, description="use only the first classes of the order")
    per_class: int | None = Field(None, ge=1, description="use only so many training images per class and domain")

    @model_validator(mode="after")
    def _keys_fit_together(self) -> StreamConfig:
        named = isinstance(self.classes, list) and bool(self.classes) and isinstance(self.classes[0], list)
        if self.by == "classes" and self.classes is None:
            raise ValueError("give classes, the number of classes per experience (or by = 'domains')")
        if self.by == "domains" and not (self.classes is None and self.base is None and self.max_classes is None):
            raise ValueError(
                "by = 'domains' takes all classes in every experience: leave classes, base, max_classes out"
            )
        if self.base is not None and not isinstance(self.classes, int):
            raise ValueError("base goes with one number of classes for all later experiences")
        if named and (self.order != "seed" or self.max_classes is not None or self.only is not None):
            raise ValueError("classes given by name are in order already: leave order, only and max_classes out")
        return self


class StreamDocument(Strict):
    """The part of a run's config that says what is learned; the other tables are left to others."""

    model_config = ConfigDict(extra="ignore")

    title: str
    data: DataConfig
    stream: StreamConfig
    seeds: list[int] = Field([1993], min_length=1)

    @classmethod
    def load(cls, path: str | Path) -> StreamDocument:
        """Read it from a config of one run; raises InputError that names every problem."""
        path = Path(path)
        values = read(path, (), data_places(), ("data.source",))
        if "sweep" in values:
            raise InputError(f"{path} is a sweep: a config of one run is needed here")
        try:
            return cls(**values)
        except ValidationError as error:
            raise refusal(path, error, cls) from None


def data_places() -> tuple[str, ...]:
    """Return the keys of files and folders in `[data]`, a reader's own among them, as `documents.read` wants them."""
    tables: list[type[Strict]] = [DataTable, *(kind.options for kind in READERS.all().values())]
    fields = [item for table in tables for item in table.model_fields.items()]
    return tuple(f"data.{key}" for key, field in fields if Path in (field.annotation, *get_args(field.annotation)))


def find(config: DataConfig, *, download: bool = False) -> Collection:
    """Return the images that a config names, with their split; no image is opened.

    Only with `download` may a data set of the hub be fetched. Raises InputError for data that are not there or unfit.
    """
    return _read(config, download)[1]


def load_collection(config: DataConfig) -> Collection:
    """Return the data set of a config, checked.

    A published data set must have the published counts (unless `exact` is off). A user's own images are all opened
    once, before any work is done. Warns of images that a recorded split leaves out.
    """
    reader, found = _read(config, download=False)
    for remark in found.remarks:
        warnings.warn(remark, stacklevel=2)
    reader.check(found, config)
    return found


def load_data(config: DataConfig) -> tuple[Images, Images]:
    """Return (training set, test set); raises InputError if the data are not there or not readable."""
    found = load_collection(config)
    return found.train, found.test


def _read(config: DataConfig, download: bool) -> tuple[Reader, Collection]:
    for reader in readers_for(config.source):
        if config.problem_of(reader) is None and (found := reader.read(config, download=download)) is not None:
            return reader, found
    raise InputError(f"no data at {config.source}")
