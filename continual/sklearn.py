"""A learner as a scikit-learn classifier of images: `partial_fit` learns an experience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from continual import methods
from continual.backbones.loading import Backbone
from continual.data.containers import by_position
from continual.data.ranges import ValueRange
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.uncertainty.tempering import agreeing


class ContinualClassifier(ClassifierMixin, BaseEstimator):
    """Learns classes of images, of which new ones may come with every `partial_fit`.

    `backbone` is one that was loaded, timm's full tag, or a list of several, read side by side; `method` one of
    `equimos methods`, with its `settings` by name. Images `X` are a list, array, tensor or column as
    `IncrementalLearner.learn` takes them: of paths, PIL images, arrays; `y` has one str or int each, by position.
    `value_range` is that of `learn`, for fitting and answering alike.

    The learner itself is `learner_`: it corrects, renames and forgets, saves, and says what is unknown.

    >>> from continual.testing import coloured_squares, tiny_backbone
    >>> images, labels = coloured_squares([0, 1], 4)
    >>> model = ContinualClassifier(tiny_backbone(), method="simple_cil").partial_fit(images, labels)
    >>> more, names = coloured_squares([7], 4)
    >>> model.partial_fit(more, names).classes_
    array([0, 1, 7])
    >>> model.predict(more), model.score(images, labels)
    (array([7, 7, 7, 7]), 1.0)
    >>> model.predict_proba(images).shape
    (8, 3)
    """

    def __init__(
        self,
        backbone: Backbone | str | Sequence[Backbone | str],
        *,
        method: str = methods.RECOMMENDED,
        settings: Mapping[str, Any] | None = None,
        device: str | None = None,
        value_range: ValueRange | None = None,
    ) -> None:
        self.backbone = backbone
        self.method = method
        self.settings = settings
        self.device = device
        self.value_range = value_range

    def fit(self, X: Any, y: Any) -> Self:
        """Forget everything and learn one experience."""
        self.__dict__.pop("learner_", None)
        return self.partial_fit(X, y)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Learn one experience more; see `IncrementalLearner.learn` for what it does to classes seen before.

        `classes` is not needed and ignored: nobody knows what the next month brings. Labels that are whole floats
        become ints. Raises InputError, and stays as it was, for images or labels that cannot be used.
        """
        learner: IncrementalLearner[Any] | None = getattr(self, "learner_", None)
        if learner is None:
            name, preset = methods.with_preset(self.method)
            options = {"preset": preset, **(self.settings or {})}
            learner = methods.method(name)(self.backbone, device=self.device, **options)
        learner.learn(X, _labels(y), value_range=self.value_range)
        self.learner_ = learner
        return self

    @property
    def classes_(self) -> NDArray[Any]:
        """The classes learned so far, (C,), sorted as scikit-learn's metrics expect them."""
        check_is_fitted(self)
        return np.array(sorted(self.learner_.classes))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the answer for each image, (B,); raises NotFittedError before anything was learned."""
        check_is_fitted(self)
        return np.array(self.learner_.predict(X, value_range=self.value_range).labels)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return a probability for each image and class, (B, C), columns as in `classes_`, rows summing to 1.

        They are calibrated, except for finetune, l2p and joint, which have no estimate of certainty: those give
        scores that only rank.
        The likeliest class is always the answer of `predict`.
        """
        check_is_fitted(self)
        found = self.learner_.predict(X, value_range=self.value_range)
        values = agreeing(found.scores if found.probabilities is None else found.probabilities, found.scores)
        order = [found.classes.index(label) for label in sorted(found.classes)]
        rows: NDArray[np.float64] = values[:, order].double().numpy()
        return rows / rows.sum(1, keepdims=True)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "learner_")

    def __sklearn_clone__(self) -> Self:
        # The backbone is frozen: copies of an estimator, of which searches make many, may share it.
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def _labels(y: Any) -> Any:
    """Return labels by position, whole floats as ints; raises InputError in scikit-learn's words for other floats."""
    y = by_position(y, "labels")
    if not isinstance(y, list | tuple | np.ndarray) or np.asarray(y).dtype.kind != "f":
        return y
    values = np.asarray(y)
    if not np.equal(values, np.trunc(values)).all():
        raise InputError("Unknown label type: continuous numbers; labels of classes are str or int")
    return values.astype(np.int64)
