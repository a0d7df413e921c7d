"""A study of upright and turned images as a strict TOML document: data, a network, and rows of wrappers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from continual.datasets.config import DataConfig
from continual.documents import Strict, read, refusal
from continual.errors import nearest
from continual.experiments.config import PretrainConfig

#: wrapper -> the options it has beside `chunk`
WRAPPERS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "equitune": (),
    "lambda": ("positive",),
    "equizero": ("proxy",),
    "canonicaliser": (),
    "max": (),
    "pruned": ("blocks", "keep"),
}
BUILT_IN = (
    "lambda_only",
    "lambda_then_everything",
    "head_only",
    "published_lambda_only",
    "published_lambda_then_everything",
)


class ImagesConfig(DataConfig):
    """Where the images come from, and how many of them are used."""

    classes: int | None = Field(None, ge=2, description="use only the first classes by name")
    per_class: int | None = Field(None, ge=2, description="use only so many training images a class")
    test_per_class: int | None = Field(None, ge=1, description="test on only so many images a class")
    validation: float = Field(0.1, gt=0, lt=1, description="share of those that is held out")


class ModelConfig(Strict):
    """Which network, and what its last layer is."""

    name: str | None = Field(None, description="timm's full tag, torchvision/NAME.WEIGHTS or clip/NAME.WEIGHTS")
    weights: Path | None = Field(None, description="a local weights file instead of a download")
    args: dict[str, Any] = Field(default_factory=dict, description="arguments of the model: img_size, depth, ...")
    preprocessing: dict[str, Any] = Field(default_factory=dict, description="fields of Preprocessing to change")
    size: int | None = Field(None, ge=1, description="side of the input, for networks that take any")
    head: Literal["own", "fit"] = Field(
        "own", description="the network's own last layer (CLIP: the prompts), or one fitted to upright images"
    )
    templates: list[str] = Field(["a photo of a {}."], min_length=1, description="CLIP: prompts; {} is the class")
    class_names: dict[str, str] = Field(default_factory=dict, description="CLIP: class -> its words in prompts")
    pretrain: PretrainConfig | None = Field(None, description="train a timm ViT in full on the training images first")

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.name is None and self.weights is None:
            raise ValueError("name a network (name), or give a weights file that names it (weights)")
        if self.pretrain is not None and (self.weights is not None or self.head == "own"):
            raise ValueError("pretrain makes the weights: it needs head = 'fit' and no weights file")
        if wrong := [template for template in self.templates if "{}" not in template]:
            raise ValueError(f"template {wrong[0]!r} has no {{}} where the class goes")
        return self


class WrapperConfig(Strict):
    """One way to make the network equivariant."""

    wrapper: str = Field(description=", ".join(WRAPPERS))
    proxy: Literal["entropy", "max_probability", "similarity"] = Field(
        "entropy", description="equizero: the loss by which a view is chosen; similarity is to the head's rows"
    )
    positive: Literal["exp", "softplus"] = Field("exp", description="lambda: how the weights become positive")
    blocks: int = Field(2, ge=1, description="pruned: blocks that every view goes through")
    keep: int = Field(1, ge=1, description="pruned: views that are finished")
    chunk: int | None = Field(None, ge=1, description="views that go through the network at once; all by default")

    @model_validator(mode="after")
    def _options_fit(self) -> WrapperConfig:
        if self.wrapper not in WRAPPERS:
            raise ValueError(f"unknown wrapper {self.wrapper!r}: {nearest(self.wrapper, WRAPPERS)}")
        options = {option for kind in WRAPPERS.values() for option in kind}
        if strange := sorted((self.model_fields_set & options) - set(WRAPPERS[self.wrapper])):
            owner = next(kind for kind, own in WRAPPERS.items() if strange[0] in own)
            raise ValueError(f"{strange[0]} is an option of {owner!r}, not of {self.wrapper!r}")
        return self


class RowConfig(WrapperConfig):
    """One row of the results: a wrapper, and how it is tuned."""

    recipe: str | None = Field(None, description="a table of [recipes], or a built-in one; none: zero-shot")


class StageConfig(Strict):
    """Train one part of the model; see `equivariant.Stage`."""

    train: Literal["weights", "head", "everything"]
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
        known = (*self.recipes, *BUILT_IN)
        for label, row in self.rows.items():
            if row.recipe is not None and row.recipe not in known:
                raise ValueError(f"rows.{label}.recipe = {row.recipe!r} is unknown: {nearest(row.recipe, known)}")
        return self


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """Read a study; `overrides` are `dotted.key=value` with values written as in TOML.

    In `[rows.NAME]`, `wrapper` is NAME by default. A relative path is looked up beside the config, that of an
    override in the working folder. Raises InputError that names every problem.
    """
    path = Path(path)
    values = read(path, overrides, ("data.train", "data.test", "data.root", "model.weights"), ("data.source",))
    rows = values.get("rows")
    if isinstance(rows, dict):
        values["rows"] = {n: {"wrapper": n, **row} if isinstance(row, dict) else row for n, row in rows.items()}
    try:
        return StudyConfig(**values)
    except ValidationError as error:
        raise refusal(path, error, StudyConfig) from None
