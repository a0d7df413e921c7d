"""Vectorised refinement against a loop over images, written from the paper's three sentences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from continual.methods.mos.retrieval import ensemble, refine
from continual.seeding import generator
from continual.statistics.head import cosine_scores


def one_image(first: int, table: Tensor, class_experience: list[int], rounds: int) -> tuple[list[int], Tensor]:
    """Return the stacks visited and the last logits; `table` (T, C) holds the image's logits a stack."""
    path, stack = [], first
    while len(path) < rounds:
        path.append(stack)
        logits = table[stack]
        asked = class_experience[int(logits.argmax())]
        if asked == stack:
            break
        stack = asked
    return path, table[path[-1]]


@given(data=st.data(), stacks=st.integers(1, 5), batch=st.integers(0, 7), rounds=st.integers(1, 6))
def test_refining_a_batch_equals_refining_each_image(data: st.DataObject, stacks: int, batch: int, rounds: int) -> None:
    extra = data.draw(st.lists(st.integers(0, stacks - 1), max_size=4))
    class_experience = data.draw(st.permutations([*range(stacks), *extra]))
    first = data.draw(st.lists(st.integers(0, stacks - 1), min_size=batch, max_size=batch))
    seed = data.draw(st.integers(0, 999))
    table = torch.randn(batch, stacks, len(class_experience), generator=generator(seed, "logits"))
    visits: list[int] = []

    def logits_of(images: Tensor, wanted: Tensor) -> Tensor:
        assert len(images) == len(wanted) > 0
        visits.extend(images.tolist())
        return table[images, wanted]

    found = refine(torch.tensor(first, dtype=torch.int64), logits_of, torch.tensor(class_experience), rounds)

    assert found.path.shape == (batch, rounds)
    assert found.logits.shape == (batch, len(class_experience))
    for i in range(batch):
        path, logits = one_image(first[i], table[i], class_experience, rounds)
        assert found.path[i].tolist() == path + [-1] * (rounds - len(path))
        assert torch.equal(found.logits[i], logits)
        assert int(found.stack[i]) == path[-1]
        assert int(found.refinements[i]) == len(path) - 1
        assert visits.count(i) == len(path), "an image was run under a stack it did not ask for"


def test_two_stacks_that_name_each_other_stop_after_the_last_round() -> None:
    table = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])  # under stack 0 the answer is of stack 1, and back
    found = refine(torch.tensor([0]), lambda i, s: table[i, s], torch.tensor([0, 1]))
    assert found.path.tolist() == [[0, 1, 0, 1]]
    assert found.stack.tolist() == [1]
    assert found.logits.tolist() == [[1.0, 0.0]]


def test_refining_leaves_its_inputs_alone() -> None:
    first, experience = torch.tensor([1, 0]), torch.tensor([0, 1])
    refine(first, lambda i, s: torch.eye(2)[1 - s], experience)
    assert first.tolist() == [1, 0]
    assert experience.tolist() == [0, 1]


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 100))
def test_cosine_scores_do_not_depend_on_length(seed: int, scale: float) -> None:
    features, prototypes = torch.randn(2, 3, 8, generator=generator(seed, "rows"))
    scores = cosine_scores(features, prototypes)
    expected = torch.nn.functional.cosine_similarity(features[:, None], prototypes[None], dim=-1)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(cosine_scores(scale * features, prototypes / scale), scores)


def test_the_ensemble_adds_two_distributions() -> None:
    logits, prototypes = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.1, 0.9, 0.3]])
    scores = ensemble(logits, prototypes, experiences=5)
    assert float(scores.sum()) == pytest.approx(2)
    expected = torch.softmax(logits, 1) + torch.softmax(5 * prototypes, 1)
    torch.testing.assert_close(scores, expected)
