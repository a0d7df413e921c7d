"""One door to an answer: a learner gives one, whoever asks and in whatever form, for every method and symmetry."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from continual.avalanche.module import LearnerModule
from continual.cli import bulk
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.methods import methods
from continual.serving.model import Served, answer
from continual.sklearn import ContinualClassifier
from continual.symmetry import KINDS
from continual.testing import synthetic_case, tiny_backbones
from continual.testing.assertions import assert_same
from tests.conformance.test_laws import QUICK

NONE = "none"
TWO = "strata on two backbones"
USUAL = (NONE, "frame", "score_averaging")
OTHERS = tuple(name for name in KINDS.all() if name not in USUAL)
#: All symmetries of these are tried in the default tier.
WHOLE = ("strata", "mos", TWO)
#: Of these graphs are written in the default tier: it takes seconds.
GRAPHS = (("strata", "frame"),)


def cases(quick: Callable[[str, str], bool]) -> list[Any]:
    pairs = [(name, kind) for name in (*methods(), TWO) for kind in (*USUAL, *OTHERS)]
    return [pytest.param(*pair, marks=() if quick(*pair) else pytest.mark.slow, id="-".join(pair)) for pair in pairs]


@pytest.fixture(scope="module")
def learned() -> Callable[[str, str], tuple[IncrementalLearner[Any], list[Image.Image], Tensor]]:
    """A learner of two experiences, pictures, and the same prepared (N, 3, H, W); made once."""
    known: dict[tuple[str, str], Any] = {}

    def make(name: str, kind: str) -> Any:
        if (name, kind) not in known:
            learner = methods()[name.partition(" ")[0]]
            quick = {k: v for k, v in QUICK.items() if k in learner.settings_type.model_fields}
            case = synthetic_case(learner, tiny_backbones() if name == TWO else None, **quick)
            symmetry = {} if kind == NONE else {"group": "C4", "symmetry": kind}
            found = case.after(case.experiences[:2], eval_batch_size=len(case.images), **symmetry)
            view = found.preprocessing.evaluation()
            pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in case.images]
            known[name, kind] = found, pictures, torch.stack([view(picture) for picture in pictures])
        return known[name, kind]

    return make


def refused(name: str, kind: str) -> AbstractContextManager[Any]:
    """Learning is refused where a method cannot be under a symmetry, and says which to take."""
    impossible = name in ("strata", TWO) and kind != NONE and KINDS.get(kind).reads_features
    return pytest.raises(InputError, match="symmetry='frame'") if impossible else nullcontext()


@pytest.mark.parametrize(("name", "kind"), cases(lambda name, kind: name in WHOLE or kind in USUAL))
def test_every_door_gives_the_same_answer(name: str, kind: str, learned: Callable[[str, str], Any]) -> None:
    with refused(name, kind):
        learner, pictures, prepared = learned(name, kind)
        expected = learner.predict(pictures)

        rows, scores = LearnerModule(learner).answer(prepared)
        assert_same(expected, scores.prediction(learner.classes, None), "Avalanche's evaluation")
        assert [int(row) for row in rows.argmax(1)] == expected.labels

        served = Served(learner, (0, 0, 0))
        scores = served.scores([served.prepare(picture) for picture in pictures])
        assert_same(expected, scores.prediction(learner.classes, None), "the server")

        classifier = ContinualClassifier(learner.backbone, method=learner.method)
        classifier.learner_ = learner  # what `partial_fit` leaves
        assert classifier.predict(pictures).tolist() == expected.labels
        values = expected.scores if expected.probabilities is None else expected.probabilities
        order = [learner.classes.index(label) for label in classifier.classes_.tolist()]
        shares = classifier.predict_proba(pictures)
        np.testing.assert_allclose(shares, values[:, order], atol=2e-6)

        # What decides and what is called a probability are one thing.
        assert classifier.classes_[shares.argmax(1)].tolist() == expected.labels
        for row, label in enumerate(expected.labels):
            said = answer(served, scores, row, 0.05)
            assert said["answer"] == label
            assert said["probability"] in (None, max(best["probability"] or 0 for best in said["best"]))
        records = bulk.records([Path(str(row)) for row in range(len(pictures))], expected)
        assert [record["answer"] for record in records] == expected.labels
        if expected.probabilities is not None:
            assert [record["probability"] for record in records] == expected.probabilities.amax(1).tolist()


@pytest.mark.parametrize(("name", "kind"), cases(lambda *pair: pair in GRAPHS))
def test_the_graph_gives_the_same_answer(
    name: str, kind: str, learned: Callable[[str, str], Any], tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from continual.export import writing
    from continual.export.onnx_runner import Runner

    with refused(name, kind):
        learner, pictures, prepared = learned(name, kind)
        agreed = writing.export_onnx(learner, tmp_path / "model.onnx")
        assert agreed.images == agreed.same_answers == agreed.within
        runner, expected = Runner(tmp_path / "model.onnx"), learner.predict(pictures)
        found = runner.run(prepared.numpy())
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-4)
        best = expected.scores.sort(descending=True).values
        clear = (best[:, 0] - best[:, 1] > 2e-4).numpy()
        assert (found["scores"].argmax(1) == expected.scores.argmax(1).numpy())[clear].all()
        if "probabilities" in found:
            assert (found["probabilities"].argmax(1) == found["scores"].argmax(1)).all()
        for column in ("probabilities", "familiarity", "stack", "first_stack", "refinements"):
            value = getattr(expected, {"familiarity": "p_value"}.get(column, column))
            assert (column in found) == (value is not None), column
            if value is not None:
                np.testing.assert_allclose(found[column], value, atol=1e-3)
        rotated = runner.run(prepared.rot90(1, (-2, -1)).numpy().copy())
        if kind not in (NONE, "augmentation"):
            np.testing.assert_array_equal(rotated["scores"], found["scores"])
