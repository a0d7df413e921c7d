"""Models learned at several places are, merged, the model that learning all images in one place gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from continual import MOSLearner, RanPACLearner, RidgeLearner, SimpleCILLearner, StrataLearner, load, merged
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.testing import coloured_squares, tiny_backbone

BACKBONE = tiny_backbone()
IMAGES, LABELS = coloured_squares(range(5), 6)
TEST = coloured_squares(range(5), 3, seed=1)[0]
NAMES = ["ant", "bee", "cat", "dog", "eel"]

Learner = IncrementalLearner[Any]


def make(name: str, **more: Any) -> Learner:
    kinds = {"ridge": RidgeLearner, "strata": StrataLearner, "simple_cil": SimpleCILLearner, "ranpac": RanPACLearner}
    own = {"epochs": 0, "projection": 64} if name == "ranpac" else {}
    return kinds[name](BACKBONE, **own, **more)


def learned(name: str, rows: list[int], **more: Any) -> Learner:
    learner = make(name, **more)
    learner.learn(IMAGES[rows], [NAMES[LABELS[row]] for row in rows])
    return learner


def values(learner: Learner) -> Tensor:
    """What decides, (n, C), with the classes in the order of their names."""
    order = [learner.classes.index(label) for label in sorted(map(str, learner.classes))]
    return learner.predict(TEST).scores[:, order]


@pytest.mark.parametrize("name", ["ridge", "strata", "simple_cil", "ranpac"])
@settings(max_examples=6)
@given(places=st.lists(st.integers(0, 3), min_size=len(LABELS), max_size=len(LABELS)), balance=st.sampled_from([0, 1]))
def test_it_is_the_model_of_one_place(name: str, places: list[int], balance: int) -> None:
    more = {} if name == "simple_cil" else {"balance": balance}
    sites = [[row for row, place in enumerate(places) if place == site] for site in range(4)]
    sites = [rows for rows in sites if rows]
    if len(sites) < 2:
        return
    parts = [learned(name, rows, **more) for rows in sites]
    whole = learned(name, list(range(len(LABELS))), **more)
    for order in (parts, parts[::-1]):
        joint = merged(order)
        if name == "ranpac":  # its penalty is drawn from the newest images: the same one on both sides
            whole.state = whole.solved(replace(whole.state, penalty=joint.state.penalty))  # type: ignore[attr-defined]
        assert (values(joint) - values(whole)).abs().max() < 1e-5
        assert joint.state.updates == len(sites)
        assert set(joint.classes) == set(whole.classes)


def test_it_learns_on_forgets_and_is_saved(tmp_path: Any) -> None:
    joint = merged([learned("strata", list(range(12))), learned("strata", list(range(10, 24)))])
    assert joint.classes == ("ant", "bee", "cat", "dog")
    assert joint.state.class_experience == (0, 0, 1, 1)
    joint.learn(IMAGES[24:], ["eel"] * 6)
    joint.forget("bee")
    joint.save(tmp_path / "joint.safetensors")
    again = load(tmp_path / "joint.safetensors", BACKBONE)
    assert again.classes == ("ant", "cat", "dog", "eel")
    assert torch.equal(again.predict(TEST).scores, joint.predict(TEST).scores)


def test_probabilities_are_made_of_what_both_found() -> None:
    parts = [learned("strata", list(range(12))), learned("strata", list(range(12, 30)))]
    joint = merged(parts)
    found = [learner.state.certainty for learner in (*parts, joint)]
    assert float(found[2].images) == float(found[0].images) + float(found[1].images) > 0
    answer = joint.predict(TEST)
    assert answer.probabilities is not None
    assert torch.allclose(answer.probabilities.sum(1), torch.ones(len(TEST)))


def test_those_given_stay_as_they_are() -> None:
    parts = [learned("ridge", list(range(12))), learned("ridge", list(range(12, 30)))]
    before = [learner.predict(TEST).scores for learner in parts]
    merged(parts)
    for learner, scores in zip(parts, before, strict=True):
        assert torch.equal(learner.predict(TEST).scores, scores)


def test_what_cannot_be_merged_is_refused() -> None:
    ridge, other = learned("ridge", list(range(12))), learned("ridge", list(range(12, 24)), seed=5)
    elsewhere = RidgeLearner(tiny_backbone(seed=1))
    elsewhere.learn(IMAGES[:12], LABELS[:12])
    numbered = make("ridge")
    numbered.learn(IMAGES[:12], LABELS[:12])
    for learners, said in (
        ([ridge], "two models"),
        ([ridge, learned("strata", list(range(12)))], "its method is strata, not ridge"),
        ([ridge, other], "seed is 5, not 1993"),
        ([ridge, elsewhere], "says nothing of another's"),
        ([ridge, numbered], "its classes are int, not str"),
        ([ridge, make("ridge")], "learned nothing"),
    ):
        with pytest.raises(InputError, match=said):
            merged(learners)
    trained = []
    for rows in (range(8), range(8, 16)):
        trained.append(MOSLearner(BACKBONE, epochs=1, alignment_epochs=0, batch_size=4))
        trained[-1].learn(IMAGES[rows], [LABELS[row] for row in rows])
    with pytest.raises(InputError, match="trained on other images"):
        merged(trained)
