"""The one schema of a model file's header, of every format version: what is not so is refused before it is used.

A model file may be a stranger's. Names, numbers and counts are bounded here, and compared with the tensors, before
anything is allocated for them or shown. Importing this loads no torch.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    ValidationError,
    model_validator,
)

from continual.backbones.recipes import Number, PreprocessingHeader, Recipe, Sha256
from continual.documents import not_finite
from continual.errors import InputError, ModelFileError
from continual.files import StoredTensor

#: numbers of these types are read; others (8-bit floats, complex ones) are nothing that a learner keeps
DTYPES = frozenset({"BOOL", "U8", "I8", "I16", "I32", "I64", "BF16", "F16", "F32", "F64"})
#: the longest name of a class, in characters
LONGEST_NAME = 1000
#: experiences that a model may have had
MOST_EXPERIENCES = 10**5


def _name(value: str) -> str:
    """Return a name of a class; raises ValueError for one that cannot be shown or written."""
    if not value or len(value) > LONGEST_NAME:
        raise ValueError(f"a name has 1 to {LONGEST_NAME} characters, this one {len(value)}")
    if bad := next((c for c in value if unicodedata.category(c) in ("Cc", "Cs")), None):
        raise ValueError(f"the name {ascii(value)[:80]} holds the control character {bad!a}")
    return value


def _texts(value: Any) -> Any:
    """Return JSON values whose every text can be written, and whose every number is finite; else raises ValueError."""
    if problems := not_finite(value):
        raise ValueError(problems[0])
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError is a ValueError: half a surrogate pair is no text
    for inner in (
        [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _texts(inner)
    return value


Name = Annotated[StrictStr, AfterValidator(_name)]
Text = Annotated[StrictStr, Field(max_length=10_000), AfterValidator(_texts)]
Plain = Annotated[dict[str, Any], AfterValidator(_texts)]
Names = list[Name] | list[Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class BackboneHeader(_Part):
    """Which network it was made with; what its arguments may be, `continual.backbones.arguments` says."""

    name: Annotated[StrictStr, Field(max_length=300, pattern=r"^[\w\-]+(\.[\w\-.]+)?$")]
    model_args: Plain
    weights_file: Text | None
    weights_fit: Text | None = None
    sha256: Sha256
    preprocessing: PreprocessingHeader
    recipe: Recipe | None = None


class JoinedHeader(_Part):
    """Several backbones side by side, each with its own preprocessing and hash."""

    name: Text
    sha256: Sha256
    parts: Annotated[list[BackboneHeader], Field(min_length=2, max_length=16)]

    @model_validator(mode="after")
    def _is_named_by_its_parts(self) -> JoinedHeader:
        if self.name != " + ".join(part.name for part in self.parts):
            raise ValueError("its name is not that of its parts")
        return self


def _kind_of(values: Any) -> str:
    return "<several>" if "parts" in (values if isinstance(values, dict) else vars(values)) else "<one>"


class ChoiceHeader(_Part):
    """What `group="auto"` took."""

    group: Literal["D4"] | None = None
    saved: Annotated[Number, Field(le=1)]
    plain: Annotated[Number, Field(ge=0, le=1)]
    whole: Annotated[Number, Field(ge=0, le=1)]
    images: Annotated[StrictInt, Field(ge=0)]
    up: Annotated[Number, Field(ge=0, le=1)] | None = None


class StateHeader(_Part):
    """What is said of what was learned; a method's own parts are compared when they are put back."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)

    classes: Names
    class_experience: list[Annotated[StrictInt, Field(ge=0, lt=MOST_EXPERIENCES)]]
    experiences: Annotated[StrictInt, Field(ge=0, le=MOST_EXPERIENCES)]
    updates: Annotated[StrictInt, Field(ge=0, lt=2**53)]
    choice: ChoiceHeader | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> StateHeader:
        if repeated := _first_repeated(self.classes):
            raise ValueError(f"the class {repeated[0]!r} is there twice")
        if len(self.class_experience) != len(self.classes):
            raise ValueError(
                f"there are {len(self.classes)} classes, and {len(self.class_experience)} experiences of them"
            )
        if self.class_experience and max(self.class_experience) >= self.experiences:
            raise ValueError(f"a class is of experience {max(self.class_experience)}, of {self.experiences}")
        if self.experiences > self.updates:
            raise ValueError(f"there are {self.experiences} experiences in {self.updates} updates")
        _texts(self.model_extra)
        return self


class SeenHeader(_Part):
    """The classes of the images that were seen."""

    classes: Names
    forgotten: Names


class Notes(_Part):
    """What was done last; a user's own notes may be any JSON values."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)

    seen: SeenHeader | None = None
    event: Text | None = None
    date: Annotated[StrictStr, Field(max_length=40, pattern=r"^[0-9T:.+\-Z]*$")] | None = None

    @model_validator(mode="after")
    def _is_text(self) -> Notes:
        _texts(self.model_extra)
        return self


class ModelHeader(_Part):
    """Everything that a model file of the newest format version says beside its tensors."""

    method: Annotated[StrictStr, Field(min_length=1, max_length=200), AfterValidator(_name)]
    settings: Plain
    backbone: Annotated[
        Annotated[BackboneHeader, Tag("<one>")] | Annotated[JoinedHeader, Tag("<several>")], Discriminator(_kind_of)
    ]
    backbone_embedded: StrictBool
    state: StateHeader
    versions: dict[Text, Text]
    notes: Notes | None = None


def checked(values: Any, tensors: Mapping[str, StoredTensor] | None = None) -> dict[str, Any]:
    """Return the values of a header, as they are, that keep the schema and agree with what is said of the tensors.

    Raises ModelFileError that names each field that does not.
    """
    try:
        header = ModelHeader.model_validate(values)
    except ValidationError as error:
        raise ModelFileError("; ".join(_lines(error))) from None
    except RecursionError:
        raise ModelFileError("the header is nested too deeply") from None
    problems = [] if tensors is None else list(_of_tensors(header, tensors))
    if problems:
        raise ModelFileError("; ".join(problems[:3]))
    return dict(values)


def check_labels(labels: Iterable[str | int]) -> None:
    """Raise InputError for names of classes that a model file could not hold."""
    for label in labels:
        try:
            if isinstance(label, str):
                _name(label)
            elif not -(2**63) <= label < 2**63:
                raise ValueError(f"the class {str(label)[:40]} has more than 64 bits")
        except ValueError as error:
            raise InputError(f"{error}: give the class another name") from None


def _of_tensors(header: ModelHeader, tensors: Mapping[str, StoredTensor]) -> Iterable[str]:
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            yield f"the tensor {ascii(name)[:80]} is of type {tensor.dtype[:20]!r}, not of {', '.join(sorted(DTYPES))}"
        if tensor.shape and not all(size < 2**40 for size in tensor.shape):
            yield f"the tensor {ascii(name)[:80]} is of shape {tensor.shape}"
        if name.partition("/")[0] not in ("state", "seen", "backbone"):
            yield f"the tensor {ascii(name)[:80]} is no part of a model"
    if header.backbone_embedded != any(name.startswith("backbone/") for name in tensors):
        yield "backbone_embedded does not agree with the tensors"


def _first_repeated(names: Sequence[str | int]) -> list[str | int]:
    seen: set[str | int] = set()
    for name in names:
        if name in seen:
            return [name]
        seen.add(name)
    return []


def _lines(error: ValidationError) -> list[str]:
    """Say the first problems of a header, each with its field; a union's are of one field, and said once."""
    found: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_input=False):
        words = [str(part) for part in problem["loc"] if not str(part).startswith(("list[", "constrained-", "<"))]
        place = ".".join(words)[:120]
        said = problem["msg"].removeprefix("Value error, ")
        said = "this field is not known" if problem["type"] == "extra_forbidden" else said[:1].lower() + said[1:]
        found.setdefault(place, f"{ascii(place)[1:-1]}: {said}" if place else said)
    return [*found.values()][:3]
