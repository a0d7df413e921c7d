"""What `tune` leaves behind: a whole wrapped classifier in one safetensors file, to be used without its config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from continual.backbones.loading import read_weights
from continual.data.preprocessing import Preprocessing
from continual.errors import EquimosError, ModelFileError
from continual.experiments.equivariance.config import ModelConfig, WrapperConfig
from continual.experiments.equivariance.models import Classifier, load_classifier
from continual.experiments.equivariance.symmetry import refusals, wrapped
from equivariant.groups import FiniteGroup, as_group
from equivariant.tuning import files

FORMAT = "equimos-equivariant-model"


def save_tuned(
    path: Path,
    model: nn.Module,
    row: WrapperConfig,
    group: FiniteGroup,
    classifier: Classifier,
    classes: Sequence[str],
) -> None:
    """Write a wrapped classifier whole, or not at all; `classes` are what its scores stand for."""
    head = classifier.head
    values = {
        "format": FORMAT,
        "model": {"name": classifier.name, "args": dict(classifier.args)},
        "wrapper": row.model_dump(mode="json", include=set(WrapperConfig.model_fields) & row.model_fields_set),
        "group": group.name,
        "classes": list(classes),
        "preprocessing": asdict(classifier.preprocessing),
        "head": [head.in_features, head.out_features, head.bias is not None] if isinstance(head, nn.Linear) else None,
    }
    files.write(path, model.state_dict(), values)


def is_tuned(metadata: dict[str, Any]) -> bool:
    """Whether a safetensors file with this metadata was written by `tune`."""
    return "equivariant" in metadata


def load_tuned(path: Path, device: torch.device) -> tuple[Classifier, FiniteGroup, nn.Module]:
    """Return the classifier, its group, and the whole wrapped model.

    Raises ModelFileError if the file is damaged, of a tuning that was not finished, or of another group than it says.
    """
    state, metadata = read_weights(path)
    values = metadata["equivariant"]
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ModelFileError(
            f"{path} is the checkpoint of a tuning under way: finish it, and name its model.safetensors"
        )
    try:
        row, classes = WrapperConfig(**values["wrapper"]), tuple(values["classes"])
        preprocessing = Preprocessing.from_json(values["preprocessing"])
        with refusals():
            group = as_group(values["group"])
        base = load_classifier(ModelConfig(**values["model"]), pretrained=False)
        head = nn.Linear(*values["head"]) if values["head"] else base.head
        model = wrapped(row, base.features, head, group)
        with refusals():
            model.load_state_dict(state or {})
    except (KeyError, TypeError, RuntimeError, ValidationError, EquimosError) as error:
        raise ModelFileError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error
    return Classifier(str(path), base.features, head, preprocessing, classes), group, model.to(device)
