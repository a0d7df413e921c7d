"""The scikit-learn side: parameters, clones, columns in order, and the learner's own answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import get_scorer
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
