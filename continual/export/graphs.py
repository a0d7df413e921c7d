"""A learner's inference as one ONNX graph. `graph` has a form of its own for methods that need one.

All graphs take `images` (B, 3, H, W), prepared floats, and give `scores` (B, C). Those of methods that remember class
statistics also give `probabilities` (B, C) and `familiarity` (B,); those that retrieve stacks `stack`,
`first_stack` and `refinements` (B,). See `continual.learning.state.Prediction`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from continual.adapters.bank import per_image, shared
from continual.backbones.base import Prefix
from continual.export.retrieval_loop import looped
from continual.export.tracing import traced
from continual.learning.answers import Scores
from continual.learning.learner import IncrementalLearner
from continual.methods.mos.learner import MOSLearner
from continual.methods.mos.retrieval import ensemble
from continual.statistics.prototypes import cosine_scores
from continual.uncertainty.gaussians import judge

#: the columns of `Scores` that are outputs, by their names in the graph
COLUMNS = {"scores": "values", "probabilities": "probabilities", "familiarity": "familiarity"}


def _columns(scores: Scores, names: list[str]) -> tuple[Tensor, ...]:
    return tuple(getattr(scores, COLUMNS[name]) for name in names)


def _present(scores: Scores) -> list[str]:
    return [name for name, column in COLUMNS.items() if getattr(scores, column) is not None]


def _example(learner: IncrementalLearner[Any]) -> Tensor:
    """Two images, scored once: what a learner keeps for the next call must not be made while it is traced."""
    shape = (2, 3, *learner.backbone.trunk.image_size)
    images = torch.linspace(-1, 1, math.prod(shape)).reshape(shape)
    learner.score_batch(images)
    return images


def exact(learner: IncrementalLearner[Any]) -> IncrementalLearner[Any]:
    """Return the learner as it is exported: in float32, and without the shortcuts of its settings."""
    shortcuts = {"early_exit": None} if isinstance(learner, MOSLearner) else {}
    return learner.variant(precision="float32", **shortcuts)


@singledispatch
def graph(learner: IncrementalLearner[Any]) -> Any:
    """Return the ONNX model of a learner on the CPU, as `exact` returns it.

    This is the form for methods whose `scores` take every image through the same steps. Another can be
    registered for a learner's class: `graph.register`. Raises InputError for a method without either.
    """
    return _one_pass(learner, learner.answer)


def _one_pass(learner: IncrementalLearner[Any], scores: Callable[[Tensor], Scores]) -> Any:
    images = _example(learner)
    with torch.no_grad():
        names = _present(scores(images))
    return traced(lambda x: _columns(scores(x), names), [images], ["images"], names, learner.backbone.trunk)


@graph.register
def _(learner: MOSLearner) -> Any:
    """Self-refined retrieval (MOS section 3.3), round by round inside the graph; one pass for a single stack."""
    state, settings, trunk = learner.state, learner.settings, learner.backbone.trunk
    assert state.head is not None
    assert state.prototypes is not None
    head, prototypes, experience = state.head, state.prototypes.mean, state.experience_of_class
    kind, bank = settings.adapter_kind, state.stacked_bank(settings.consolidate)

    def finish(logits: Tensor, similarity: Tensor, features: Tensor) -> Scores:
        values = ensemble(logits, similarity, state.experiences) / 2 if settings.ensemble else logits.softmax(-1)
        probabilities, familiarity = judge(state.known, features)
        return Scores(values, probabilities=probabilities, familiarity=familiarity)

    if len(state.bank) == 1:
        only = shared(kind, state.bank[0])

        def scores(images: Tensor) -> Scores:
            features = trunk.features(images, only)
            return finish(head(features), cosine_scores(features, prototypes), features)

        return _one_pass(learner, scores)

    images, stacks = _example(learner), torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        prefix = trunk.prefix(images)

    def step(tokens: Tensor, stack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = trunk.features(Prefix(tokens, prefix.rope), per_image(kind, bank, stack))
        logits = head(features)
        return features, logits, experience[logits.argmax(-1)]

    def stage_one(features: Tensor) -> tuple[Tensor, Tensor]:
        similarity = cosine_scores(features, prototypes)
        return similarity, experience[similarity.argmax(-1)]

    with torch.no_grad():
        features, logits, _ = step(prefix.h, stacks)
        results = [logits, stage_one(features)[0], features]
        names = _present(finish(*results))
    return looped(
        start=traced(lambda x: trunk.prefix(x).h, [images], ["images"], ["tokens"], trunk),
        step=traced(step, [prefix.h, stacks], ["own", "wanted"], ["new_features", "answer", "asked"], trunk),
        stage_one=traced(stage_one, [features], ["new_features"], ["cosines", "choice"], trunk),
        finish=traced(
            lambda *x: _columns(finish(*x), names), results, ["logits", "similarity", "features"], names, trunk
        ),
        outputs=names,
        sizes={"C": len(state.classes), "D": trunk.width},
        rounds=settings.retrieval_rounds,
    )
