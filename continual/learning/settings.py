"""Every number a method depends on, typed and checked; unknown names are refused."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from continual import losses, symmetry
from continual.adapters import KINDS
from continual.adapters.base import AdapterKind
from continual.adapters.base import make as adapter_kind
from continual.errors import InputError, nearest
from continual.losses.base import LossTerm
from continual.registry import Registry

T = TypeVar("T", bound=BaseModel)


class Settings(BaseModel):
    """What every method has."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: named sets of values, see `make`
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    #: what may change in a model that exists: how it answers, and how it trains, on the machine that is there
    at_inference: ClassVar[frozenset[str]] = frozenset({"eval_batch_size", "precision"})
    at_training: ClassVar[frozenset[str]] = frozenset()
    #: what decides features besides weights: a variant that changes one shares no `FeatureCache`
    of_features: ClassVar[frozenset[str]] = frozenset({"precision", "group", "symmetry", "views"})
    #: fields that name a thing of a registry; the user's own may be given as `file.py:Name`, see `make`
    named: ClassVar[Mapping[str, Registry]] = {"symmetry": symmetry.KINDS}
    #: what files say nothing of that were written before there was a setting, where that is not its default
    before: ClassVar[Mapping[str, Any]] = {}
    #: older names, which are still understood
    renamed: ClassVar[Mapping[str, str]] = {"turned_training": "transformed_training"}

    seed: int = Field(1993, description="decides every random number")
    eval_batch_size: int = Field(128, ge=1, description="images per forward pass, outside training")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast of the backbone")

    group: str | None = Field(
        None, description="rotations and mirrors that change no answer: C4, D4, mirror_h; auto: D4 if images have no up"
    )
    symmetry: str = Field("frame", description="with a group: what is made of an image's views")
    views: int = Field(3, ge=1, description="how many views of an image frame and pruned_orbit look at")
    transformed_training: bool = Field(True, description="with a group: train on randomly transformed images")
    orbit_statistics: bool = Field(True, description="with a group: remember every single view, instead of their mean")

    @model_validator(mode="before")
    @classmethod
    def _names_of_before(cls, values: Any) -> Any:
        return current_names(cls, values, warn=True) if isinstance(values, dict) else values

    @field_validator("group")
    @classmethod
    def _known_group(cls, name: str | None) -> str | None:
        from continual.symmetry.choice import AUTO
        from continual.symmetry.views import group_named

        return name if name in (None, AUTO) else group_named(name).name

    @model_validator(mode="after")
    def _known_names(self) -> Settings:
        for field, registry in self.named.items():
            if (name := getattr(self, field)) is not None:
                registry.get(name)
        return self


class TrainingSettings(Settings):
    """What every method that trains something and a linear head has: by default, SGD with a cosine schedule."""

    at_training = frozenset({"batch_size"})

    epochs: int = Field(20, ge=0, description="passes over an experience")
    batch_size: int = Field(48, ge=1)
    lr: float = Field(0.01, gt=0, description="peak rate")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    losses: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="further terms of the loss by name, each with its weight and settings; see `equimos list losses`",
    )

    @model_validator(mode="after")
    def _known_losses(self) -> TrainingSettings:
        self.loss_terms()
        return self

    def loss_terms(self) -> list[LossTerm]:
        """Return the further terms of the loss, newly made."""
        try:
            return [losses.TERMS.get(name)(**values) for name, values in self.losses.items()]
        except ValueError as error:
            raise ValueError(f"losses: {error}") from error


class AdapterSettings(TrainingSettings):
    """What every method that trains adapters and a linear head has."""

    at_training = TrainingSettings.at_training | {"checkpoint_activations", "compile"}
    named: ClassVar[Mapping[str, Registry]] = {**Settings.named, "adapter": KINDS}

    lr: float = Field(0.03, gt=0, description="peak rate of the adapters")
    head_lr_ratio: float = Field(0.1, gt=0, description="the head's rate as a share of lr")
    adapter: str = Field("bottleneck", description="kind of adapter; see `equimos list adapters`")
    adapter_args: dict[str, Any] = Field(default_factory=dict, description="settings of that kind alone")
    bottleneck: int = Field(16, ge=1, description="r, the width of a bottleneck adapter")
    adapter_scale: float = Field(0.1, description="s, the factor of an adapter's output")
    adapter_dropout: float = Field(0.1, ge=0, lt=1)
    checkpoint_activations: bool = Field(
        False, description="in training, keep only the tokens between blocks' halves: less memory, more time, same bits"
    )
    compile: Literal["inductor", "aot_eager", "eager"] | None = Field(
        None, description="backend of torch.compile for the blocks in training; inductor is the fast one"
    )

    @model_validator(mode="after")
    def _known_adapter(self) -> AdapterSettings:
        try:
            _ = self.adapter_kind
        except ValidationError as error:
            raise ValueError("; ".join(explain(error, KINDS.get(self.adapter), "adapter_args."))) from error
        return self

    @cached_property
    def adapter_kind(self) -> AdapterKind:
        """The kind of adapter with its settings."""
        shared = {name: getattr(self, name) for name in type(self).model_fields}
        return adapter_kind(self.adapter, self.adapter_args, shared)


def check_adapters(frozen: Any, settings: Settings, learned: Settings | None = None) -> None:
    """Raise InputError for a kind of adapter that does not fit a backbone, or what was `learned` under others."""
    kind = getattr(settings, "adapter_kind", None)
    if kind is None or not frozen.has_blocks or not getattr(settings, "epochs", 0):
        return
    kind.check(frozen.shapes)
    then = getattr(learned, "adapter_kind", kind)
    same = type(kind) is type(then) and kind.places == then.places
    if not same or kind.numbers(frozen.shapes) != then.numbers(frozen.shapes):
        raise InputError(
            f"this model's adapters are {then!r}, and one model has one kind: learn a new one for {kind!r}"
        )


def make(kind: type[T], preset: str | None = None, /, **values: Any) -> T:
    """Build settings from a preset and single values, which come before it.

    Where a setting names a thing of a registry, `file.py:Name` and `package.module:Name` import the user's own. Raises
    InputError that lists every problem, with the nearest allowed name for an unknown one.
    """
    presets: dict[str, dict[str, Any]] = getattr(kind, "presets", {})
    if preset is not None and preset not in presets:
        raise InputError(f"unknown preset {preset!r}: {nearest(preset, presets) if presets else 'there are none'}")
    return restored(kind, with_own_code(kind, {**presets.get(preset or "", {}), **values}))


def restored(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build settings from values as a model file has them: nothing is imported for them.

    Raises InputError as `make` does.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise InputError("; ".join(explain(error, kind))) from None


def with_own_code(kind: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values in which the user's own things are named, after their code was imported."""
    registries: Mapping[str, Registry] = getattr(kind, "named", {})
    found = dict(values)
    for field in registries.keys() & found.keys():
        if isinstance(found[field], str):
            found[field] = registries[field].resolve(found[field])
    if isinstance(found.get("losses"), dict) and "losses" in kind.model_fields:
        found["losses"] = {losses.TERMS.resolve(name): own for name, own in found["losses"].items()}
    return found


def current_names(kind: type[Settings], values: Mapping[str, Any], *, warn: bool) -> dict[str, Any]:
    """Return values under the names that settings have today."""
    old = [name for name in values if name in kind.renamed and name not in kind.model_fields]
    if old and warn:
        said = ", ".join(f"{name} is now {kind.renamed[name]}" for name in old)
        warnings.warn(f"settings were renamed: {said}", DeprecationWarning, stacklevel=2)
    return {kind.renamed[name] if name in old else name: value for name, value in values.items()}


def explain(error: ValidationError, kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Say each problem of a validation error in one line."""
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {prefix + place!r}: {nearest(place, kind.model_fields)}")
        elif place:
            lines.append(f"{prefix}{place}: {problem['msg']} (got {problem['input']!r})")
        else:
            lines.append(problem["msg"].removeprefix("Value error, "))
    return lines


def documented(learner: Any) -> None:
    """Give a learner's class a signature with its settings by name, and list them in its docstring, own ones first."""
    settings = learner.settings_type
    keyword = inspect.Parameter.KEYWORD_ONLY
    named = [
        inspect.Parameter(name, keyword, default=default_of(field), annotation=field.annotation)
        for name, field in ordered(settings).items()
    ]
    given = [p for p in inspect.signature(learner.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD][1:]
    learner.__signature__ = inspect.Signature([*given, *named])
    if learner.__doc__ and "Settings:" not in learner.__doc__ and "__doc__" in vars(learner):
        lines = "".join(f"    {setting_line(name, field)}\n" for name, field in ordered(settings).items())
        learner.__doc__ = f"{inspect.cleandoc(learner.__doc__)}\n\nSettings:\n{lines}"


def own_fields(settings: Any) -> dict[str, FieldInfo]:
    """Return the settings that a method's class defines itself, or gives another default."""
    own = vars(settings).get("__annotations__", {})
    return {name: field for name, field in settings.model_fields.items() if name in own}


def default_of(field: FieldInfo) -> Any:
    """Return a setting's default value."""
    return field.get_default(call_default_factory=True)


def ordered(settings: Any) -> dict[str, FieldInfo]:
    """Return all settings, a method's own first."""
    return own_fields(settings) | settings.model_fields


def setting_line(name: str, field: FieldInfo) -> str:
    """Return a setting's name, default and meaning."""
    return f"{name} = {default_of(field)!r}" + (f": {field.description}" if field.description else "")
