"""A learner's file: what is written of it, and how it is read back."""

from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self

import torch
from torch import Tensor

from continual.backbones.loading import Backbone, check_same_weights, rebuild
from continual.errors import ModelFileError
from continual.learning import model_file
from continual.learning.settings import Settings, current_names, restored
from continual.learning.state import S, State
from continual.statistics.fields import pack, size, unpack


class Storing(ABC, Generic[S]):
    """The learner's operations on files, and the bytes it takes."""

    method: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    state_type: ClassVar[type[State]]
    backbone: Backbone
    settings: Any
    state: S
    device: torch.device

    def save(
        self,
        path: str | Path,
        *,
        embed_backbone: bool = False,
        notes: Mapping[str, Any] | None = None,
        seen: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the learner to one safetensors file, atomically.

        The frozen backbone is referenced by name, local file and SHA-256, or embedded on request. No image
        is stored. `notes` are JSON values about this version, `seen` what the command `equimos` keeps to know
        images again; a learner that was loaded has neither. Raises ModelFileError if it cannot be written.
        """
        tensors, state = self.export()
        header = {
            "method": self.method,
            "settings": self.settings.model_dump(),
            "backbone": self.backbone.describe(),
            "backbone_embedded": embed_backbone,
            "state": state,
            "versions": model_file.versions(),
            "notes": dict(notes or {}),
        }
        tensors = model_file.join("state", tensors) | model_file.join("seen", seen or {})
        if embed_backbone:
            tensors |= model_file.join("backbone", self.backbone.frozen.network.state_dict())
        model_file.write(path, tensors, header)

    @classmethod
    def load(
        cls,
        path: str | Path,
        backbone: Backbone | None = None,
        *,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> Self:
        """Read a learner back.

        The backbone is the one given, the embedded one, or is found again by its name and weights file
        (`weights` says where the file is now). Raises ModelFileError for a file that is missing, damaged or
        another method's; BackboneError, with both hashes, if the backbone's weights are not the same.
        """
        tensors, header = model_file.read(path)
        if header["method"] != cls.method:
            raise ModelFileError(f"{path} holds a {header['method']!r} model, not {cls.method!r}: use continual.load")
        if backbone is None:
            moved = {} if weights is None else {"weights_file": str(weights)}
            embedded = model_file.part(tensors, "backbone") if header["backbone_embedded"] else None
            backbone = rebuild({**header["backbone"], **moved}, embedded)
        else:
            check_same_weights(backbone, header["backbone"])
        kind = cls.settings_type
        settings = restored(kind, {**kind.before, **current_names(kind, header["settings"], warn=False)})
        learner = cls(backbone, settings, device=device)  # type: ignore[call-arg]
        try:
            learner.restore(model_file.part(tensors, "state"), header["state"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path} lacks a part of the model ({error!r}): restore a copy") from error
        return learner

    def export(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state as tensors and JSON values, for `restore`."""
        return pack(self.state)

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take the state that `export` gave; raises KeyError, TypeError or ValueError if a part is missing."""
        own = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        self.state = unpack(self.state_type, own, values)

    def memory(self) -> dict[str, int]:
        """Return the bytes of what was learned, by part; the frozen backbone is not counted."""
        return {part: number for part, number in size(self.export()[0]).items() if part != "fitted"}
