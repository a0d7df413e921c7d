"""A learner in the form in which an Avalanche strategy holds it; nothing here imports Avalanche."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from continual.backbones.joined import as_backbone
from continual.backbones.loading import Backbone, assemble
from continual.data.inputs import Label
from continual.data.preprocessing import Preprocessing
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.learner import IncrementalLearner

Learner = IncrementalLearner[Any]
#: The least score of a class, and that of one not learned yet; its logarithm is finite.
FLOOR = 1e-12


def by_label(values: Tensor, labels: Iterable[Label], columns: int) -> Tensor:
    """Put log scores (B, C) into the columns (B, columns) of their labels; the others get log FLOOR."""
    floor = torch.full((len(values), columns), FLOOR, device=values.device).log()
    return floor.index_copy(1, torch.tensor([*labels], dtype=torch.int64, device=values.device), values.float())


class LearnerModule(nn.Module):
    """A learner as a module: the frozen backbone, and the parts of a training while there is one.

    `learner` predicts; it may be exchanged for another with the same backbone.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner
        self.frozen = learner.backbone.frozen
        self.trained = nn.ModuleDict()

    def forward(self, images: Tensor, columns: int = 0) -> Tensor:
        """Return log scores of prepared images (B, 3, H, W), indexed by label: (B, columns or more)."""
        return self.answer(images, columns)[0]

    def answer(self, images: Tensor, columns: int = 0) -> tuple[Tensor, Scores]:
        """Return what `forward` does, and the scores it comes from."""
        labels = self.learner.classes
        columns = max([columns, *[int(label) + 1 for label in labels]])
        scores = self.learner.score_batch(images) if labels else Scores(images.new_empty(len(images), 0))
        return by_label(scores.values.to(images.device).clamp_min(FLOOR).log(), labels, columns), scores


def as_learner(
    kind: type[Learner], model: Any, device: str | torch.device | None, settings: dict[str, Any], **named: Any
) -> Learner:
    """Return a learner of a kind: `model` itself (with settings, a variant of it), or one on that backbone or timm ViT.

    `named` are settings that Avalanche has names for: None if not given, ignored if the method has no such setting.
    Raises InputError for what cannot be used, BackboneError for a ViT that cannot.
    """
    allowed = (type(model) if isinstance(model, IncrementalLearner) else kind).settings_type.model_fields
    named = {name: value for name, value in named.items() if value is not None and name in allowed}
    if twice := sorted(named.keys() & settings.keys()):
        raise InputError(f"{', '.join(twice)} given twice, as a setting and by Avalanche's name or the optimizer")
    settings = {**settings, **named}
    if isinstance(model, IncrementalLearner):
        if not isinstance(model, kind):
            raise InputError(f"this strategy is not that of {model.method!r}: use strategy_for({model.method!r})")
        if any(not isinstance(label, int) or label < 0 for label in model.classes):
            raise InputError(f"a stream's labels are ints from 0, but this learner knows {model.classes[:3]}")
        if device is not None and torch.device(device).type != model.device.type:
            raise InputError(f"the learner is on {model.device}: make or load it with device={str(device)!r}")
        if "preset" in settings:
            raise InputError("a learner has all its settings already: give single ones instead of a preset")
        return model.variant(**settings) if settings else model
    if inspect.isabstract(kind):
        raise InputError("LearnerStrategy itself takes a learner: for a backbone use MOS, or strategy_for(method)")
    if isinstance(model, nn.Module):
        config = getattr(model, "pretrained_cfg", None) or {}
        names = [config.get("architecture") or type(model).__name__, config.get("tag")]
        model = assemble(model, ".".join(filter(None, names)))
    if isinstance(model, list | tuple):
        model = as_backbone(model)
    if not isinstance(model, Backbone):
        raise InputError(
            f"model must be a Backbone, a list of several, a timm ViT or a learner, got {type(model).__name__}"
        )
    return kind(model, device=device, **settings)


def checked_labels(dataset: Any, preprocessing: Preprocessing) -> list[int]:
    """Return the labels of a stream's data set.

    Raises InputError if it is empty, has a label below 0, or if its first image is no input of the backbone.
    """
    labels = [int(label) for label in dataset.targets]
    if not labels or min(labels) < 0:
        raise InputError(f"an experience needs images with labels from 0, got {min(labels, default='no image')}")
    image = dataset[0][0]
    try:
        preprocessing.check(image[None] if isinstance(image, Tensor) else torch.empty(0))
    except ValueError as error:
        raise InputError(
            f"the stream's images do not fit (the first is a {type(image).__name__}): {error}. Make the benchmark with "
            "train_transform=backbone.preprocessing.training() and eval_transform=backbone.preprocessing.evaluation()"
        ) from error
    return labels
