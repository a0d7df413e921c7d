"""A benchmark run as a strict TOML document: every key is known, every problem is reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from continual.avalanche.external import find_method
from continual.data.preprocessing import Preprocessing
from continual.datasets.config import DataConfig, StreamConfig, data_places
from continual.documents import Strict, is_code_file, not_finite, read, refusal
from continual.errors import InputError, nearest
from continual.experiments.grids import rows
from continual.learning.settings import Settings, make
from continual.methods import with_preset
from continual.registry import points_to_code
from continual.symmetry.views import group_named


class PretrainConfig(Strict):
    """Train the whole backbone on the first experience, for people without pretrained weights."""

    epochs: int = Field(30, ge=1)
    lr: float = Field(1e-3, gt=0, description="peak rate of AdamW")
    batch_size: int = Field(32, ge=1)
    turns: bool = Field(True, description="train to tell each class's quarter turns apart as well, for richer features")


class BackboneConfig(Strict):
    """Which network: a frozen ViT."""

    name: str | None = Field(None, description="timm's name with the weights' tag; may be in the weights file")
    weights: Path | None = Field(None, description="a local weights file instead of the hub")
    args: dict[str, Any] = Field(default_factory=dict, description="timm model arguments: img_size, depth, ...")
    preprocessing: dict[str, Any] = Field(default_factory=dict, description="fields of Preprocessing to change")
    pretrain: PretrainConfig | None = None

    @model_validator(mode="after")
    def _weights_and_preprocessing_are_known(self) -> BackboneConfig:
        allowed = Preprocessing.changeable()
        problems = [f"unknown preprocessing {k!r}: {nearest(k, allowed)}" for k in self.preprocessing.keys() - allowed]
        if self.name is None and (self.pretrain is not None or self.weights is None):
            problems.append("give name, e.g. 'vit_base_patch16_224.augreg_in21k'")
        if problems:
            raise ValueError("; ".join(sorted(problems)))
        return self


class MethodConfig(Strict):
    """One row of the results: a method, its settings, and other ways to evaluate the same training."""

    method: str
    preset: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="name -> settings of inference changed for one more row"
    )

    @model_validator(mode="after")
    def _settings_fit_the_method(self) -> MethodConfig:
        for variant in ({}, *self.variants.values()):
            self.make_settings(**variant)
        return self

    def make_settings(self, **changes: Any) -> Settings:
        """Return the method's settings, with changes."""
        return make(find_method(self.method).settings_type, self.preset, **{**self.settings, **changes})


class RunConfig(Strict):
    """Everything that decides a run's results."""

    title: str
    data: DataConfig
    stream: StreamConfig
    backbone: BackboneConfig | None = None
    backbones: list[BackboneConfig] = Field(
        [], max_length=16, description="several in place of one, whose features are read side by side: names, or tables"
    )
    methods: dict[str, MethodConfig] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        [1993], min_length=1, description="of class order and training; a cell of every method for each"
    )
    device: str = Field("cpu", description="cpu, cuda, cuda:1 or mps")
    transformed: list[str] = Field(
        [], description="groups (C4, D4, …): test images transformed by random elements of each are answered as well"
    )
    train_transformed: str | None = Field(
        None, description="a group: each training image is transformed by an element drawn for it"
    )

    @model_validator(mode="before")
    @classmethod
    def _names_of_before(cls, values: Any) -> Any:
        return current_keys(values) if isinstance(values, dict) else values

    @field_validator("backbones", mode="before")
    @classmethod
    def _names_alone(cls, found: Any) -> Any:
        return [{"name": one} if isinstance(one, str) else one for one in found] if isinstance(found, list) else found

    @model_validator(mode="after")
    def _one_backbone_or_several(self) -> RunConfig:
        if (self.backbone is None) != bool(self.backbones):
            raise ValueError("give one [backbone], or backbones = [...] for several, and not both")
        if any(one.pretrain for one in self.backbones):
            raise ValueError("backbones: pretrain goes with a single [backbone]")
        return self

    @model_validator(mode="after")
    def _images_have_the_backbones_channels(self) -> RunConfig:
        for number in {own.args["in_chans"] for own in self.networks if isinstance(own.args.get("in_chans"), int)}:
            object.__setattr__(self, "data", self.data.for_channels(number))
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        left_out = "backbone" if self.backbones else "backbones"
        return {key: value for key, value in values(self).items() if key != left_out}

    @property
    def networks(self) -> list[BackboneConfig]:
        """The one backbone, or all that are read side by side."""
        return [self.backbone] if self.backbone else self.backbones

    @property
    def pretrain(self) -> PretrainConfig | None:
        """How the backbone is trained first, if it is."""
        return self.backbone.pretrain if self.backbone else None

    @field_validator("transformed", "train_transformed")
    @classmethod
    def _groups_are_known(cls, found: list[str] | str | None) -> list[str] | str | None:
        for name in [found] if isinstance(found, str) else found or []:
            group_named(name)
        return found

    @model_validator(mode="after")
    def _seeds_differ(self) -> RunConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} name one twice: give each once")
        return self


def networks_of(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the values of a run's config say of its backbones."""
    return config.get("backbones") or [config.get("backbone") or {}]


def current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's tables and keys under the names that they have today."""
    renamed = {"turned": "transformed", "train_turned": "train_transformed"}
    return {renamed.get(key, key): value for key, value in values.items()}


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a config of one run; see `load_runs`. Raises InputError that names every problem."""
    runs = load_runs(path, overrides)
    if len(runs) > 1 or "" not in runs:
        raise InputError(f"{path} is a sweep of {', '.join(runs)}: a config of one run is needed here")
    return runs[""]


def load_runs(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, RunConfig]:
    """Read a config; `overrides` are `dotted.key=value` with values written as in TOML.

    A table `[settings]` holds settings for every method that has them. In `[methods.NAME]`, `method` (default NAME),
    `preset` and `variants` are reserved; the rest are the method's settings. `method` is a name, or the place of a
    class: `own_file.py:MyLearner` or `package.module:MyLearner`. A setting `lr = { grid = [0.001, 0.01] }` makes a row
    for each value, `NAME lr=0.001` and so on; several grids make all combinations. A relative path is looked up beside
    the config, an override's in the working folder.

    Tables `[sweep.NAME]` make a run each: their keys change those of the file, and overrides change both, or with
    `sweep.NAME.` before the key one run only.
    Returns the runs by NAME, or one named "". Raises InputError that names every problem.
    """
    path, overrides = Path(path), list(overrides)
    sweep = read(path).get("sweep")
    if sweep is None:
        return {"": _load(path, overrides, None)}
    if not isinstance(sweep, dict) or not sweep or not all(isinstance(table, dict) for table in sweep.values()):
        raise InputError(f"{path}: sweep must hold tables, one a run: [sweep.NAME]")
    if bad := [name for name in sweep if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII)]:
        raise InputError(f"{path}: sweep.{bad[0]!r} names a folder: use letters, digits, '-', '_' and '.'")
    runs, problems = {}, []
    places = tuple(f"sweep.{name}." for name in sweep)
    shared = [override for override in overrides if not override.startswith(places)]
    for name, place in zip(sweep, places, strict=True):
        try:
            own = [override.removeprefix(place) for override in overrides if override.startswith(place)]
            runs[name] = _load(path, [*shared, *own], name)
        except InputError as error:
            problems.append(f"sweep.{name}: {error}")
    if problems:
        raise InputError("; ".join(problems))
    return runs


def _load(path: Path, overrides: list[str], part: str | None) -> RunConfig:
    places = (*data_places(), "backbone.weights", "backbones.weights")
    values = read(path, overrides, places, ("data.source",), part)
    problems = not_finite(values)
    shared, methods = values.pop("settings", {}), values.get("methods")
    if not isinstance(shared, dict):
        problems.append("settings must be a table: [settings]")
    elif isinstance(methods, dict):
        values["methods"] = _methods(methods, shared, problems)
    try:
        config = RunConfig(**values)
    except ValidationError as error:
        raise refusal(path, error, RunConfig, problems) from None
    if problems:
        raise InputError(f"{path}: " + "; ".join(problems))
    return config


def _methods(found: dict[str, Any], shared: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Spread shared settings over the methods."""
    resolved: dict[str, Any] = {}
    before = len(problems)
    allowed: set[str] = set()
    for label, table in found.items():
        if not isinstance(table, dict):
            problems.append(f"methods.{label} must be a table: [methods.{label}]")
            continue
        own = dict(table)
        reserved = {k: own.pop(k) for k in ("method", "preset", "variants") if k in own}
        try:
            named, preset = str(reserved.get("method", label)), reserved.get("preset")
            if is_code_file(named):
                named = str(Path(named).resolve())  # an override's is found from anywhere, too
            elif not points_to_code(named):
                named, preset = with_preset(named, preset)
            known = find_method(named).settings_type.model_fields
        except InputError as error:
            problems.append(f"methods.{label}: {error}")
            continue
        allowed |= known.keys()
        settings = {**{k: v for k, v in shared.items() if k in known}, **own}
        try:
            for row, point in rows(label, settings):
                if row in resolved or (row != label and row in found):
                    problems.append(f"two rows are called {row!r}: name one otherwise")
                resolved[row] = {**reserved, "method": named, "preset": preset, "settings": point}
        except InputError as error:
            problems.append(str(error))
    if len(problems) == before:
        problems += [f"unknown key 'settings.{k}': {nearest(k, allowed)}" for k in sorted(shared.keys() - allowed)]
    return resolved or found
