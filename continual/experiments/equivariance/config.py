"""A study of untransformed and transformed images as a strict TOML document: data, a network, and rows of wrappers."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import getdoc, signature
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model, model_validator

from continual.datasets.config import DataConfig, data_places
from continual.documents import Strict, read, refusal
from continual.errors import nearest
from continual.experiments.config import BackboneConfig
from continual.options import assignments
from equivariant.tuning.recipes import RECIPES
from equivariant.wrappers import wrapper_named, wrappers

#: the name of no wrapper at all
PLAIN = "plain"


class ImagesConfig(DataConfig):
    """Where the images come from, and how many of them are used."""

    classes: int | None = Field(None, ge=2, description="use only the first classes by name")
    per_class: int | None = Field(None, ge=2, description="use only so many training images per class")
    test_per_class: int | None = Field(None, ge=1, description="test on only so many images per class")
    validation: float = Field(0.1, gt=0, lt=1, description="share of those that is held out")


class ModelConfig(BackboneConfig):
    """Which network, and what its last layer is."""

    name: str | None = Field(None, description="timm's full tag, torchvision/NAME.WEIGHTS or clip/NAME.WEIGHTS")
    size: int | None = Field(None, ge=1, description="side of the input, for networks that take any")
    head: Literal["own", "fit"] = Field(
        "own", description="its own last layer (CLIP: the prompts), or one that is fitted"
    )
    templates: list[str] = Field(["a photo of a {}."], min_length=1, description="CLIP: prompts; {} is the class")
    class_names: dict[str, str] = Field(default_factory=dict, description="CLIP: class -> its words in prompts")

    @model_validator(mode="after")
    def _weights_and_preprocessing_are_known(self) -> ModelConfig:
        if self.name is None and self.weights is None:
            raise ValueError("name a network (name), or give a weights file that names it (weights)")
        if self.pretrain is not None and (self.weights is not None or self.head == "own"):
            raise ValueError("pretrain makes the weights: it needs head = 'fit' and no weights file")
        if wrong := [template for template in self.templates if "{}" not in template]:
            raise ValueError(f"template {wrong[0]!r} has no {{}} where the class goes")
        return self


def options_type(wrapper: str) -> type[Strict]:
    """Return what a wrapper takes beside a chunk, as its `around` declares it; raises InputError for an unknown one."""
    if wrapper == PLAIN:
        return Strict
    around = wrapper_named(wrapper).around
    kinds = get_type_hints(around, include_extras=True)
    fields: dict[str, Any] = {}
    for option in signature(around).parameters.values():
        if option.kind is option.KEYWORD_ONLY:
            kind = kinds[option.name]
            meaning = next((text for text in getattr(kind, "__metadata__", ()) if isinstance(text, str)), None)
            default = ... if option.default is option.empty else option.default
            fields[option.name] = (kind, Field(default, description=meaning))
    return create_model(f"options of {wrapper}", __base__=Strict, **fields)


def wrapper_names() -> list[str]:
    """Return what a wrapper can be, by name."""
    return [PLAIN, *wrappers()]


def described() -> list[tuple[str, str, str | None]]:
    """Return each wrapper's name, what it is in a line, and its options with their defaults."""
    rows: list[tuple[str, str, str | None]] = [(PLAIN, "The network as it is.", None)]
    for name, kind in wrappers().items():
        fields = options_type(name).model_fields
        options = [f"{key}={field.default}: {field.description}" for key, field in fields.items()]
        rows.append((name, (getdoc(kind) or "").partition("\n")[0], "; ".join(options) or None))
    return rows


class WrapperConfig(Strict):
    """One way to make the network equivariant; the options are those that the wrapper declares."""

    model_config = ConfigDict(extra="allow")

    wrapper: str = Field(description="its name; `equimos equivariance wrappers` lists them")
    chunk: int | None = Field(None, ge=1, description="views that go through the network at once; all by default")

    @property
    def options(self) -> dict[str, Any]:
        """The wrapper's own options, with their defaults."""
        return options_type(self.wrapper).model_validate(self.model_extra).model_dump()

    @classmethod
    def known_keys(cls) -> Iterable[str]:
        """Return the fields, and the options of all wrappers."""
        return {*cls.model_fields, *(option for name in wrappers() for option in options_type(name).model_fields)}

    @model_validator(mode="after")
    def _options_fit(self) -> WrapperConfig:
        if self.wrapper not in wrapper_names():
            raise ValueError(f"unknown wrapper {self.wrapper!r}: {nearest(self.wrapper, wrapper_names())}")
        own = options_type(self.wrapper)
        for strange in sorted((self.model_extra or {}).keys() - own.model_fields.keys()):
            owners = [name for name in wrappers() if strange in options_type(name).model_fields]
            if owners:
                whose = " and ".join(map(repr, owners))
                raise ValueError(f"{strange} is an option of {whose}, not of {self.wrapper!r}")
        own.model_validate(self.model_extra)
        return self


class RowConfig(WrapperConfig):
    """One row of the results: a wrapper, and how it is tuned."""

    recipe: str | None = Field(None, description="a table of [recipes], or a built-in one; none: zero-shot")
    head_views: Literal["all", "one"] | None = Field(
        None, description="a fitted head is one for all views of images, or for images as they are (default of plain)"
    )


class StageConfig(Strict):
    """Train one part of the model; see `equivariant.Stage`."""

    train: Literal["upright", "weights", "fit_head", "head", "everything"]
    steps: int = Field(1000, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, description="of SGD")
    weight_decay: float = Field(0.0, ge=0)


class RecipeConfig(Strict):
    """Stages one after another; see `equivariant.Recipe`."""

    stages: list[StageConfig] = Field(min_length=1)
    batch_size: int = Field(64, ge=1)
    validate_every: int = Field(50, ge=1)
    patience: int = Field(8, ge=1)
    turn: bool = True
    cache: bool = True
    batch_statistics: bool = False


class StudyConfig(Strict):
    """Everything that decides a study's results."""

    title: str
    group: str = Field("C4", description="C4, D4, mirror_h, C8, ...")
    data: ImagesConfig
    model: ModelConfig
    rows: dict[str, RowConfig] = Field(min_length=1)
    recipes: dict[str, RecipeConfig] = Field(default_factory=dict)
    seeds: list[int] = Field([0], min_length=1, description="of the split, the head and tuning")
    batch_size: int = Field(64, ge=1, description="images at once when testing")
    device: str = Field("cpu", description="cpu, cuda, cuda:1 or mps")

    @model_validator(mode="after")
    def _recipes_are_there(self) -> StudyConfig:
        known = (*self.recipes, *RECIPES)
        for label, row in self.rows.items():
            if row.recipe is not None and row.recipe not in known:
                raise ValueError(f"rows.{label}.recipe = {row.recipe!r} is unknown: {nearest(row.recipe, known)}")
        return self


def parse_wrapper(text: str) -> WrapperConfig:
    """Read a wrapper and its options from the command line; raises InputError for one that cannot be.

    >>> parse_wrapper("equizero,proxy=similarity").options
    {'proxy': 'similarity'}
    """
    name, *pairs = text.split(",")
    try:
        return WrapperConfig(wrapper=name.strip(), **assignments("--wrapper", pairs))
    except ValidationError as error:
        raise refusal(Path(f"--wrapper {text}"), error, WrapperConfig) from None


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """Read a study; `overrides` are `dotted.key=value` with values written as in TOML.

    In `[rows.NAME]`, `wrapper` is NAME by default. A relative path is looked up beside the config, that of an
    override in the working folder. Raises InputError that names every problem.
    """
    path = Path(path)
    values = read(path, overrides, (*data_places(), "model.weights"), ("data.source",))
    rows = values.get("rows")
    if isinstance(rows, dict):
        values["rows"] = {n: {"wrapper": n, **row} if isinstance(row, dict) else row for n, row in rows.items()}
    try:
        return StudyConfig(**values)
    except ValidationError as error:
        raise refusal(path, error, StudyConfig) from None
