"""Models learned at several places are, merged, the model that learning all images in one place gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from continual import (
    APERLearner,
    EASELearner,
    FinetuneLearner,
    JointLearner,
    MOSLearner,
    RanPACLearner,
    RidgeLearner,
    SimpleCILLearner,
    SLCALearner,
    StrataLearner,
    load,
    merged,
)
from continual.data.inputs import as_experience
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.methods.mos.consolidation import consolidated
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
    for kind, said in ((FinetuneLearner, "nothing of its classes but a head"), (JointLearner, "it keeps images")):
        trained = [taught(kind, rows) for rows in (range(8), range(8, 16))]
        with pytest.raises(InputError, match=f"{kind.method} cannot be merged: .*{said}"):
            merged(trained, ANYTHING)
    apart = [taught(MOSLearner, rows) for rows in (range(8), range(8, 16))]
    for images, more, said in (
        (None, {}, "give some 200 images of anything"),
        (ANYTHING[:5], {}, "5 images are too few"),
        (ANYTHING, {"rule": "pcb"}, "leave rule 'pcb' out .*consolidate --rule"),
    ):
        with pytest.raises(InputError, match=said):
            merged(apart, images, **more)
    with pytest.raises(InputError, match="share_reading"):
        merged([taught(MOSLearner, rows, adapter="lora") for rows in (range(8), range(8, 16))], ANYTHING)
    aper = [taught(APERLearner, rows) for rows in (range(8), range(8, 16))]
    for more, said in (({"rule": "pbc"}, "unknown merge rule"), ({"rule": "pcb", "rule_args": {"share": 1}}, "share")):
        with pytest.raises(InputError, match=said):
            merged(aper, ANYTHING, **more)


# Methods that train -------------------------------------------------------------------------------------

ANYTHING = coloured_squares(range(20, 45), 2, seed=2)[0]
QUICK = {"epochs": 6, "batch_size": 4, "lr": 0.05, "bottleneck": 4, "alignment_epochs": 20, "projection": 64}


def taught(kind: Any, *parts: Any, **more: Any) -> Any:
    """A learner that has learned parts of the images in turn."""
    known = {key: value for key, value in {**QUICK, **more}.items() if key in kind.settings_type.model_fields}
    learner = kind(BACKBONE, **known)
    for rows in parts:
        learner.learn(IMAGES[[*rows]], [NAMES[LABELS[row]] for row in rows])
    return learner


def of(classes: str, half: int | None = None) -> list[int]:
    """Rows of classes by their first letters; of each half of the images, if one is given."""
    rows = [row for row, label in enumerate(LABELS) if NAMES[label][0] in classes]
    return rows if half is None else [row for row in rows if row % 2 == half]


@pytest.mark.parametrize(
    "statistics",
    ["low_rank", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("full", "diagonal", "centroids"))],
)
def test_adapters_of_all_sites_are_kept_and_each_class_answers_under_its_own(statistics: str) -> None:
    here = taught(MOSLearner, of("ab"), of("c", 0), statistics=statistics)
    there = taught(MOSLearner, of("de"), of("c", 1), statistics=statistics)
    joint: Any = merged([here, there], ANYTHING)
    assert {*joint.classes} == {*NAMES}
    state = joint.state
    assert len(state.bank) == state.experiences == len(state.shifts) == 3, "the other's adapter of c is not needed"
    assert len(state.shift_sums.origins) == 3
    for own in (here, there):
        for label, k, statistic in zip(own.classes, own.state.class_experience, own.state.statistics, strict=True):
            index = joint.classes.index(label)
            stack = state.bank[state.class_experience[index]]
            mine = all(torch.equal(stack[name], own.state.bank[k][name]) for name in stack)
            if label != "cat":
                assert mine
                assert torch.equal(state.statistics[index].mean, statistic.mean)
                assert int(state.prototypes.count[index]) == 6
    cat = joint.classes.index("cat")
    assert state.statistics[cat].count == int(state.prototypes.count[cat]) == 6
    right = joint.evaluate(IMAGES, [NAMES[label] for label in LABELS])
    assert right >= 0.9, right
    quick = joint.variant(early_exit=0.01).predict(TEST)
    assert len(quick.labels) == len(TEST)


def test_prototypes_of_the_other_site_are_seen_by_the_first_adapter() -> None:
    """By a map they lie nearer to the means of its images under that adapter, which the other site cannot know."""
    parts = [taught(MOSLearner, of("ab"), lr=0.3, epochs=20), taught(MOSLearner, of("cde"), lr=0.3, epochs=20)]
    joint: Any = merged(parts, ANYTHING)
    names = list(joint.classes)
    first = next(
        one for one in parts if torch.equal(one.state.bank[0]["down_weight"], joint.state.bank[0]["down_weight"])
    )
    other = parts[1 - parts.index(first)]
    data = as_experience(IMAGES, LABELS, first.preprocessing)
    images = torch.stack([data.evaluation[i][0] for i in range(len(LABELS))])
    under = first.remembered_features(first.extractor, images)[0]
    for label, known in zip(other.classes, other.state.prototypes.mean, strict=True):
        truth = under[[NAMES[own] == label for own in LABELS]].mean(0)
        mapped = joint.state.prototypes.mean[names.index(label)]
        assert (mapped - truth).norm() < 0.7 * (known - truth).norm()


def test_what_began_from_one_file_is_there_once_and_needs_no_image(tmp_path: Any) -> None:
    taught(MOSLearner, of("ab")).save(tmp_path / "begin.safetensors")
    here, there = (load(tmp_path / "begin.safetensors", BACKBONE) for _ in range(2))
    here.learn(IMAGES[of("c")], ["cat"] * 6)
    there.learn(IMAGES[of("de")], [NAMES[LABELS[row]] for row in of("de")])
    joint: Any = merged([here, there])
    state = joint.state
    assert len(state.bank) == state.experiences == len(state.shift_sums.origins) == 3
    assert [statistic.count for statistic in state.statistics] == [6] * 5
    assert state.prototypes.count.tolist() == [6] * 5
    assert joint.evaluate(IMAGES, [NAMES[label] for label in LABELS]) >= 0.9
    single = consolidated(joint, "pcb")
    assert single.classes == joint.classes
    single.predict(TEST)


@pytest.mark.parametrize("kind", [APERLearner, RanPACLearner, SLCALearner])
@pytest.mark.parametrize("rule", [None, pytest.param("pcb", marks=pytest.mark.slow)])
def test_one_set_of_trained_weights_is_merged_by_a_rule(kind: Any, rule: str | None) -> None:
    slow = {"lr": 0.01} if kind is SLCALearner else {}
    parts = [taught(kind, of("ab"), **slow), taught(kind, of("cd"), of("e"), **slow)]
    joint = merged(parts, ANYTHING, rule=rule)
    assert {*joint.classes} == {*NAMES}
    own = [part.common_weights()[0] for part in parts]
    single = joint.common_weights()
    assert single is not None
    for name, tensor in single[0].items():
        if rule is None:
            assert torch.allclose(tensor, (own[0][name] + own[1][name]) / 2, atol=1e-6)
    turn, truth = taught(kind, of("ab"), of("cd"), of("e"), **slow), [NAMES[label] for label in LABELS]
    assert joint.evaluate(IMAGES, truth) >= turn.evaluate(IMAGES, truth) - 0.1, "about as good as one place, in turn"
    same = merged([parts[0], parts[0].variant()]).common_weights()
    assert same is not None
    assert all(torch.equal(same[0][name], tensor) for name, tensor in own[0].items()), "without images"


def test_ease_sees_every_class_in_every_subspace() -> None:
    parts = [taught(EASELearner, of("ab"), of("c")), taught(EASELearner, of("de"))]
    joint: Any = merged(parts, ANYTHING)
    known, names = joint.state.prototypes, list(joint.classes)
    assert known.mean.shape[:2] == (3, 5)
    assert known.count[:, names.index("dog")].tolist() == [6, 6, 6]
    assert int((known.count == 0).sum()) == 2, "what a model had synthesised itself stays so"
    assert joint.evaluate(IMAGES, [NAMES[label] for label in LABELS]) >= 0.9


def test_what_images_meant_is_remembered_where_all_agree() -> None:
    parts = [taught(SimpleCILLearner), taught(SimpleCILLearner)]
    for part, meant in zip(parts, ("unit", "unit"), strict=True):
        part.learn(IMAGES.float() / 255, LABELS, value_range=meant)
    assert merged(parts).state.value_range == parts[0].state.value_range is not None
    bytes_ = taught(SimpleCILLearner)
    bytes_.learn(IMAGES.float(), LABELS, value_range="bytes")
    assert merged([parts[0], bytes_]).state.value_range is None
