"""Every number a method depends on, typed and checked; unknown names are refused."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from continual.errors import InputError, nearest

T = TypeVar("T", bound=BaseModel)


class Settings(BaseModel):
    """What every method has."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: named sets of values, see `make`
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    #: what a model that exists may be given anew: how it answers, and how it trains, on the machine that is there
    at_inference: ClassVar[frozenset[str]] = frozenset({"eval_batch_size", "precision"})
    at_training: ClassVar[frozenset[str]] = frozenset()

    seed: int = Field(1993, description="decides every random number")
    eval_batch_size: int = Field(128, ge=1, description="images a forward pass, outside training")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast of the backbone")

    group: str | None = Field(None, description="turns and mirrors that shall not change an answer: C4, D4, mirror_h")
    symmetry: str = Field("frame", description="with a group: what is made of an image's views")
    views: int = Field(3, ge=1, description="how many views of an image frame and pruned_orbit look at")
    turned_training: bool = Field(True, description="with a group: train on randomly moved images")
    orbit_statistics: bool = Field(
        True, description="with a group: remember single views, all of each image, instead of their mean"
    )

    @field_validator("group")
    @classmethod
    def _known_group(cls, name: str | None) -> str | None:
        from continual.symmetry.views import group_named

        try:
            return name and group_named(name).name
        except InputError as error:
            raise ValueError(str(error)) from error

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, name: str) -> str:
        from continual.symmetry import KINDS

        try:
            return KINDS.get(name).name
        except InputError as error:
            raise ValueError(str(error)) from error


class TrainingSettings(Settings):
    """What every method that trains something and a linear head has: by default, SGD with a cosine schedule."""

    at_training = frozenset({"batch_size"})

    epochs: int = Field(20, ge=0, description="passes over an experience")
    batch_size: int = Field(48, ge=1)
    lr: float = Field(0.01, gt=0, description="peak rate")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)


class AdapterSettings(TrainingSettings):
    """What every method that trains adapters and a linear head has."""

    at_training = TrainingSettings.at_training | {"checkpoint_activations", "compile"}

    lr: float = Field(0.03, gt=0, description="peak rate of the adapters")
    head_lr_ratio: float = Field(0.1, gt=0, description="the head's rate as a share of lr")
    bottleneck: int = Field(16, ge=1, description="r, the width of an adapter")
    adapter_scale: float = Field(0.1, description="s, the factor of an adapter's output")
    adapter_dropout: float = Field(0.1, ge=0, lt=1)
    checkpoint_activations: bool = Field(
        False, description="in training, keep only the tokens between blocks' halves: less memory, more time, same bits"
    )
    compile: Literal["inductor", "aot_eager", "eager"] | None = Field(
        None, description="backend of torch.compile for the blocks in training; inductor is the fast one"
    )


def make(kind: type[T], preset: str | None = None, **values: Any) -> T:
    """Build settings from a preset and single values, which come before it.

    Raises InputError that lists every problem, with the nearest allowed name for an unknown one.
    """
    presets: dict[str, dict[str, Any]] = getattr(kind, "presets", {})
    if preset is not None and preset not in presets:
        raise InputError(f"unknown preset {preset!r}: {nearest(preset, presets) if presets else 'there are none'}")
    try:
        return kind(**{**presets.get(preset or "", {}), **values})
    except ValidationError as error:
        raise InputError("; ".join(explain(error, kind))) from None


def explain(error: ValidationError, kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Say each problem of a validation error in one line."""
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {prefix + place!r}: {nearest(place, kind.model_fields)}")
        else:
            lines.append(f"{prefix}{place}: {problem['msg']} (got {problem['input']!r})")
    return lines
