"""MOS whose stage one is strata's ridge regression: against numpy, in any order, through files, edits and graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from continual.adapters.bank import shared
from continual.adapters.base import Adapters
from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.learning.concept import Concept
from continual.learning.merged import merged
from continual.methods.mos.consolidation import consolidated
from continual.methods.mos.learner import MOSLearner
from continual.methods.mos.ridge_stage import refined
from continual.testing import tiny_backbone

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.05, "bottleneck": 4, "alignment_epochs": 2}
STREAM = [[0, 1, 2], [3, 4], [5, 6, 7]]


def learned(backbone: Backbone, blobs: Blobs, stream: Sequence[Sequence[int]] = STREAM, **settings: Any) -> MOSLearner:
    learner = MOSLearner(backbone, **{**QUICK, "stage_one": "ridge", **settings})
    for classes in stream:
        learner.learn(*blobs(classes, 5))
    return learner


def tokens(backbone: Backbone, images: Tensor, adapter: Adapters | None = None) -> np.ndarray:
    """Strata's numbers (2, n, D') of images and their mirror images, under an adapter, block by block."""
    found: list[Tensor] = []
    view, vit = backbone.preprocessing.evaluation(), backbone.frozen.network
    upright = torch.stack([view(image) for image in images])
    with torch.no_grad():
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(torch.cat([upright, upright.flip(3)]))))
        for index, block in enumerate(vit.blocks):
            h = x + block.attn(block.norm1(x))
            x = h + block.mlp(block.norm2(h)) + (0 if adapter is None else adapter(index, h))
            found.append(x)
    levels = [layer_norm(block, block.shape[2:]) for block in found]
    parts = [part for level in levels for part in (level[:, 0], level[:, 1:].mean(1))]
    return torch.cat(parts, 1).unflatten(0, (2, -1)).double().numpy()


@pytest.mark.parametrize("regressed", ["first", "frozen"])
def test_stage_one_is_a_ridge_regression_by_numpy(backbone: Backbone, blobs: Blobs, regressed: str) -> None:
    learner = learned(backbone, blobs, regressed=regressed, lr=0.5)
    first = shared(learner.settings.adapter_kind, learner.state.bank[0])
    adapter = first if regressed == "first" else None
    some = blobs([0], 1)[0]
    assert not np.allclose(tokens(backbone, some), tokens(backbone, some, first), atol=1e-3)
    given = [blobs(classes, 5) for classes in STREAM]
    x = np.concatenate([tokens(backbone, images, adapter) for images, _ in given], 1)
    y = np.eye(8)[[label for _, labels in given for label in labels]]
    rows, targets = np.concatenate(x), np.concatenate([y, y]) / 2  # a view weighs half
    # Classes weigh alike whatever their images: here they all have five.
    mean, deviation = rows.mean(0), rows.std(0)
    standard, penalty = (rows - mean) / deviation, rows.shape[1] / 3
    weight = np.linalg.solve(standard.T @ standard / 2 + penalty * np.eye(len(mean)), standard.T @ targets)
    asked, _ = blobs(range(8), 6, seed=1)
    z = tokens(backbone, asked, adapter).mean(0)
    values = (z - mean) / deviation @ weight + y.mean(0)

    state = learner.regression.state
    assert state.head is not None
    assert np.allclose(state.head(torch.from_numpy(z)).numpy(), values, atol=1e-5)
    answer, experience = learner.predict(asked), np.array([0, 0, 0, 1, 1, 2, 2, 2])
    assert answer.stack is not None
    assert answer.stack.tolist() == experience[values.argmax(1)].tolist()
    assert set(answer.stack.tolist()) == {0, 1, 2}
    assert answer.refinements is not None
    assert not answer.refinements.any()
    said = learner.regression.predict(asked)
    assert torch.equal(answer.scores, said.probabilities)  # type: ignore[arg-type]
    assert answer.labels == said.labels


def test_scores_are_the_regression_s_refined_within_the_experience_that_was_found(
    backbone: Backbone, blobs: Blobs
) -> None:
    learner = learned(backbone, blobs, within=2.0)
    asked, _ = blobs(range(8), 3, seed=1)
    answer, said = learner.predict(asked), learner.regression.predict(asked)
    assert said.probabilities is not None
    assert answer.stack is not None
    assert torch.equal(answer.probabilities, answer.scores)
    assert torch.equal(answer.p_value, said.p_value)
    view, kind, head = learner.preprocessing.evaluation(), learner.settings.adapter_kind, learner.state.head
    assert head is not None
    groups = [[0, 1, 2], [3, 4], [5, 6, 7]]
    for image, k, p, scores in zip(asked, answer.stack.tolist(), said.probabilities, answer.scores, strict=True):
        with torch.no_grad():
            stem = learner.extractor.stem(view(image)[None])
            logits = head(learner.extractor.features(stem, shared(kind, learner.state.bank[k])))[0]
        own = groups[k]
        q = p[own] * logits[own].softmax(0) ** 2
        expected = p.clone()
        expected[own] = q / q.sum() * p[own].sum()
        assert torch.allclose(scores, expected, atol=1e-5)


def test_refining_by_hand() -> None:
    p = torch.tensor([[0.4, 0.2, 0.3, 0.1]])
    logits = torch.tensor([[0.0, 9.0, float(np.log(3)), 0.0]])
    found = refined(p, logits, torch.tensor([1]), torch.tensor([0, 0, 1, 1]), 1.0)
    # 0.3 * 3/4 to 0.1 * 1/4 is 9 to 1, of 0.4 together
    assert torch.allclose(found, torch.tensor([[0.4, 0.2, 0.36, 0.04]]))
    assert torch.allclose(refined(p, logits, torch.tensor([1]), torch.tensor([0, 0, 1, 1]), 0.0), p)


@pytest.mark.parametrize(
    ("regressed", "stream", "places"), [("frozen", [2, 1, 0], [2, 1, 0]), ("first", [0, 2, 1], [0, 2, 1])]
)
def test_the_order_of_experiences_does_not_matter_to_stage_one(
    backbone: Backbone, blobs: Blobs, regressed: str, stream: list[int], places: list[int]
) -> None:
    asked, _ = blobs(range(8), 4, seed=1)
    one, other = (
        learned(backbone, blobs, [STREAM[k] for k in order], regressed=regressed) for order in ([0, 1, 2], stream)
    )
    there = [other.classes.index(label) for label in one.classes]
    mine, its = (learner.regression.predict(asked).scores for learner in (one, other))
    assert torch.allclose(mine, its[:, there], atol=1e-6)
    same = one.predict(asked).stack, other.predict(asked).stack
    assert torch.equal(same[0], torch.tensor(places)[same[1]])  # type: ignore[arg-type,index]


def test_what_is_learned_and_edited_reaches_both_parts(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    learner = learned(backbone, blobs)
    images, _ = blobs([1], 4, seed=2)
    usual = learner.regression.state.certainty
    learner.correct(images, 1)
    corrected = learner.regression.state.certainty
    assert usual is not None
    assert corrected is not None
    assert torch.equal(usual.losses, corrected.losses)  # images that were answered wrong are not what is usual
    learner.learn(*blobs([3], 3, seed=3))
    learner.rename(4, 40)
    learner.forget(2)
    assert learner.regression.classes == learner.classes == (0, 1, 3, 40, 5, 6, 7)
    sums = learner.regression.state.sums
    assert sums is not None
    assert sums.counts.tolist() == [5, 9, 8, 5, 5, 5, 5]
    learner.save(tmp_path / "model")
    again = MOSLearner.load(tmp_path / "model", backbone)
    asked, _ = blobs(range(8), 2, seed=1)
    assert torch.equal(learner.predict(asked).scores, again.predict(asked).scores)
    for part in (learner, again):
        part.learn(*blobs([8, 9], 5))
    assert torch.equal(learner.predict(asked).scores, again.predict(asked).scores)


def test_a_concept_is_suppressed_in_both_parts_and_allowed_again(backbone: Backbone, blobs: Blobs) -> None:
    learner = learned(backbone, blobs)
    asked, _ = blobs(range(8), 2, seed=1)
    before, state = learner.predict(asked), learner.state
    marked = asked.clone()
    marked[:, 0, :6, :6] = 255
    concept = Concept("mark", marked, asked, paired=True)
    learner.suppress(concept)
    (own,), (its,) = learner.state.ignored or (), learner.regression.state.ignored or ()
    assert own.name == its.name == "mark"
    assert own.rows is not None
    assert its.rows is not None
    assert (own.rows.shape[1], its.rows.shape[1]) == (32, 128)
    gap = [float((part.predict(marked).scores - part.predict(asked).scores).abs().mean()) for part in
           (learner.regression, learner)]  # fmt: skip
    learner.allow("mark")
    plain = [float((part.predict(marked).scores - part.predict(asked).scores).abs().mean()) for part in
             (learner.regression, learner)]  # fmt: skip
    assert all(less < more for less, more in zip(gap, plain, strict=True))
    assert torch.allclose(learner.predict(asked).scores, before.scores, atol=1e-6)
    assert learner.state.ignored is None
    assert learner.regression.state.ignored is None
    assert state.regression is not learner.state.regression


def test_a_port_maps_the_sums_of_both_parts(backbone: Backbone, blobs: Blobs) -> None:
    learner = learned(backbone, blobs)
    asked, _ = blobs(range(8), 4, seed=1)
    before = learner.predict(asked)
    other = tiny_backbone()
    with torch.no_grad():
        for parameter in other.frozen.network.parameters():
            parameter.add_(0.01 * parameter.std(correction=0))
    moved = replace(other, sha256="0" * 64)
    report = learner.port(moved, blobs(range(8), 6, seed=4)[0])
    assert len(report.explained) == 4  # three adapters' features, and the tokens
    assert report.simulation is not None
    after = learner.predict(asked)
    agreed = np.mean([a == b for a, b in zip(before.labels, after.labels, strict=True)])
    assert agreed > 0.7


def test_what_is_trained_beside_the_regression_is_there_for_a_later_within(backbone: Backbone, blobs: Blobs) -> None:
    """Without `within`, no answer asks later adapters or the aligned head; it may be set after learning."""
    learner, other, x = learned(backbone, blobs), learned(backbone, blobs, alignment_epochs=0), blobs(range(8), 2)[0]
    first, *later = other.state.bank
    other.state = replace(other.state, bank=(first, *({n: w + 1 for n, w in own.items()} for own in later)))
    assert torch.equal(other.predict(x).scores, learner.predict(x).scores)
    assert not torch.equal(other.variant(within=1.0).predict(x).scores, learner.variant(within=1.0).predict(x).scores)
    wanted = learned(backbone, blobs, within=1.0).predict(x)
    assert torch.equal(learner.variant(within=1.0).predict(x).scores, wanted.scores)


def test_what_predicts_prototypes_is_refused(backbone: Backbone, blobs: Blobs) -> None:
    with pytest.raises(InputError, match="early_exit predicts what prototypes retrieve"):
        MOSLearner(backbone, stage_one="ridge", early_exit=0.01)
    learner = learned(backbone, blobs)
    with pytest.raises(InputError, match="there is no single adapter"):
        consolidated(learner)
    plain = learned(backbone, blobs, STREAM[:2], stage_one="prototypes")
    assert plain.state.regression is None
    with pytest.raises(InputError, match="learned with stage_one='prototypes'"):
        plain.variant(stage_one="ridge").predict(blobs([0], 1)[0])


def test_sums_under_other_first_adapters_are_mapped_when_models_are_merged(backbone: Backbone, blobs: Blobs) -> None:
    parts = [learned(backbone, blobs, [classes], lr=0.5) for classes in ([0, 1, 2], [3, 4])]
    with pytest.raises(InputError, match="give some 200 images"):
        merged(parts)
    joint = merged(parts, blobs(range(8), 6, seed=4)[0])
    asked, truth = blobs(range(5), 4, seed=1)
    sums = joint.regression.state.sums
    assert sums is not None
    assert sums.counts.tolist() == [5] * 5
    for place, label in enumerate(joint.classes):
        (its,) = [p for p in parts if label in p.classes]
        alone = its.regression.state.sums
        assert alone is not None
        same = torch.equal(sums.targets[:, place], alone.targets[:, its.classes.index(label)])
        assert same == (its is parts[0])  # which has more classes, and so comes first
    right = np.mean([a == b for a, b in zip(joint.predict(asked).labels, truth, strict=True)])
    own = [np.mean([a == b for a, b in zip(p.predict(asked).labels, truth, strict=True)]) for p in parts]
    assert right > max(own)
