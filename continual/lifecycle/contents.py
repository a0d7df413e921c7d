"""What a model file says about itself, without building the backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from continual.errors import ModelFileError
from continual.learning import model_file
from continual.lifecycle.held_out_features import HeldFeatures
from continual.lifecycle.seen_images import Ledger

#: the tensor, (C,) int64, in which methods with prototypes store how many images they saw of each class
IMAGE_COUNTS = "state/prototypes/count"


#: what lies in a model file beside what was learned
PARTS = {"backbone": "backbone (frozen)", "seen": "images met (digests)"}
HELD = "held-out features"


@dataclass(frozen=True)
class ModelFile:
    """A model file's header and the sizes of its parts."""

    path: Path
    header: Mapping[str, Any]
    memory: Mapping[str, int]  #: bytes by part, an embedded backbone included
    image_counts: list[int] | None  #: by class, where the method stores them
    ledger: Ledger  #: which images it has met
    held: HeldFeatures  #: features of some that are held out

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.header["method"])

    @property
    def classes(self) -> list[str | int]:
        """The classes in the order they were learned."""
        return list(self.header["state"]["classes"])

    @property
    def experiences(self) -> int:
        """How many experiences brought new classes."""
        return int(self.header["state"]["experiences"])

    @property
    def embedded(self) -> bool:
        """Whether the backbone's weights are in the file."""
        return bool(self.header["backbone_embedded"])

    def describe(self) -> dict[str, Any]:
        """Return everything as plain JSON values; experiences count from 0."""
        state = self.header["state"]
        counts: Sequence[int | None] = self.image_counts or [None] * len(self.classes)
        return {
            "file": str(self.path),
            "file_bytes": self.path.stat().st_size,
            "method": self.method,
            "experiences": self.experiences,
            "updates": state["updates"],
            "classes": [
                {"name": name, "experience": experience, "images": images}
                for name, experience, images in zip(self.classes, state["class_experience"], counts, strict=True)
            ],
            "backbone": {**self.header["backbone"], "embedded": self.embedded},
            "memory_bytes": dict(self.memory),
            "settings": self.header["settings"],
            "versions": self.header["versions"],
        }


def read(path: Path) -> ModelFile:
    """Read a model file's header; raises ModelFileError if it is missing, damaged or not a model file."""
    tensors, header = model_file.read(path)
    memory: dict[str, int] = {}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition("/")
        part = rest.split("/")[0] if owner == "state" else PARTS.get(owner, owner)
        part = HELD if name.startswith("seen/features") else part
        memory[part] = memory.get(part, 0) + tensor.numel() * tensor.element_size()
    counts = tensors.get(IMAGE_COUNTS, torch.empty(0)).tolist() or None
    try:
        seen = model_file.part(tensors, "seen")
        ledger, held = Ledger.unpack(seen, (header.get("notes") or {}).get("seen")), HeldFeatures.unpack(seen)
        found = ModelFile(path, header, memory, counts, ledger, held)
        found.describe()
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} lacks a part of the model ({error!r}): restore a copy") from error
    return found
