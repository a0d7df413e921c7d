"""A learner's inference as one ONNX graph. `graph` has a form of its own for methods that need one.

All graphs take `images` (B, 3, H, W), prepared floats, and give `scores` (B, C). Those of methods that can also give
`probabilities` (B, C), `familiarity` (B,) and, of a single class, `anomaly` (B,); those that retrieve stacks `stack`,
`first_stack` and `refinements` (B,); where a symmetry averages scores, there are scores and probabilities alone. See
`continual.learning.answers.Prediction`. An image's views, their order and what they count are made inside the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from continual.adapters.bank import one, per_image, shared
from continual.backbones.base import SharedStem
from continual.errors import InputError
from continual.export.retrieval_loop import looped
from continual.export.tracing import traced
from continual.learning.answers import Scores
from continual.learning.learner import IncrementalLearner
from continual.learning.state import learned
from continual.methods.mos.adapter_features import AdapterFeatures
from continual.methods.mos.learner import MOSLearner
from continual.methods.mos.retrieval import ensemble
from continual.statistics.head import cosine_scores

#: the columns of `Scores` that are outputs, by their names in the graph
COLUMNS = {
    "scores": "values", "probabilities": "probabilities", "familiarity": "p_value", "anomaly": "anomaly",
    "stack": "stack", "first_stack": "first_stack", "refinements": "refinements",
}  # fmt: skip


def _columns(scores: Scores, names: list[str]) -> tuple[Tensor, ...]:
    return tuple(getattr(scores, COLUMNS[name]) for name in names)


def _present(scores: Scores) -> list[str]:
    return [name for name, column in COLUMNS.items() if getattr(scores, column) is not None]


def _example(learner: IncrementalLearner[Any]) -> Tensor:
    """Two images, scored once: what a learner keeps for the next call must not be made while it is traced."""
    shape = (2, *learner.preprocessing.shape)
    images = torch.linspace(-1, 1, math.prod(shape)).reshape(shape)
    learner.score_batch(images)
    return images


def exact(learner: IncrementalLearner[Any]) -> IncrementalLearner[Any]:
    """Return the learner as it is exported: in float32, and without the shortcuts of its settings."""
    shortcuts = {"early_exit", "passes"} & {*type(learner.settings).model_fields}
    return learner.variant(precision="float32", **dict.fromkeys(shortcuts))


@singledispatch
def graph(learner: IncrementalLearner[Any]) -> Any:
    """Return the ONNX model of a learner on the CPU, as `exact` returns it.

    This is the form for methods whose `_scores` take every image through the same steps. Another can be
    registered for a learner's class: `graph.register`. Raises InputError for a method without either.
    """
    return _one_pass(learner, learner._scores)


def _one_pass(learner: IncrementalLearner[Any], scores: Callable[[Tensor], Scores]) -> Any:
    views = _averaged(learner)

    def answer(images: Tensor) -> Scores:
        if views is None:
            return scores(images)
        # One pass for all views: one for each, as the learner takes them, would write the network as often.
        return Scores.averaged(scores(views(images)).of_views(count))

    images = _example(learner)
    count = 1 if views is None else len(views(images[:1]))
    with torch.no_grad():
        names = _present(answer(images))
    return traced(lambda x: _columns(answer(x), names), [images], ["images"], names, learner.backbone.frozen)


def _averaged(learner: IncrementalLearner[Any]) -> Callable[[Tensor], Tensor] | None:
    """Return what makes of images the views (B m, 3, H, W) whose scores are averaged, if a symmetry asks for that."""
    symmetry = learner.symmetry
    if symmetry is None or not symmetry.averages_scores:
        return None
    return lambda images: symmetry.orbit(images).flatten(0, 1)


@graph.register
def _(learner: MOSLearner) -> Any:
    """Self-refined retrieval (MOS section 3.3), round by round inside the graph; one pass for a single adapter."""
    state, settings, frozen, extractor = learner.state, learner.settings, learner.backbone.frozen, learner.extractor
    assert state.head is not None
    assert state.prototypes is not None
    head, prototypes, experience = state.heeding, state.prototypes.mean, state.experience_of_class
    kind, bank = settings.adapter_kind, state.stacked_bank(settings.consolidate)
    first = shared(kind, one(bank, 0))

    def by_regression(images: Tensor) -> Scores:
        def features_of(stacks: Tensor) -> Tensor:
            return extractor.features(extractor.stem(images, reads=kind.reads), per_image(kind, bank, stacks))

        return learner.refined(learner.regression._scores(images), features_of)

    if learner.by_regression:
        views = 1 if extractor.symmetry is None else extractor.symmetry.looked
        if settings.within and settings.retrieved_views < views:
            raise InputError(
                f"with stage_one='ridge' and within={settings.within:g} the graph looks at all views under an adapter: "
                f"set retrieved_views={views}, or within=0"
            )
        return _one_pass(learner, by_regression)

    def finish(logits: Tensor, similarity: Tensor, features: Tensor) -> Scores:
        found = judged(logits, similarity, features)
        return found if averaged is None else Scores.averaged(found.of_views(learned(symmetry).group.order))

    def judged(logits: Tensor, similarity: Tensor, features: Tensor) -> Scores:
        values = ensemble(logits, similarity, state.experiences) / 2 if settings.ensemble else logits.softmax(-1)
        probabilities, p_value = learner.judged(values, features)
        return Scores(values, probabilities=probabilities, p_value=p_value)

    def scores(images: Tensor) -> Scores:
        features = extractor.features(images, first)
        return judged(head(features), cosine_scores(features, prototypes), features)

    if len(state.bank) == 1:
        return _one_pass(learner, scores)

    images, averaged, symmetry = _example(learner), _averaged(learner), extractor.symmetry
    under = AdapterFeatures(extractor, kind, bank, images, views=settings.retrieved_views)
    with torch.no_grad():
        few, stem = under.few, under.stem
    # Of views that are chosen, the graph has them all.
    chosen = symmetry is not None and few is None and stem.weights is not None
    views = symmetry.group.order if symmetry is not None and chosen else few or stem.views

    def start(images: Tensor) -> list[Tensor]:
        """Return the tokens that rounds read, how views count, and what all have over few under the first adapter."""
        stem = extractor.stem(images if averaged is None else averaged(images), reads=kind.reads)
        if few is not None:
            every, some = extractor.features_and_some(stem, first, few)
            seen = stem.only(few)
            return [seen.h, *seen.passed, every - some]
        return [stem.h, *stem.passed] if stem.weights is None else [stem.h, *stem.passed, stem.weights]

    def step(tokens: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        passed, rest = rest[: len(stem.passed)], rest[len(stem.passed) :]
        weights = rest[0] if chosen else None if few is None else tokens.new_full((tokens.shape[0], few), 1 / few)
        own = SharedStem(tokens, stem.rope, views=views, weights=weights, passed=passed)
        features = extractor.features(own, per_image(kind, bank, rest[-1]))
        if few is not None:
            features = features + rest[0]
        logits = head(features)
        return features, logits, experience[logits.argmax(-1)]

    def stage_one(features: Tensor) -> tuple[Tensor, Tensor]:
        similarity = cosine_scores(features, prototypes)
        return similarity, experience[similarity.argmax(-1)]

    tokens, *passed = (t[:, : t.shape[1] // stem.views].repeat(1, views, 1) for t in (stem.h, *stem.passed))
    extra = {"weights": tokens.new_full((2, views), 1 / views)} if chosen else {}
    extra |= {"rest": tokens.new_zeros(2, frozen.width)} if few is not None else {}
    rows = {"tokens": tokens, **{f"passed {place}": t for place, t in enumerate(passed)}, **extra}
    with torch.no_grad():
        given = [*rows.values(), torch.zeros(2, dtype=torch.int64)]
        features, logits, _ = step(*given)
        results = [logits, stage_one(features)[0], features]
        if averaged is not None:
            results = [rows.repeat(learned(symmetry).group.order, 1) for rows in results]
        names = _present(finish(*results))
    own = [f"own {name}" for name in rows]
    return looped(
        start=traced(start, [images], ["images"], [*rows], frozen),
        step=traced(step, given, [*own, "wanted"], ["new_features", "answer", "asked"], frozen),
        stage_one=traced(stage_one, [features], ["new_features"], ["cosines", "choice"], frozen),
        finish=traced(
            lambda *x: _columns(finish(*x), names), results, ["logits", "similarity", "features"], names, frozen
        ),
        outputs=names,
        sizes={"C": len(state.classes), "D": frozen.width},
        rounds=settings.retrieval_rounds,
        averaged=averaged is not None,
    )
