"""Any classifier by name or from a file: timm, torchvision, CLIP, a model of `learn`, a model of `tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from continual import methods
from continual.backbones import arguments
from continual.backbones.clip import PREFIX as CLIP
from continual.backbones.clip import load_clip
from continual.backbones.fitting import fill
from continual.backbones.loading import create, from_hub
from continual.backbones.weights import noted, read_weights
from continual.data.preprocessing import Preprocessing
from continual.errors import BackboneError, nearest
from continual.experiments.equivariance.config import ModelConfig
from continual.learning.learner import IncrementalLearner
from continual.seeding import seeded
from equivariant.errors import InputError as NoHead
from equivariant.parts.surgery import take_off_head

TORCHVISION = "torchvision/"


@dataclass(frozen=True)
class Classifier:
    """A network cut before its last layer: its scores are head(features(x))."""

    name: str
    features: nn.Module  #: images (n, 3, H, W) → (n, D)
    head: nn.Module | None  #: (n, D) → (n, K); None if the network ends in features
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None = None  #: what the K scores stand for, where that is known
    args: Mapping[str, Any] = field(default_factory=dict)  #: with which the network was made


class LearnerScores(nn.Module):
    """A learner as a module: finished inputs (n, 3, H, W) → probabilities (n, C)."""

    def __init__(self, learner: IncrementalLearner[Any]) -> None:
        super().__init__()
        self.learner, self.num_features = learner, len(learner.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the learner's scores; nothing in it is trained."""
        return self.learner.predict(x, value_range="normalised").scores.to(x)


@seeded(0, "random weights, soon replaced")
def load_classifier(config: ModelConfig, classes: Sequence[str] | None = None, pretrained: bool = True) -> Classifier:
    """Make the network of a config; `classes` are those of the data, of which CLIP makes its head.

    `pretrained=False` downloads nothing and leaves random weights: to try a config. Raises BackboneError with the cure.
    """
    name = config.name or ""
    if name.startswith(CLIP):
        words = None if classes is None else [config.class_names.get(c, c.replace("_", " ")) for c in classes]
        given = (name.removeprefix(CLIP), config.weights, config.args, words, config.templates)
        tower, prompts, prepared = load_clip(*given, pretrained=pretrained)
        found = Classifier(name, tower, prompts, prepared, tuple(classes or ()) or None, config.args)
    elif name.startswith(TORCHVISION):
        found = _torchvision(name.removeprefix(TORCHVISION), config, pretrained)
    else:
        found = _timm(config, pretrained)
    if config.size is not None:
        found = replace(found, preprocessing=_resized(found, config.size))
    changes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.preprocessing.items()}
    if unknown := sorted(changes.keys() - Preprocessing.changeable()):
        raise BackboneError(f"preprocessing.{unknown[0]}: {nearest(unknown[0], Preprocessing.changeable())}")
    found.features.requires_grad_(False).eval()
    return replace(found, preprocessing=replace(found.preprocessing, **changes))


def of_learner(path: Path, weights: Path | None, device: torch.device) -> Classifier:
    """Read a model file of `equimos learn`."""
    learner = methods.load(path, weights=weights, device=str(device))
    classes = tuple(map(str, learner.classes))
    return Classifier(str(path), LearnerScores(learner), None, learner.preprocessing, classes)


def _timm(config: ModelConfig, pretrained: bool) -> Classifier:
    name, args, path = config.name, {"num_classes": None, **config.args}, config.weights
    if path is not None:
        state, metadata = read_weights(path)
        named, own = noted(metadata)
        name = name or named
        if name is None:
            raise BackboneError(f"{path} does not say which timm model it is for: give its name as well")
        args = {"num_classes": None, **own, **config.args}
        model = create(name, args, state)
        if state is not None and args["num_classes"] is None:
            key = _head_key(model)
            rows = len(state[key]) if key in state else 0
            if rows != getattr(model, "num_classes", None):
                model = create(name, {**args, "num_classes": rows})
        fill(model, state, path, name)
    else:
        assert name is not None
        model = from_hub(name, args) if pretrained else create(name, args)
    settings = resolve_model_data_config(model)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or settings["input_size"][1:]
    given = {key: settings[key] for key in ("mean", "std", "interpolation", "crop_pct")}
    prepared = Preprocessing.from_json({"size": tuple(size), **given})
    kept = {k: v for k, v in args.items() if k != "num_classes" or v is not None}
    return _cut(Classifier(name, model, None, prepared, _image_net(model), kept))


def _torchvision(name: str, config: ModelConfig, pretrained: bool) -> Classifier:
    from torchvision import models

    name, _, tag = name.partition(".")
    if name not in models.list_models(models):
        raise BackboneError(f"unknown torchvision model {name!r}: {nearest(name, models.list_models(models))}")
    entries = {entry.name: entry for entry in models.get_model_weights(name)}
    if tag not in entries and (tag or (pretrained and config.weights is None)):
        raise BackboneError(f"{TORCHVISION}{name} needs its weights' tag: name one of {', '.join(entries)}")
    entry = entries.get(tag) or next(iter(entries.values()))
    args = arguments.checked(config.args, f"{TORCHVISION}{name}", arguments.TorchvisionArguments)
    try:
        with torch.device("meta"):  # where a network takes no memory
            skeleton = models.get_model(name, weights=None, **args)
        arguments.check_size(skeleton, f"{TORCHVISION}{name}")
        model = models.get_model(name, weights=None, **args)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise BackboneError(f"torchvision cannot make {name!r} with {config.args}: {error}") from error
    if config.weights is not None:
        fill(model, read_weights(config.weights)[0], config.weights, f"{TORCHVISION}{name}", lambda state, _: state)
    elif pretrained:
        try:
            model.load_state_dict(entry.get_state_dict(progress=True, check_hash=True))
        except Exception as error:  # every proxy and cache has exceptions of its own
            raise BackboneError(
                f"the weights of {TORCHVISION}{name}.{tag} could not be fetched ({type(error).__name__}): connect to "
                f"the network once, or download them and give weights=FILE"
            ) from error
    view = entry.transforms()
    (crop,), (resize,) = view.crop_size, view.resize_size
    mean, std, mode = tuple(view.mean), tuple(view.std), view.interpolation.value
    prepared = Preprocessing((crop, crop), mean, std, mode, crop / resize)
    known = config.weights is None and "num_classes" not in config.args
    categories = tuple(entry.meta["categories"]) if known else None
    full = f"{TORCHVISION}{name}{'.' if tag else ''}{tag}"
    return _cut(Classifier(full, model, None, prepared, categories, config.args))


def _cut(whole: Classifier) -> Classifier:
    """Take the head off, if there is one."""
    try:
        features, head = take_off_head(whole.features)
    except NoHead:
        return replace(whole, classes=None)
    return replace(whole, features=features, head=head)


def _head_key(model: Any) -> str:
    classifier = model.pretrained_cfg.get("classifier") or ""
    return f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"


def _image_net(model: Any) -> tuple[str, ...] | None:
    """Return the WordNet ids of an ImageNet-1k classifier's scores."""
    if getattr(model, "num_classes", None) != 1000:
        return None
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def _resized(found: Classifier, size: int) -> Preprocessing:
    fixed = getattr(getattr(found.features, "patch_embed", None), "img_size", None)
    if fixed is not None and fixed != (size, size):
        raise BackboneError(f"{found.name} takes {fixed[0]} px: give args.img_size={size} instead of size={size}")
    return replace(found.preprocessing, size=(size, size))
