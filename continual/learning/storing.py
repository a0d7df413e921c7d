"""A learner's file: what is written of it, and how it is read back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from continual.backbones.descriptions import for_model, rebuild, with_weights
from continual.backbones.joined import as_backbone
from continual.backbones.loading import Backbone
from continual.errors import ModelFileError, is_out_of_memory
from continual.learning import model_file
from continual.learning.asking import Asking
from continual.learning.settings import Settings, current_names, restored
from continual.learning.state import S, State
from continual.statistics.fields import check, pack, size, unpack

#: what is raised for tensors that do not fit together
UNFIT = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)


class Storing(Asking[S]):
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
        if not embed_backbone and any(part.recipe and not part.weights_file for part in self.backbone.parts):
            raise ModelFileError(
                "the backbone was made here and is in no file: save_backbone(backbone, FILE) writes one for all its "
                "models, embed_backbone=True puts it into this one"
            )
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
        backbone: Backbone | Sequence[Backbone] | None = None,
        *,
        weights: str | Path | Sequence[str | Path] | None = None,
        device: str | torch.device | None = None,
    ) -> Self:
        """Read a learner back.

        The backbone is the one given, the embedded one, or is found again by its name and weights file
        (`weights` says where the file is now; of several backbones, the files). Whichever it is, images are prepared
        as the file says. Raises ModelFileError for a file that is missing, damaged or another method's; BackboneError,
        with both hashes, if the backbone's weights are not the same, and for one of images of another size.
        """
        tensors, header = model_file.read(path)
        if header["method"] != cls.method:
            raise ModelFileError(f"{path} holds a {header['method']!r} model, not {cls.method!r}: use continual.load")
        if backbone is None:
            places = [weights] if isinstance(weights, str | Path) else weights or []
            embedded = model_file.part(tensors, "backbone") if header["backbone_embedded"] else None
            backbone = rebuild(with_weights(header["backbone"], places), embedded)
        else:
            backbone = for_model(as_backbone(backbone), header["backbone"])
        kind = cls.settings_type
        settings = restored(kind, {**kind.before, **current_names(kind, header["settings"], warn=False)})
        learner = cls(backbone, settings, device=device)  # type: ignore[call-arg]
        try:
            learner.restore(model_file.part(tensors, "state"), header["state"])
        except UNFIT as error:
            raise ModelFileError(f"{path} lacks a part of the model ({error!r:.300}): restore a copy") from error
        try:
            learner.trial()
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}: restore a copy") from error
        return learner

    def trial(self) -> None:
        """Answer for one image made of a gradient: to be called before a model takes the place of another.

        `load` calls it for every file. Raises ModelFileError if there is no answer, or one that is not finite, of
        other classes, or otherwise no answer.
        """
        if not self.state.classes:
            return
        try:
            given = self.score_batch(self.backbone.frozen.probe())
            count, problem = len(self.state.classes), None
            for name in ("values", "probabilities", "similarity", "p_value", "anomaly"):
                found, shape = getattr(given, name), (1,) if name in ("p_value", "anomaly") else (1, count)
                if found is not None and (found.shape != shape or not torch.isfinite(found).all()):
                    problem = f"its {name} are of shape {tuple(found.shape)}, not {shape}, or not finite"
            if given.probabilities is not None and not ((given.probabilities >= 0) & (given.probabilities <= 1)).all():
                problem = "its probabilities are not within 0 and 1"
        except UNFIT as error:
            if is_out_of_memory(error):
                raise
            problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"
        if problem:
            raise ModelFileError(f"the model cannot answer, its parts do not fit together ({problem[:300]})")

    def export(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state as tensors and JSON values, for `restore`."""
        return pack(self.state)

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take the state that `export` gave; raises KeyError, TypeError or ValueError if a part does not fit."""
        own = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        state = unpack(self.state_type, own, values)
        check(state, len(state.classes))
        self.state = state

    def memory(self) -> dict[str, int]:
        """Return the bytes of what was learned, by part; the frozen backbone is not counted."""
        return {part: number for part, number in size(self.export()[0]).items() if part != "fitted"}
