"""The tables `[data]` and `[stream]` of a config: where the images come from, and how they become experiences."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from continual.datasets.catalogue import catalogue
from continual.documents import Strict, is_path
from continual.errors import nearest

#: What a data set on the Hugging Face hub begins with, in `data.source`.
HUB = "hub:"


class DataConfig(Strict):
    """Where the images come from.

    `source` is the name of a published data set (`equimos data list`), "digits" (comes with scikit-learn),
    a path (an image folder, a CSV manifest, or parquet; with a slash or the file's suffix), "hub:OWNER/NAME",
    or "folder" with `train` and `test`.
    """

    source: str
    train: Path | None = Field(None, description="folder: a folder of class folders")
    test: Path | None = Field(None, description="folder: likewise, with the same classes")
    root: Path | None = Field(None, description="where a published data set lies; else $EQUIMOS_DATA/NAME")
    exact: bool = Field(True, description="refuse a published data set whose counts are not the published ones")
    domains: bool = Field(False, description="class folders lie in folders of domains: DOMAIN/CLASS")
    test_share: float = Field(0.2, gt=0, lt=1, description="of each class, where the source has no split")
    split_seed: int = Field(1993, description="which images those are")
    image_column: str | None = Field(None, description="parquet, hub: else the column of images")
    label_column: str = Field("label", description="parquet, hub")
    domain_column: str | None = Field(None, description="parquet, hub")

    @model_validator(mode="after")
    def _source_is_known(self) -> DataConfig:
        known = {*catalogue(), "digits", "folder"}
        if self.source not in known and not self.source.startswith(HUB) and not is_path(self.source):
            raise ValueError(
                f"unknown source {self.source!r} ({nearest(self.source, known)}); a path has a slash: './{self.source}'"
            )
        if self.source == "folder" and (self.train is None or self.test is None):
            raise ValueError("source = 'folder' needs both train and test")
        if self.source != "folder" and (self.train or self.test):
            raise ValueError(f"train and test go with source = 'folder', not {self.source!r}")
        if self.domains and self.source in {*catalogue(), "digits"}:
            raise ValueError(f"{self.source} has no domains: leave domains out")
        if self.root is not None and self.source not in catalogue():
            raise ValueError(f"root goes with a published data set, not {self.source!r}")
        return self


class StreamConfig(Strict):
    """How a data set becomes experiences of new classes (`classes`), or of new domains (`by = "domains"`)."""

    by: Literal["classes", "domains"] = Field("classes", description="what an experience brings")
    classes: int | list[int] | list[list[str]] | None = Field(
        None, description="classes an experience: one number, a number each, or their names; Inc in published names"
    )
    base: int | Literal["half"] | None = Field(
        None, description="classes of the first experience, where `classes` is one number; B in published names"
    )
    order: Literal["seed", "sorted"] | list[str] = Field(
        "seed", description="of classes, or of domains: the published permutation of the run's seed, or by name"
    )
    only: list[str] | None = Field(None, min_length=1, description="use only these classes; `order` is among them")
    max_classes: int | None = Field(None, ge=1, description="use only the first classes of the order")
    per_class: int | None = Field(None, ge=1, description="use only so many training images a class, of each domain")

    @model_validator(mode="after")
    def _keys_fit_together(self) -> StreamConfig:
        named = isinstance(self.classes, list) and bool(self.classes) and isinstance(self.classes[0], list)
        if self.by == "classes" and self.classes is None:
            raise ValueError("give classes, the number of classes an experience (or by = 'domains')")
        if self.by == "domains" and not (self.classes is None and self.base is None and self.max_classes is None):
            raise ValueError(
                "by = 'domains' takes all classes in every experience: leave classes, base, max_classes out"
            )
        if self.base is not None and not isinstance(self.classes, int):
            raise ValueError("base goes with one number of classes for all later experiences")
        if named and (self.order != "seed" or self.max_classes is not None or self.only is not None):
            raise ValueError("classes given by name are in order already: leave order, only and max_classes out")
        return self
