"""A benchmark run as a strict TOML document: every key is known, every problem is reported at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from continual.bench.data_config import DataConfig, StreamConfig
from continual.bench.documents import Strict, read, refusal
from continual.errors import InputError, nearest
from continual.methods import method
from continual.settings import Settings, make


class PretrainConfig(Strict):
    """Train the whole backbone on the first experience, for people without pretrained weights."""

    epochs: int = Field(30, ge=1)
    lr: float = Field(1e-3, gt=0, description="peak rate of AdamW")
    batch_size: int = Field(32, ge=1)
    turns: bool = Field(True, description="tell each class's quarter turns apart as well, for richer features")


class BackboneConfig(Strict):
    """Which frozen ViT."""

    name: str | None = Field(None, description="timm's name with the weights' tag; may be in the weights file")
    weights: Path | None = Field(None, description="a local weights file instead of the hub")
    args: dict[str, Any] = Field(default_factory=dict, description="timm model arguments: img_size, depth, ...")
    preprocessing: dict[str, Any] = Field(default_factory=dict, description="fields of Preprocessing to change")
    pretrain: PretrainConfig | None = None


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
        return make(method(self.method).settings_type, self.preset, **{**self.settings, **changes})


class RunConfig(Strict):
    """Everything that decides a run's results."""

    title: str
    data: DataConfig
    stream: StreamConfig
    backbone: BackboneConfig
    methods: dict[str, MethodConfig] = Field(min_length=1)
    seeds: list[int] = Field([1993], min_length=1, description="of class order and training; a column of cells each")
    device: str = Field("cpu", description="cpu, cuda, cuda:1 or mps")


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a config; `overrides` are `dotted.key=value` with values written as in TOML.

    A table `[settings]` holds settings for every method that has them. In `[methods.NAME]`, `method`
    (default NAME), `preset` and `variants` are reserved; the rest are the method's settings. A relative path
    is looked up beside the config, that of an override in the working folder. Raises InputError that names
    every problem.
    """
    path = Path(path)
    values = read(path, overrides, ("data.train", "data.test", "data.root", "backbone.weights"), ("data.source",))
    try:
        return RunConfig(**_resolved(values))
    except ValidationError as error:
        raise refusal(path, error, RunConfig) from None


def _resolved(values: dict[str, Any]) -> dict[str, Any]:
    """Spread shared settings over the methods."""
    values = dict(values)
    shared, found = values.pop("settings", {}), values.get("methods")
    if isinstance(found, dict) and isinstance(shared, dict):
        values["methods"] = _methods(found, shared)
    return values


def _methods(found: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    used: set[str] = set()
    resolved: dict[str, Any] = {}
    for label, table in found.items():
        if not isinstance(table, dict):
            raise InputError(f"methods.{label} must be a table: [methods.{label}]")
        own = dict(table)
        reserved = {k: own.pop(k) for k in ("method", "preset", "variants") if k in own}
        name = reserved.setdefault("method", label)
        known = method(name).settings_type.model_fields
        used |= shared.keys() & known.keys()
        resolved[label] = {**reserved, "settings": {**{k: v for k, v in shared.items() if k in known}, **own}}
    if unused := sorted(shared.keys() - used):
        fields = {k for table in resolved.values() for k in method(table["method"]).settings_type.model_fields}
        raise InputError("; ".join(f"unknown key 'settings.{k}': {nearest(k, fields)}" for k in unused))
    return resolved
