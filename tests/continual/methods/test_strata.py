"""Strata against its formula, computed here in the plainest way, and what follows from averaging over mirrors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from torch.nn.functional import cosine_similarity, layer_norm, one_hot

import continual
from continual.backbones.loading import Backbone
from continual.methods.strata import StrataLearner
from continual.testing import coloured_squares, tiny_backbone


def block_outputs(backbone: Backbone, images: torch.Tensor) -> list[torch.Tensor]:
    """The tokens (B, N, D) after each block, as the model's own forward passes them on."""
    found: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda *a: found.append(a[2])) for block in backbone.frozen.network.blocks]
    with torch.no_grad():
        backbone.frozen.network(images)
    for hook in hooks:
        hook.remove()
    return found


FORMS: list[dict[str, Any]] = [
    {},
    {"answer_views": 1},
    {"blocks": 1},
    {"mirror": False},
    {"patches": False},
    {"mirror": False, "answer_views": 1},
    {"mirror_as": "mean"},
    {"mirror_as": "mean", "answer_views": 1},
]


@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_it_is_ridge_regression_on_tokens_of_both_views(
    backbone: Backbone, blobs: Any, settings: dict[str, Any]
) -> None:
    learner = StrataLearner(backbone, **settings)
    streams = [blobs([0, 1], 6), blobs([2], 6)]
    for images, labels in streams:
        learner.learn(images, labels)
    view, mirror = backbone.preprocessing.evaluation(), settings.get("mirror", True)
    samples = mirror and settings.get("mirror_as", "sample") == "sample"

    def regressors(images: torch.Tensor, mirrored: bool) -> torch.Tensor:
        """Tokens (views, n, D') of images as they are, and if asked of their mirror images."""
        upright = torch.stack([view(image) for image in images])
        views = [upright, upright.flip(3)] if mirrored else [upright]
        read = []
        for tokens in block_outputs(backbone, torch.cat(views))[-settings.get("blocks", 2) :]:
            level = layer_norm(tokens, tokens.shape[2:])
            read.append(level[:, 0])
            if settings.get("patches", True):
                read.append(level[:, 1:].mean(1))
        return torch.cat(read, 1).unflatten(0, (len(views), -1)).double()

    both = regressors(torch.cat([images for images, _ in streams]), mirror)
    x = both.flatten(0, 1) if samples else both.mean(0)
    labels = torch.tensor([label for _, own in streams for label in own]).repeat(len(both) if samples else 1)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    model = Ridge(alpha=x.shape[1] / 3).fit(
        ((x - mean) / deviation).numpy(),
        one_hot(labels).double().numpy(),
        sample_weight=torch.full((len(x),), 1 / len(both) if samples else 1.0).numpy(),
    )
    test = blobs([0, 1, 2], 3, seed=1)[0]
    asked = regressors(test, mirror and settings.get("answer_views", 2) == 2).mean(0)
    expected = torch.from_numpy(model.predict(((asked - mean) / deviation).numpy())).softmax(1)
    found = learner.predict(test)
    assert torch.allclose(found.scores.double(), expected, atol=1e-5)
    centres = torch.stack([((x - mean) / deviation)[labels == c].mean(0) for c in range(3)])
    cosines = cosine_similarity(((asked - mean) / deviation)[:, None], centres[None], dim=-1)
    assert found.similarity is not None
    assert torch.allclose(found.similarity.double(), cosines, atol=1e-4)


def test_an_image_and_its_mirror_image_get_the_same_scores(backbone: Backbone, blobs: Any) -> None:
    view = backbone.preprocessing.evaluation()
    test = torch.stack([view(image) for image in blobs([0, 1], 4, seed=1)[0]])
    for mirror in (True, False):
        learner = StrataLearner(backbone, mirror=mirror)
        learner.learn(*blobs([0, 1], 4))
        upright, mirrored = (learner.predict(images).scores for images in (test, test.flip(3)))
        assert torch.allclose(upright, mirrored, atol=1e-6) == mirror


def test_views_at_the_answer_change_on_a_learned_model(backbone: Backbone, blobs: Any, tmp_path: Any) -> None:
    """From a file, too; the mirror image costs a pass only where it is asked about, and counts are of images."""
    learner = StrataLearner(backbone, answer_views=1)
    learner.learn(*blobs([0, 1, 2], 5))
    learner.save(tmp_path / "m.safetensors")
    images = blobs([0, 1, 2], 4, seed=1)[0]
    loaded = continual.load(tmp_path / "m.safetensors", backbone)
    one, both = (loaded.variant(answer_views=views).predict(images, false_alarm_rate=0.1) for views in (1, 2))
    expected = learner.predict(images, false_alarm_rate=0.1)
    assert torch.equal(one.scores, expected.scores)
    assert not torch.equal(one.scores, both.scores)
    assert both.probabilities is not None
    again = StrataLearner(backbone)
    again.learn(*blobs([0, 1, 2], 5))
    assert torch.equal(again.predict(images).scores, both.scores)
    assert torch.equal(again.predict(images).probabilities, both.probabilities)
    assert learner.state.sums is not None
    assert learner.state.sums.counts.tolist() == [5, 5, 5]
    passed: list[int] = []
    hook = backbone.frozen.stages[0].register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
    for views in (1, 2):
        passed.clear()
        learner.variant(answer_views=views).predict(images)
        assert sum(passed) == views * len(images)
    hook.remove()


def test_the_order_of_experiences_is_nothing_to_it(backbone: Backbone, blobs: Any) -> None:
    answers = []
    for experiences in ([[0, 1], [2], [3]], [[3], [2, 0], [1]], [[0, 1, 2, 3]]):
        learner = StrataLearner(backbone)
        for classes in experiences:
            learner.learn(*blobs(classes, 5))
        found = learner.predict(blobs([0, 1, 2, 3], 3, seed=1)[0])
        answers.append(found.scores[:, [found.classes.index(label) for label in range(4)]])
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(answers[2], answers[0], rtol=0, atol=1e-6)


def test_all_blocks_are_read_where_there_are_fewer(backbone: Backbone, blobs: Any) -> None:
    scores = []
    for blocks in (2, 9):
        learner = StrataLearner(backbone, blocks=blocks)
        learner.learn(*blobs([0, 1], 4))
        scores.append(learner.predict(blobs([0, 1], 2)[0]).scores)
    assert torch.equal(*scores)


@pytest.mark.parametrize("symmetry", ["frame", "equitune", "canonicaliser", "score_averaging", "augmentation"])
def test_mirror_images_are_not_looked_at_twice_where_they_are_views(symmetry: str) -> None:
    """With mirrors in the group, features of an image and of its mirror image are the same bits: one pass does."""
    learner = StrataLearner(tiny_backbone(), group="D4", symmetry=symmetry)
    learner.learn(*coloured_squares([0, 1, 2], 4))
    view = learner.backbone.preprocessing.evaluation()
    images = torch.stack([view(image) for image in coloured_squares([0, 1, 2], 2, seed=3)[0]])
    seen: list[int] = []
    hook = learner.backbone.frozen.stages[0].register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    with torch.no_grad():
        found = learner.design_features(learner.extractor, images)
        cost = sum(seen)
        both = [learner._tokens(learner.extractor, images, mirrored, None) for mirrored in (False, True)]
    hook.remove()
    assert torch.equal(found, torch.stack(both).mean(0))
    moves = symmetry in ("augmentation", "score_averaging")
    assert sum(seen) == cost * (2 if moves else 3)
