"""What every selection rule keeps, herding by the book, and joint training on the images that a rule keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import continual
from continual.data.inputs import as_experience
from continual.errors import InputError
from continual.methods.joint import JointLearner
from continual.seeding import generator
from continual.selection import RULES
from continual.selection.base import selected
from continual.testing import coloured_squares, tiny_backbone

counts = st.integers(1, 12)
seeds = st.integers(0, 999)


def features(count: int, seed: int = 0, width: int = 4) -> Tensor:
    return torch.randn(count, width, generator=generator(seed, "features")) + 1


# Laws of every rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES.all())
@given(n=counts, count=counts, fewer=counts, seed=seeds, equal=st.booleans())
def test_indices_differ_and_fewer_are_the_first_of_more(
    name: str, n: int, count: int, fewer: int, seed: int, equal: bool
) -> None:
    """Also of images that are all alike, and where more are asked for than there are."""
    x = features(n, seed)
    x = x[:1].expand(n, -1) if equal else x
    before = x.clone()
    found = selected(name, x, count, generator(seed))
    assert len(found) == len(set(found)) == min(n, count)
    assert set(found) <= set(range(n))
    assert selected(name, x, min(fewer, count), generator(seed)) == found[: min(fewer, count)]
    assert selected(name, x, count, generator(seed)) == found
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", RULES.all())
def test_all_random_numbers_are_the_generators(name: str) -> None:
    before = torch.get_rng_state()
    RULES.get(name)(features(5), 3, generator(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(InputError, match="unknown selection rule 'herdin': did you mean 'herding'?"):
        selected("herdin", features(3), 2, generator(0))


# Herding -------------------------------------------------------------------------------------------------


def by_the_book(phi: Any, m: int) -> list[int]:
    """Algorithm 4 of iCaRL, on features of length 1; an image is not chosen twice."""
    phi = phi / np.linalg.norm(phi, axis=1, keepdims=True)
    mu = phi.mean(0)
    p: list[int] = []
    for k in range(1, m + 1):
        gaps = {x: np.linalg.norm(mu - (phi[x] + sum(phi[j] for j in p)) / k) for x in range(len(phi)) if x not in p}
        p.append(min(gaps, key=lambda x: gaps[x]))
    return p


@given(n=st.integers(3, 12), seed=seeds)
def test_herding_is_the_papers_algorithm(n: int, seed: int) -> None:
    """Of two images both are as near to their mean."""
    x = features(n, seed)
    assert selected("herding", x, n, generator(0)) == by_the_book(x.double().numpy(), n)


def test_herding_keeps_the_mean_better_than_chance() -> None:
    x = torch.nn.functional.normalize(features(60), dim=1)

    def gap(name: str, seed: int = 0) -> float:
        return float((x[selected(name, x, 6, generator(seed))].mean(0) - x.mean(0)).norm())

    assert all(gap("herding") < 0.5 * gap("random", seed) for seed in range(8))


# Joint training on what is kept --------------------------------------------------------------------------

STREAM = (coloured_squares([0, 1], 5), coloured_squares([2], 2), coloured_squares([3], 5))
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "bottleneck": 4}


def joint(kept: int | None, rule: str, experiences: int) -> JointLearner:
    learner = JointLearner(tiny_backbone(), kept=kept, selection=rule, **QUICK)
    for images, labels in STREAM[:experiences]:
        learner.learn(images, labels)
    return learner


def same(one: JointLearner, other: JointLearner) -> bool:
    mine, theirs = one.export()[0], other.export()[0]
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("rule", RULES.all())
def test_so_many_images_of_each_class_are_kept(rule: str) -> None:
    learner = joint(3, rule, 2)
    assert [list(part.labels) for part in learner.state.seen] == [[0] * 3 + [1] * 3, [2] * 2]
    view = learner.backbone.preprocessing.evaluation()
    part: Any
    for part, (images, labels) in zip(learner.state.seen, STREAM, strict=False):
        assert len(part.training) == len(part.evaluation) == len(part.labels)
        prepared = torch.stack([torch.Tensor(view(image)) for image in images])
        for (image, label, *_), own in zip(part.evaluation, part.labels, strict=True):
            places = (prepared == image).flatten(1).all(1).nonzero()[:, 0].tolist()
            assert [labels[place] for place in places] == [label] == [own]
    steps: list[int] = []
    learner.learn(
        *STREAM[2], progress=lambda stage, _d, total, _f: steps.append(total) if stage == "training" else None
    )
    assert steps[-1] == -(-(3 + 3 + 2 + 5) // 4)


def test_enough_is_all() -> None:
    assert same(joint(5, "herding", 3), joint(None, "herding", 3))
    assert not same(joint(2, "herding", 3), joint(None, "herding", 3))


@pytest.mark.parametrize("rule", RULES.all())
def test_a_restored_learner_that_is_handed_the_images_ends_with_the_same_bits(rule: str, tmp_path: Path) -> None:
    learner = joint(2, rule, 2)
    learner.save(tmp_path / "model.safetensors")
    read = continual.load(tmp_path / "model.safetensors", learner.backbone)
    assert isinstance(read, JointLearner)
    read.recall([as_experience(*part, learner.backbone.preprocessing) for part in STREAM[:2]])
    assert [part.labels for part in read.state.seen] == [part.labels for part in learner.state.seen]
    mine: Any
    theirs: Any
    for mine, theirs in zip(read.state.seen, learner.state.seen, strict=True):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(mine.evaluation, theirs.evaluation, strict=True))
    for each in (learner, read):
        each.learn(*STREAM[2])
    assert same(learner, read)


def test_rules_and_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="unknown selection rule 'herdin': did you mean 'herding'?"):
        JointLearner(tiny_backbone(), kept=2, selection="herdin")
    with pytest.raises(InputError, match="kept"):
        JointLearner(tiny_backbone(), kept=0)
