"""The scikit-learn side: parameters, clones, columns in order, and the learner's own answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import get_scorer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.sklearn import ContinualClassifier

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK = {"epochs": 5, "batch_size": 4, "lr": 0.05, "bottleneck": 4, "alignment_lr": 0.05}


@pytest.mark.parametrize("options", [{}, {"method": "mos", "settings": QUICK}], ids=["by default", "mos"])
def test_answers_are_the_learners_in_sorted_columns(backbone: Backbone, blobs: Blobs, options: dict[str, Any]) -> None:
    model = ContinualClassifier(backbone, **options)
    model.partial_fit(*blobs([5, 7], 8)).partial_fit(*blobs([6], 8))
    images, labels = blobs([5, 6, 7], 4, 1)
    direct = model.learner_.predict(images)
    assert model.learner_.classes == (5, 7, 6)
    assert model.classes_.tolist() == [5, 6, 7]
    assert model.predict(images).tolist() == direct.labels
    shares = model.predict_proba(images)
    np.testing.assert_allclose(shares[:, 1], direct.probabilities[:, 2], rtol=1e-6)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    assert get_scorer("neg_log_loss")(model, images, labels) > -0.5
    assert get_scorer("accuracy")(model, images, labels) == model.score(images, labels) == 1


def test_parameters_and_clones(backbone: Backbone, blobs: Blobs) -> None:
    model = ContinualClassifier(backbone, method="simple_cil").fit(*blobs([0, 1], 4))
    other = clone(model)
    assert other.get_params() == {
        "backbone": backbone,
        "method": "simple_cil",
        "settings": None,
        "device": None,
        "value_range": None,
    }
    assert other.backbone is backbone
    with pytest.raises(NotFittedError):
        other.predict(blobs([0], 1)[0])
    with pytest.raises(NotFittedError):
        _ = other.classes_
    assert model.fit(*blobs([3, 4], 4)).classes_.tolist() == [3, 4]
    other.set_params(settings={"sead": 1})
    with pytest.raises(InputError, match="did you mean 'seed'"):
        other.fit(*blobs([0], 4))


def test_arrays_paths_and_names(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    """What the same pictures are given as changes nothing."""
    images, labels = blobs([0, 1], 4)
    names = [f"class {label}" for label in labels]
    arrays = images.permute(0, 2, 3, 1).numpy()
    paths = [tmp_path / f"{number}.png" for number in range(len(names))]
    for array, path in zip(arrays, paths, strict=True):
        Image.fromarray(array).save(path)
    by_array, by_path = (
        ContinualClassifier(backbone, method="simple_cil").fit(given, names) for given in (arrays, paths)
    )
    assert by_path.classes_.tolist() == ["class 0", "class 1"]
    assert by_path.predict(paths).tolist() == by_array.predict(arrays).tolist() == names
    np.testing.assert_allclose(by_path.predict_proba(paths), by_array.predict_proba(arrays), rtol=1e-5)


def test_a_mistake_leaves_it_as_it_was(backbone: Backbone, blobs: Blobs) -> None:
    model = ContinualClassifier(backbone, method="simple_cil").fit(*blobs([0, 1], 4))
    with pytest.raises(InputError, match="use one kind"):
        model.partial_fit(blobs([2], 2)[0], ["two", "two"])
    assert model.classes_.tolist() == [0, 1]


# scikit-learn's own checks -----------------------------------------------------------------------------------

#: checks of scikit-learn that do not hold, each with the reason
EXCEPTED = {
    "check_estimators_overwrite_params": "compares parameters by pickle, and a backbone makes copies on other devices",
    "check_methods_subset_invariance": "asks for 1e-7; float32 products are rounded by the size of the batch",
}


class Stripes(ContinualClassifier):
    """The classifier on scikit-learn's tables: every number of a row becomes a stripe of an image.

    Its `fit` and answers check tables as scikit-learn asks; all else is the classifier's own.
    """

    def fit(self, X: Any, y: Any) -> Stripes:
        table, y = validate_data(self, X, y)
        self.__dict__.pop("learner_", None)
        super().partial_fit(_striped(table), y)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Stripes:
        table, y = validate_data(self, X, y, reset=not hasattr(self, "learner_"))
        super().partial_fit(_striped(table), y)
        return self

    def predict(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().predict(_striped(validate_data(self, X, reset=False)))

    def predict_proba(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().predict_proba(_striped(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags


def _striped(table: Any) -> Any:
    """Return uint8 images (N, F, F, 3) of a table (N, F)."""
    columns = (255 / (1 + np.exp(-np.asarray(table, np.float64)))).astype(np.uint8)
    return np.tile(columns[:, None, :, None], (1, columns.shape[1], 1, 3))


def test_scikit_learns_own_checks(backbone: Backbone) -> None:
    """Of images themselves scikit-learn checks next to nothing, so tables are made images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(
            Stripes(backbone, method="simple_cil"), expected_failed_checks=EXCEPTED, on_skip=None, on_fail=None
        )
    failed = {found["check_name"]: found["exception"] for found in results if found["status"] == "failed"}
    assert not failed
    assert {found["check_name"] for found in results if found["status"] == "xfail"} == EXCEPTED.keys()
    assert sum(found["status"] == "passed" for found in results) > 45


def test_float_labels(backbone: Backbone, blobs: Blobs) -> None:
    """Whole ones are classes, as pandas makes them of a column with a gap; others are no classes."""
    images, labels = blobs([0, 1], 4)
    model = ContinualClassifier(backbone, method="simple_cil").fit(images, np.array(labels, float))
    assert model.learner_.classes == (0, 1)
    assert model.score(images, np.array(labels, float)) == 1
    with pytest.raises(InputError, match="Unknown label type: continuous"):
        model.fit(images, np.array(labels) + 0.5)
