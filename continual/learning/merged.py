"""Models that were learned at different places, as one; no image that was learned is moved.

What a closed form remembers are sums over images. Sums of two places add up, so the merged model is the one that
learning all images in one place gives: to rounding, in any order, also where places share classes.

Methods that train see features of their own at every place. Where a model keeps several adapters, those of all places
are kept, and what is remembered under each stays; where it has a single set of weights, a rule of `continual.merging`
makes one of all, and what is remembered is mapped to its features. A head is aligned after that. Such models are put
into an order of their own first, so that the merged model is the same, to the bit, in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from continual import merging
from continual.adapters.base import Weights
from continual.data.ranges import ValueRange
from continual.errors import InputError, LearningError
from continual.learning.extractor import Progress
from continual.learning.joining import Meeting
from continual.learning.learner import IncrementalLearner
from continual.learning.porting import Space
from continual.learning.state import JointClasses

Learner = IncrementalLearner[Any]


def merged(
    learners: Sequence[Learner],
    images: Any = None,
    *,
    rule: str | None = None,
    rule_args: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    workers: int = 0,
    value_range: ValueRange | None = None,
) -> Learner:
    """Return one learner that knows what all of them know; those given stay as they are.

    Classes of one name are one class. An image that two of them have learned counts twice.

    Args:
        learners: two or more, of one method, backbone and settings.
        images: some 200 images of anything, as `predict` takes them, for methods whose features differ by what was
            trained; closed forms, and models that have trained the same, need none.
        rule: how methods with a single set of trained weights (slca, aper, ranpac) make one of all: "mean" by
            default, see `equimos list merging`. Others keep every adapter, or have none.
        rule_args: settings of that rule.
        progress: of reading the images, as for `IncrementalLearner.learn`.
        workers: processes that load them.
        value_range: what their numbers mean, as for `learn`.

    Raises InputError for fewer than two, for learners that differ in method, backbone, preprocessing, settings or kind
    of labels, for those that have learned nothing, for methods that cannot be merged, and where images are needed.
    """
    if len(learners) < 2:
        raise InputError("merging takes two models at least")
    first = learners[0]
    for number, other in enumerate(learners[1:], start=2):
        if different := _difference(first, other):
            raise InputError(f"model {number} cannot be merged with the first: {different}")
    if any(not learner.classes for learner in learners):
        raise InputError("a model that has learned nothing cannot be merged: leave it out")
    if first.unmergeable:
        raise InputError(
            f"models of {first.method} cannot be merged: {first.unmergeable}. Methods that remember sums, means or "
            "distributions of features can, such as strata and mos"
        )
    if edits := [one.name for learner in learners for one in learner.state.ignored or () if one.mlp is not None]:
        raise InputError(
            f"{edits[0]!r} is suppressed by an edit of one model's backbone: allow it, merge, and suppress it again "
            "(equimos concept allow)"
        )
    own = [learner.common_weights() for learner in learners]
    trained = [weights for weights in own if weights is not None]
    if rule is not None and not trained:
        raise InputError(
            f"a rule merges a single set of trained weights, of which {first.method} has none here: leave rule "
            f"{rule!r} out" + (" (`equimos consolidate --rule` makes one adapter of all)" * first.keeps_every_adapter)
        )
    if trained or first.keeps_every_adapter:
        learners = sorted(learners, key=_order)
    meeting = Meeting(learners, images, progress, workers, value_range)
    if trained:
        learners = _brought_together(learners, meeting, rule or "mean", rule_args or {})
    states = [learner.state for learner in learners]
    single = learners[0].variant()
    single.state = single.joined_apart(states, JointClasses.of(states), meeting)
    try:
        single.trial()
    except Exception as error:
        raise LearningError(f"the merged model does not answer ({error}); those given are as they were") from error
    return single


def _brought_together(
    learners: Sequence[Learner], meeting: Meeting, rule: str, rule_args: Mapping[str, Any]
) -> list[Learner]:
    """Return the models with one set of trained weights for all, and what they remember under it."""
    own = [known for learner in learners if (known := learner.common_weights()) is not None]
    if len(own) < len(learners):
        raise InputError("some of these models have trained weights, and some have not: they cannot be merged")
    weights, begin = [one for one, _ in own], own[0][1]
    if all(_same(one, weights[0]) for one in weights):
        merging.base.check_settings(rule, rule_args)
        return [*learners]
    if ignored := [one.name for learner in learners for one in learner.state.ignored or () if one.rows is not None]:
        raise InputError(
            f"{ignored[0]!r} is suppressed in features of one model: allow it, merge, and suppress it again "
            "(equimos concept allow)"
        )
    floats = [name for name, tensor in weights[0].items() if tensor.is_floating_point()]
    fixed = [{name: tensor for name, tensor in one.items() if name not in floats} for one in weights]
    if any(one.keys() != weights[0].keys() for one in weights) or not all(_same(one, fixed[0]) for one in fixed):
        raise InputError(
            "these models trained weights of other places or ranks, which no rule can merge: begin models that are to "
            "be merged from one file"
        )
    common = merging.base.merged(rule, weights, begin, only=floats, **rule_args)
    found = []
    for learner in learners:
        target = learner.variant()
        target.state = learner.with_weights(common)
        pairs = zip(meeting.read(learner), meeting.read(target), strict=True)
        spaces = [Space(old, new, meeting.fitted(old, new)) for old, new in pairs]
        target.state = learner.ported(target, spaces, 0.0)
        found.append(target)
    return found


def _same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(own, other[name]) for name, own in one.items())


def _order(learner: Learner) -> tuple[int, str]:
    """Return what models are ordered by, whatever order they come in: most classes first, then a digest."""
    digest = hashlib.sha256(repr(learner.classes).encode())
    for name, tensor in sorted(learner.export()[0].items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return -len(learner.classes), digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _difference(first: IncrementalLearner[Any], other: IncrementalLearner[Any]) -> str | None:
    """Return what keeps two models apart, or None."""
    if first.method != other.method:
        return f"its method is {other.method}, not {first.method}"
    if first.backbone.sha256 != other.backbone.sha256:
        return (
            f"its backbone is {other.backbone.name} ({other.backbone.sha256[:8]}), not {first.backbone.name} "
            f"({first.backbone.sha256[:8]}): what is remembered of one network's features says nothing of another's; "
            "bring it there first with learner.port(backbone, images)"
        )
    if first.backbone.preprocessing != other.backbone.preprocessing:
        return "it prepares images in another way"
    own, its = (one.settings.model_dump() for one in (first, other))
    free = first.settings.at_inference | first.settings.at_training
    if names := [
        f"{name} is {its[name]}, not {own[name]}" for name in own if name not in free and own[name] != its[name]
    ]:
        return f"its setting {'; '.join(names)}"
    if first.classes and other.classes and type(first.classes[0]) is not type(other.classes[0]):
        return f"its classes are {type(other.classes[0]).__name__}, not {type(first.classes[0]).__name__}"
    groups = [one.state.choice.group if one.state.choice else None for one in (first, other)]
    if groups[0] != groups[1]:
        return (
            f"its images decided on the group {groups[1] or 'none'}, not {groups[0] or 'none'}: make all of them with "
            "one --symmetry, or begin them from one file"
        )
    fitted, its_fitted = first.state.fitted, other.state.fitted
    if fitted.keys() != its_fitted.keys() or any(not torch.equal(fitted[k], its_fitted[k]) for k in fitted):
        return "its symmetry was fitted to other images: begin models that are to be merged from one file"
    return None
