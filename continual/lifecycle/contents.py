"""What a model file says about itself, without its backbone, and without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual import files
from continual.backbones import described
from continual.errors import ModelFileError
from continual.learning import model_file
from continual.lifecycle.seen_images import COLUMNS, SeenImages

if TYPE_CHECKING:
    from continual.lifecycle.held_out_features import HeldOutFeatures
    from continual.lifecycle.thumbnails import Thumbnails

#: the tensor, (C,) int64, in which methods with prototypes store how many images they saw of each class
IMAGE_COUNTS = "state/prototypes/count"
#: what lies in a model file beside what was learned
PARTS = {"backbone": "backbone (frozen)", "seen": "images seen (digests)"}
HELD_OUT = "held-out features"
THUMBNAILS = "thumbnails of images"


@dataclass(frozen=True)
class ModelFile:
    """A model file's header and the sizes of its parts."""

    path: Path
    header: Mapping[str, Any]
    memory: Mapping[str, int]  #: bytes by part, an embedded backbone included
    image_counts: list[int] | None  #: by class, where the method stores them
    seen: SeenImages  #: which images it has seen

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.header["method"])

    @property
    def classes(self) -> list[str | int]:
        """The classes in the order they were learned."""
        return list(self.header["state"]["classes"])

    @property
    def embedded(self) -> bool:
        """Whether the backbone's weights are in the file."""
        return bool(self.header["backbone_embedded"])

    @property
    def channels(self) -> int:
        """How many channels its images have."""
        return len(described(self.header["backbone"])[0]["preprocessing"]["mean"])

    @cached_property
    def held_out(self) -> HeldOutFeatures:
        """Features of some images that are held out; reading them loads torch."""
        from continual.lifecycle.held_out_features import HeldOutFeatures

        return HeldOutFeatures.unpack(model_file.part(files.fetch(self.path, "seen/")[0], "seen"))

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """Small pictures of some learned images, if they were to be kept; reading them loads torch."""
        from continual.lifecycle.thumbnails import Thumbnails

        return Thumbnails.unpack(model_file.part(files.fetch(self.path, "seen/")[0], "seen"))

    def describe(self) -> dict[str, Any]:
        """Return everything as plain JSON values; experiences count from 0."""
        state = self.header["state"]
        counts: Sequence[int | None] = [None] * len(self.classes) if self.image_counts is None else self.image_counts
        return {
            "file": str(self.path),
            "file_bytes": self.path.stat().st_size,
            "method": self.method,
            "experiences": int(state["experiences"]),  # that brought new classes
            "updates": state["updates"],
            "classes": [
                {"name": name, "experience": experience, "images": images}
                for name, experience, images in zip(self.classes, state["class_experience"], counts, strict=True)
            ],
            "backbone": {**self.header["backbone"], "embedded": self.embedded},
            "memory_bytes": dict(self.memory),
            "settings": self.header["settings"],
            "choice": state.get("choice"),
            "ignored": [one["name"] for one in state.get("ignored") or ()],
            "versions": self.header["versions"],
        }


def read(path: Path) -> ModelFile:
    """Read a model file's header; raises ModelFileError if it is missing, damaged or not a model file."""
    columns = {name: f"seen/{name}" for name in COLUMNS}
    file, header = model_file.read_contents(path, [IMAGE_COUNTS, *columns.values()])
    memory: dict[str, int] = {}
    for name, tensor in sorted(file.tensors.items()):
        owner, _, rest = name.partition("/")
        part = rest.split("/")[0] if owner == "state" else PARTS.get(owner, owner)
        part = HELD_OUT if name.startswith("seen/features") else part
        part = THUMBNAILS if name.startswith("seen/thumbnails/") else part
        memory[part] = memory.get(part, 0) + tensor.nbytes
    try:
        notes = (header.get("notes") or {}).get("seen")
        seen = SeenImages.unpack({k: file.integers[name] for k, name in columns.items()} if notes else {}, notes)
        one_each = IMAGE_COUNTS in file.tensors and len(file.tensors[IMAGE_COUNTS].shape) == 1
        if one_each and min(file.integers[IMAGE_COUNTS], default=0) < 0:
            raise ValueError(f"{IMAGE_COUNTS} counts less than no images")
        found = ModelFile(path, header, memory, file.integers[IMAGE_COUNTS] if one_each else None, seen)
        found.describe()
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} lacks a part of the model ({error!r}): restore a copy") from error
    return found
