"""Learners with a group: which views they look at, what they make of them, and that all views get the same answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import equivariant
from continual.adapters.bank import per_image, shared
from continual.backbones.loading import Backbone
from continual.data.inputs import ExperienceData, as_experience
from continual.errors import InputError
from continual.learning.extractor import single_views
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.methods.mos.adapter_features import AdapterFeatures
from continual.methods.mos.learner import MOSLearner
from continual.methods.ridge import RidgeLearner
from continual.methods.strata import StrataLearner
from continual.symmetry import KINDS
from continual.symmetry.canonicaliser import Canonicaliser
from continual.symmetry.equitune import Equitune
from continual.symmetry.equizero import Equizero
from continual.symmetry.views import Transformed, content_order, group_named
from continual.testing import Case, coloured_squares, synthetic_case, tiny_backbone
from continual.testing.resuming import stopping_after_any_epoch_changes_nothing
from equivariant.orbits import orbit

INVARIANT = [name for name, kind in KINDS.all().items() if kind.invariant]
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "bottleneck": 4, "alignment_epochs": 1}


@pytest.fixture(scope="module")
def frozen() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def images(frozen: Backbone) -> Tensor:
    view = frozen.preprocessing.evaluation()
    return torch.stack([view(image) for image in coloured_squares(range(4), 2, seed=1)[0]])


def learned(learner: IncrementalLearner[Any]) -> Any:
    for classes in ([0, 1], [2], [3, 4]):
        learner.learn(*coloured_squares(classes, 4))
    return learner


def scores_of_views(learner: Any, images: Tensor, group: str) -> Tensor:
    """Scores (|G|, B, C) of all views, each batch of them predicted by itself."""
    return torch.stack([learner.predict(view).scores for view in orbit(group, images)])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", INVARIANT)
def test_every_kind_answers_all_views_alike_to_the_bit(
    frozen: Backbone, images: Tensor, kind: str, precision: str
) -> None:
    learner = learned(MOSLearner(frozen, group="D4", symmetry=kind, precision=precision, **QUICK))
    found = scores_of_views(learner, images, "D4")
    assert (found == found[0]).all()
    assert not torch.allclose(found[0, 0], found[0, -1], atol=1e-4)  # it does tell images apart


def test_early_exit_answers_all_views_alike_to_the_bit(frozen: Backbone, images: Tensor) -> None:
    learner = learned(MOSLearner(frozen, group="C4", early_exit=0.1, **QUICK))
    found = scores_of_views(learner, images, "C4")
    assert (found == found[0]).all()


def test_without_a_group_or_with_augmentation_alone_answers_change(frozen: Backbone, images: Tensor) -> None:
    for settings in ({}, {"group": "C4", "symmetry": "augmentation"}):
        found = scores_of_views(learned(MOSLearner(frozen, **settings, **QUICK)), images, "C4")
        assert not torch.allclose(found, found[0].expand_as(found), atol=1e-4)


@pytest.mark.parametrize("kind", INVARIANT)
def test_a_model_file_keeps_the_symmetry(frozen: Backbone, images: Tensor, kind: str, tmp_path: Path) -> None:
    learner = learned(MOSLearner(frozen, group="C4", symmetry=kind, **QUICK))
    learner.save(tmp_path / "model")
    loaded = MOSLearner.load(tmp_path / "model", frozen)
    assert loaded.settings == learner.settings
    assert torch.equal(loaded.predict(images).scores, learner.predict(images).scores)


# Against the wrappers of `equivariant` -------------------------------------------------------------------


class Features(nn.Module):
    """A ViT's features under one stack, as a module of images."""

    def __init__(self, backbone: Backbone, adapters: Any = None) -> None:
        super().__init__()
        self.frozen, self.adapters = backbone.frozen, adapters

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.frozen.features(images, self.adapters)


class Score(nn.Module):
    """The fitted score, of features."""

    def __init__(self, fitted: Any) -> None:
        super().__init__()
        self.fitted = fitted

    def forward(self, features: Tensor) -> Tensor:
        return ((features - self.fitted["centre"]) / self.fitted["deviation"]) @ self.fitted["weight"]


@pytest.mark.parametrize("kind", ["equitune", "lambda_equitune", "equizero"])
def test_features_are_those_of_the_wrapper_around_the_network(frozen: Backbone, images: Tensor, kind: str) -> None:
    learner = learned(MOSLearner(frozen, group="C4", symmetry=kind, **QUICK))
    adapters = shared(learner.settings.adapter_kind, learner.state.bank[1])
    network, fitted = Features(frozen, adapters), learner.state.fitted
    wrapper: nn.Module
    if kind == "equitune":
        wrapper = equivariant.Equitune(network, "C4")
    elif kind == "lambda_equitune":
        wrapper = equivariant.LambdaEquitune(network, "C4", head=nn.Identity(), network=Score(fitted))
    else:
        wrapper = equivariant.Equizero(network, "C4", proxy=equivariant.Similarity(fitted["references"]))
    with torch.no_grad():
        assert torch.allclose(learner.extractor.features(images, adapters), wrapper(images), atol=1e-5)


def test_canonicaliser_runs_the_view_its_score_prefers(frozen: Backbone, images: Tensor) -> None:
    learner = learned(RidgeLearner(frozen, group="C4", symmetry="canonicaliser"))
    views = orbit("C4", images)
    described = torch.nn.functional.adaptive_avg_pool2d(views.flatten(0, 1), 8).flatten(1)
    scores = Score(learner.state.fitted)(described).unflatten(0, (4, -1))
    each = torch.stack([frozen.frozen.features(view) for view in views])
    expected = each[scores.argmax(0), torch.arange(len(images))]
    assert torch.allclose(learner.extractor.features(images), expected, atol=1e-5)


def test_pruned_orbit_weighs_the_best_views_alone(frozen: Backbone, images: Tensor) -> None:
    learner = learned(RidgeLearner(frozen, group="D4", symmetry="pruned_orbit", views=3))
    views = orbit("D4", images)
    early = frozen.frozen.block_tokens(views.flatten(0, 1), 1, until=2).flatten(1)
    scores = Score(learner.state.fitted)(early).unflatten(0, (8, -1))
    kept = scores >= scores.topk(3, dim=0).values[-1] - 1e-5
    weights = scores.masked_fill(~kept, -torch.inf).softmax(0)
    each = torch.stack([frozen.frozen.features(view) for view in views])
    assert torch.allclose(learner.extractor.features(images), (weights[..., None] * each).sum(0), atol=1e-5)


def test_a_frame_is_the_mean_over_the_first_views(frozen: Backbone, images: Tensor) -> None:
    learner = RidgeLearner(frozen, group="D4", views=3)
    views = orbit("D4", images).transpose(0, 1)
    first = views[torch.arange(len(views))[:, None], content_order(views)[:, :3]]
    expected = frozen.frozen.features(first.flatten(0, 1)).unflatten(0, (-1, 3)).mean(1)
    assert torch.allclose(learner.extractor.features(images), expected, atol=1e-6)


def test_score_averaging_is_the_mean_of_a_plain_learners_scores(frozen: Backbone, images: Tensor) -> None:
    learner = learned(RidgeLearner(frozen, group="C4", symmetry="score_averaging", orbit_statistics=False))
    plain = learned(RidgeLearner(replace(frozen, preprocessing=frozen.preprocessing.for_a_group())))
    expected = scores_of_views(plain, images, "C4").mean(0)
    assert torch.allclose(learner.predict(images).scores, expected, atol=1e-6)


def test_later_stacks_run_on_few_views_and_change_all_alike(frozen: Backbone, images: Tensor) -> None:
    learner = learned(MOSLearner(frozen, group="D4", views=5, retrieved_views=2, **QUICK))
    views = learner.symmetry.orbit(images)[:, :5]
    stacks = torch.tensor([1, 2, 1, 2, 1, 2, 1, 2])
    with torch.no_grad():
        first = torch.stack([_under(learner, view, torch.zeros_like(stacks)) for view in views.unbind(1)])
        later = torch.stack([_under(learner, view, stacks) for view in views[:, :2].unbind(1)])
        expected = first.mean(0) + (later - first[:2]).mean(0)
        for cache in (None, FeatureCache()):
            under = features_of(learner, images, cache)
            assert torch.allclose(under.first, first.mean(0), atol=1e-5)
            for _ in range(2):
                assert torch.allclose(under.later(torch.arange(8), stacks), expected, atol=1e-5)


def features_of(learner: MOSLearner, images: Tensor, cache: FeatureCache | None = None) -> AdapterFeatures:
    settings, bank = learner.settings, learner.state.stacked_bank()
    kind, views = settings.adapter_kind, settings.retrieved_views
    return AdapterFeatures(learner.extractor, kind, bank, images, views=views, cache=cache)


def _under(learner: MOSLearner, images: Tensor, stacks: Tensor) -> Tensor:
    adapters = per_image(learner.settings.adapter_kind, learner.state.stacked_bank(), stacks)
    return learner.backbone.frozen.features(images, adapters)


def test_a_retrieved_stack_that_sees_all_views_needs_no_correction(frozen: Backbone, images: Tensor) -> None:
    learner = learned(MOSLearner(frozen, group="C4", views=2, retrieved_views=2, **QUICK))
    under = features_of(learner, images)
    assert under.few is None
    stacks = torch.ones(len(images), dtype=torch.int64)
    expected = learner.extractor.features(images, shared(learner.settings.adapter_kind, learner.state.bank[1]))
    assert torch.allclose(under.later(torch.arange(len(images)), stacks), expected, atol=1e-5)


# What is learned -----------------------------------------------------------------------------------------


def test_the_fitted_score_finds_what_is_up() -> None:
    draw = torch.Generator().manual_seed(0)
    described = torch.randn(40, 4, 6, generator=draw)
    described[:, 0, 2] += 3
    symmetry = Canonicaliser(group_named("C4"))
    fitted = symmetry.fit(described, torch.zeros(40, dtype=torch.int64))
    fresh = torch.randn(200, 4, 6, generator=draw)
    fresh[:, 0, 2] += 3
    scores = (fresh - fitted["centre"]) / fitted["deviation"] @ fitted["weight"]
    assert (scores.argmax(1) == 0).float().mean() > 0.9
    assert fitted["weight"].abs().argmax() == 2


def views_of(learner: MOSLearner, data: ExperienceData) -> Any:
    return single_views(learner.extractor, learner.settings, {}, data, first=True)


def test_training_and_statistics_see_single_views(frozen: Backbone) -> None:
    pictures, labels = coloured_squares([0, 1], 3)
    data = as_experience(pictures, labels, frozen.preprocessing)
    seeing, single, fitted = views_of(MOSLearner(frozen, group="C4"), data)
    assert seeing.symmetry is None
    assert fitted == {}
    assert isinstance(single.training, Transformed)
    assert single.training.elements is None
    assert isinstance(single.evaluation, Transformed)
    assert len(single.labels) == len(single.evaluation) == 4 * len(labels)
    image = data.evaluation[1][0]
    got = torch.stack([single.evaluation[i][0] for i in range(4, 8)])
    assert torch.equal(got, orbit("C4", image[None])[:, 0])
    settings = {"orbit_statistics": False, "transformed_training": False}
    with_means, whole, _ = views_of(MOSLearner(frozen, group="C4", **settings), data)
    assert with_means.symmetry is not None
    assert (whole.training, whole.evaluation) == (data.training, data.evaluation)


def test_a_random_view_belongs_to_its_image_and_epoch(frozen: Backbone) -> None:
    one, two = (learned(MOSLearner(frozen, group="D4", **QUICK)) for _ in range(2))
    for name, weights in one.state.bank[-1].items():
        assert torch.equal(weights, two.state.bank[-1][name])
    plain = learned(MOSLearner(frozen, group="D4", transformed_training=False, **QUICK))
    assert not torch.equal(plain.state.bank[-1]["down_weight"], one.state.bank[-1]["down_weight"])


@pytest.mark.parametrize(
    ("settings", "aligned"),
    [
        ({}, False),
        ({"align_first": True}, True),
        ({"group": "C4"}, True),
        ({"group": "C4", "align_first": False}, False),
    ],
    ids=str,
)
def test_with_a_group_the_first_head_is_aligned_as_well(
    frozen: Backbone, settings: dict[str, Any], aligned: bool
) -> None:
    heads = []
    for epochs in (0, 2):
        learner = MOSLearner(frozen, **{**QUICK, **settings, "alignment_epochs": epochs})
        learner.learn(*coloured_squares([0, 1], 4))
        heads.append(learner.state.head.weight)
    assert torch.equal(*heads) != aligned


@pytest.mark.parametrize("kind", ["frame", "lambda_equitune"])
def test_a_stopped_training_resumes_with_the_same_bits(kind: str) -> None:
    case: Case = synthetic_case(MOSLearner, group="C4", symmetry=kind, **{**QUICK, "epochs": 2})
    stopping_after_any_epoch_changes_nothing(case)


# Refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"group": "C7x"}, {"group": "C4", "symmetry": "mean"}, {"views": 0}], ids=str)
def test_impossible_settings_are_refused(frozen: Backbone, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        MOSLearner(frozen, **settings)


@pytest.mark.parametrize("kind", ["lambda_equitune", "equizero"])
def test_strata_refuses_weights_that_are_read_from_the_last_features(frozen: Backbone, kind: str) -> None:
    learner = StrataLearner(frozen, group="C4", symmetry=kind, orbit_statistics=False)
    with pytest.raises(InputError, match="symmetry='frame'"):
        learner.learn(*coloured_squares([0, 1], 4))
    assert learner.classes == ()


def test_images_that_are_not_square_are_refused() -> None:
    symmetry = Equitune(group_named("C4"))
    with pytest.raises(InputError, match="square"):
        symmetry.orbit(torch.rand(1, 3, 4, 6))


def test_references_are_class_means_of_images_as_given() -> None:
    described = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 0, 1, 1, 0])
    fitted = Equizero(group_named("C4")).fit(described, targets)
    expected = torch.stack([described[targets == c, 0].mean(0) for c in (0, 1)])
    assert torch.allclose(normalize(fitted["references"]), normalize(expected), atol=1e-6)
