"""Try a study on random weights: nothing is downloaded, trained or written."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from continual.datasets.catalogue import catalogue
from continual.experiments.equivariance.config import StudyConfig
from continual.experiments.equivariance.data import noise, score_indices, split_of
from continual.experiments.equivariance.models import Classifier, load_classifier
from continual.experiments.equivariance.study import make_recipe
from continual.experiments.equivariance.symmetry import tuned_parts, wrapped
from continual.symmetry.views import group_named, refusals
from equivariant.tuning.tune import trained_by


def tried(config: StudyConfig) -> Iterator[tuple[str, str, str, str | None]]:
    """Make every row and give it an image; yield its label, wrapper, recipe, and what would be trained."""
    group = group_named(config.group)
    if config.data.source in catalogue():
        count = catalogue()[config.data.source].classes
        split = noise(min(count, config.data.classes or count))
    else:
        split = split_of(config.data, config.seeds[0])
    found = load_classifier(config.model, split.classes, pretrained=False)
    image = split.test.prepared(found.preprocessing)[0][0][None]
    if config.model.head == "fit":
        with torch.no_grad():
            width = found.features(image).shape[1]
        head = nn.Linear(width, len(split.classes))
        found = Classifier(found.name, found.features, head, found.preprocessing, split.classes)
    score_indices(found, split.classes)
    assert found.head is not None
    for label, row in config.rows.items():
        model = wrapped(row, found.features, found.head, group).eval()
        stages = make_recipe(config, row, 0).stages if row.recipe else ()
        with torch.no_grad(), refusals():
            model(image)
            chosen = [trained_by(stage, tuned_parts(model, found.head), model) for stage in stages]
        sizes = [f"{stage.train} {sum(p.numel() for p in c):,}" for stage, c in zip(stages, chosen, strict=True)]
        yield label, row.wrapper, row.recipe or "none: zero-shot", ", then ".join(sizes) or None
