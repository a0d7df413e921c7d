"""How a backbone was made of another, as data: a strict schema of what headers of files say. Nothing runs from it.

A recipe is in the header of a backbone file, and in what model files say of their backbone. Both may be a stranger's.
Importing this loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from continual.errors import BackboneError

#: layers of which a recipe may speak: 256 blocks with 16 each
MOST_LAYERS = 4096

Number = StrictFloat | StrictInt
Sha256 = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
Layer = Annotated[StrictStr, Field(pattern=r"^blocks\.[0-9]{1,3}(\.[a-z0-9_]{1,32}){1,4}$")]
Rank = Annotated[StrictInt, Field(ge=1, le=65536)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class PreprocessingHeader(_Part):
    """How images are prepared: the fields of `Preprocessing`."""

    size: Annotated[list[Annotated[StrictInt, Field(ge=1, le=4096)]], Field(min_length=2, max_length=2)]
    mean: Annotated[list[Number], Field(min_length=1, max_length=1024)]
    std: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=1, max_length=1024)]
    interpolation: Literal["bicubic", "bilinear", "nearest", "nearest-exact", "lanczos", "hamming", "box"]
    crop_pct: Annotated[Number, Field(gt=0.05, le=4)]
    crop_scale: Annotated[list[Annotated[Number, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)]
    mirror: StrictBool
    augment: StrictBool = True

    @model_validator(mode="after")
    def _as_many_means_as_deviations(self) -> PreprocessingHeader:
        if len(self.mean) != len(self.std):
            raise ValueError(f"there are {len(self.mean)} means and {len(self.std)} standard deviations")
        return self


class Compressed(_Part):
    """Linear layers inside the blocks are products of two factors each."""

    kind: Literal["compressed"] = "compressed"
    parent: Sha256  #: of the weights it was made of
    ratio: Annotated[Number, Field(ge=1, le=65536)]  #: how many times fewer numbers were asked for
    #: of each layer by its name; one that is not named is as it was
    ranks: Annotated[dict[Layer, Rank], Field(max_length=MOST_LAYERS)]

    @property
    def words(self) -> str:
        """Say it in a few words."""
        return f"compressed {self.ratio:g} times from {self.parent[:8]}"


class Grown(_Part):
    """Wider or deeper than its parent; its shape is in the model's arguments."""

    kind: Literal["grown"] = "grown"
    parent: Sha256
    how: Literal["lossless", "duplicate", "mango"]

    @property
    def words(self) -> str:
        """Say it in a few words."""
        return f"grown ({self.how}) from {self.parent[:8]}"


Recipe = Annotated[Compressed | Grown, Discriminator("kind")]
_RECIPE: TypeAdapter[Compressed | Grown] = TypeAdapter(Recipe)
_PREPROCESSING = TypeAdapter(PreprocessingHeader)


def parsed(values: Any) -> Compressed | Grown | None:
    """Return the recipe of JSON values, None of None; raises BackboneError for what is none."""
    return None if values is None else _validated(_RECIPE, values, "recipe")


def in_header(recipe: Compressed | Grown | None, preprocessing: Mapping[str, Any]) -> dict[str, str]:
    """Return what the header of a backbone file says of these, beside its name and arguments."""
    said: dict[str, Any] = {"preprocessing": dict(preprocessing)}
    said |= {} if recipe is None else {"recipe": recipe.model_dump()}
    return {key: json.dumps(value) for key, value in said.items()}


def of_header(metadata: Mapping[str, Any]) -> tuple[Compressed | Grown | None, dict[str, Any]]:
    """Return the recipe, and the preprocessing without its size, of a weights file's metadata: none of most files.

    Raises BackboneError for what keeps no schema.
    """
    said = metadata.get("preprocessing")
    prepared = {} if said is None else _validated(_PREPROCESSING, said, "preprocessing").model_dump(exclude={"size"})
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in prepared.items()}
    return parsed(metadata.get("recipe")), plain


def _validated(adapter: TypeAdapter[Any], values: Any, what: str) -> Any:
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join([what, *(str(part) for part in first["loc"])])
        raise BackboneError(
            f"the backbone's {what} is damaged ({ascii(place)[1:-1][:120]}: {first['msg'].lower()}): restore a copy"
        ) from None
