"""A model by name or from a file; `tune` leaves a whole wrapped classifier in one, to be used without its config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from continual import files, options
from continual.backbones.weights import read_weights
from continual.data.preprocessing import Preprocessing
from continual.documents import refusal
from continual.errors import EquimosError, InputError, ModelFileError
from continual.experiments.equivariance.config import ModelConfig, WrapperConfig
from continual.experiments.equivariance.models import Classifier, load_classifier, of_learner
from continual.experiments.equivariance.symmetry import wrapped
from continual.learning import model_file
from continual.symmetry.views import group_named, refusals
from equivariant.groups import FiniteGroup

FORMAT = "equimos-equivariant-model"


@dataclass(frozen=True)
class Source:
    """Which model a command is about, as its options say."""

    model: str  #: a name or a file
    weights: Path | None = None
    args: Sequence[str] = ()  #: key=value, of the model or its preprocessing
    size: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Opened:
    """A classifier and, if it comes from `tune`, its group and its whole wrapped model."""

    classifier: Classifier
    device: torch.device
    group: FiniteGroup | None = None
    whole: nn.Module | None = None


def open_model(source: Source, classes: Sequence[str] | None = None, templates: Sequence[str] = ()) -> Opened:
    """Return a classifier by name or file; `classes` and `templates` make the prompts of CLIP."""
    device, path, weights = options.device(source.device), Path(source.model), source.weights
    arguments = options.assignments("--model-arg", source.args)
    if path.is_dir():
        raise InputError(f"{source.model} is a folder: name a model file, or a model such as 'resnet50.a1_in1k'")
    if path.suffix == ".safetensors":
        if _says(path) == model_file.FORMAT:
            return Opened(of_learner(path, weights, device), device)
        _, metadata = read_weights(path)
        if "equivariant" in metadata:  # written by `tune`
            return load_tuned(path, device)
        if weights is not None:
            raise InputError(f"{source.model} and --weights {weights} both give weights: leave one of them out")
        weights = path
    names = ("mean", "std", "crop_pct", "interpolation")
    values = {
        "name": None if weights == path else source.model,
        "weights": weights,
        "args": {key: value for key, value in arguments.items() if key not in names},
        "preprocessing": {key: value for key, value in arguments.items() if key in names},
        "size": source.size,
        **({"templates": list(templates)} if templates else {}),
    }
    try:
        config = ModelConfig.model_validate(values)
    except ValidationError as error:
        raise refusal(path, error, ModelConfig) from None
    found = load_classifier(config, classes)
    found = replace(found, features=found.features.to(device), head=found.head and found.head.to(device))
    return Opened(found, device)


def _says(path: Path) -> str | None:
    """Return the format that a file's metadata name; None if they name none, or it cannot be read."""
    try:
        return files.fetch(path, prefix="no tensor")[1].get("format")
    except (OSError, ValueError):
        return None


def save_tuned(
    path: Path, model: nn.Module, row: WrapperConfig, group: FiniteGroup, classifier: Classifier, classes: Sequence[str]
) -> None:
    """Write a wrapped classifier whole, or not at all; `classes` are those that its scores are of."""
    head = classifier.head
    own = row.model_dump(mode="json", include=row.model_fields_set - {"recipe", "head_views"})
    values = {
        "format": FORMAT,
        "model": {"name": classifier.name, "args": dict(classifier.args)},
        "wrapper": {**own, **row.options},
        "group": group.name,
        "classes": list(classes),
        "preprocessing": asdict(classifier.preprocessing),
        "head": [head.in_features, head.out_features, head.bias is not None] if isinstance(head, nn.Linear) else None,
    }
    files.store(path, model.state_dict(), {"equivariant": json.dumps(values)})


def load_tuned(path: Path, device: torch.device) -> Opened:
    """Return what a file of `tune` holds.

    Raises ModelFileError if the file is damaged, of a tuning that was not finished, or of another group than it says.
    """
    state, metadata = read_weights(path)
    values = metadata["equivariant"]
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ModelFileError(f"{path} is the checkpoint of a tuning under way: finish it, then name model.safetensors")
    try:
        # A file of an any-time orbit that names no proxy is older than the margin, and its limit is of the other one.
        before = {"proxy": "max_probability"} if values["wrapper"]["wrapper"] == "anytime" else {}
        row, classes = WrapperConfig(**before | values["wrapper"]), tuple(values["classes"])
        preprocessing = Preprocessing.from_json(values["preprocessing"])
        group = group_named(values["group"])
        base = load_classifier(ModelConfig(**values["model"]), pretrained=False)
        head = nn.Linear(*values["head"]) if values["head"] else base.head
        model = wrapped(row, base.features, head, group)
        with refusals():
            model.load_state_dict(state or {})
    except (KeyError, TypeError, RuntimeError, ValidationError, EquimosError) as error:
        raise ModelFileError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error
    return Opened(Classifier(str(path), base.features, head, preprocessing, classes), device, group, model.to(device))
