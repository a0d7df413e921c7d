"""Models that were learned at different places, as one; no image is moved.

What a closed form remembers are sums over images. Sums of two places add up, so the merged model is the one that
learning all images in one place gives: to rounding, in any order, also where places share classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.learning.state import JointClasses


def merged(learners: Sequence[IncrementalLearner[Any]]) -> IncrementalLearner[Any]:
    """Return one learner that knows what all of them know; those given stay as they are.

    Classes of one name are one class. An image that two of them have learned counts twice.

    Raises InputError for fewer than two, for learners that differ in method, backbone, preprocessing, settings or kind
    of labels, for those that have learned nothing, and for methods that are no closed form.
    """
    if len(learners) < 2:
        raise InputError("merging takes two models at least")
    first = learners[0]
    for number, other in enumerate(learners[1:], start=2):
        if different := _difference(first, other):
            raise InputError(f"model {number} cannot be merged with the first: {different}")
    if any(not learner.classes for learner in learners):
        raise InputError("a model that has learned nothing cannot be merged: leave it out")
    states = [learner.state for learner in learners]
    single = first.variant()
    single.state = first.joined(states, JointClasses.of(states))
    return single


def _difference(first: IncrementalLearner[Any], other: IncrementalLearner[Any]) -> str | None:
    """Return what keeps two models apart, or None."""
    if first.method != other.method:
        return f"its method is {other.method}, not {first.method}"
    if first.backbone.sha256 != other.backbone.sha256:
        return (
            f"its backbone is {other.backbone.name} ({other.backbone.sha256[:8]}), not {first.backbone.name} "
            f"({first.backbone.sha256[:8]}): what is remembered of one network's features says nothing of another's"
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
    fitted, its_fitted = first.state.fitted, other.state.fitted
    if fitted.keys() != its_fitted.keys() or any(not torch.equal(fitted[k], its_fitted[k]) for k in fitted):
        return "its symmetry was fitted to other images: begin models that are to be merged from one file"
    return None
