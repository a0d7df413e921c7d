"""Answers by as many of an image's views as it needs: the same for all views, and by as many passes as asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.methods.bases.regression import RegressionLearner
from continual.methods.bases.view_by_view import judged, view_by_view
from continual.methods.mos.learner import MOSLearner
from continual.methods.ridge import RidgeLearner
from continual.methods.strata import StrataLearner
from continual.symmetry import KINDS
from continual.symmetry.choice import GroupChoice
from continual.symmetry.views import content_order, group_named, taken
from continual.testing import coloured_squares, tiny_backbone
from equivariant.orbits import orbit

ALL: dict[str, Any] = {"group": "D4", "symmetry": "equitune"}
KINDS_OF_LEARNERS: dict[str, Callable[[Backbone], RegressionLearner]] = {
    "ridge": lambda frozen: RidgeLearner(frozen, **ALL),
    "ridge, frame": lambda frozen: RidgeLearner(frozen, group="D4", views=4),
    "strata": lambda frozen: StrataLearner(frozen, **ALL),
    "strata, no mirror": lambda frozen: StrataLearner(frozen, **ALL, mirror=False),
    "strata, C4": lambda frozen: StrataLearner(frozen, group="C4", symmetry="equitune"),
    "strata, mean": lambda frozen: StrataLearner(frozen, **ALL, mirror_as="mean"),
    "strata, frame": lambda frozen: StrataLearner(frozen, group="D4"),
}


@pytest.fixture(scope="module")
def frozen() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def images(frozen: Backbone) -> Tensor:
    view = frozen.preprocessing.evaluation()
    return torch.stack([view(image) for image in coloured_squares(range(4), 4, seed=1)[0]])


def taught(learner: Any) -> Any:
    for classes in ([0, 1], [2], [3, 4]):
        learner.learn(*coloured_squares(classes, 6))
    return learner


@pytest.fixture(scope="module", params=KINDS_OF_LEARNERS)
def learner(request: pytest.FixtureRequest, frozen: Backbone) -> Any:
    return taught(KINDS_OF_LEARNERS[request.param](frozen))


def half(learner: Any) -> Any:
    """The learner, asked for about half of the passes that all views take."""
    whole, each = learner.view_passes
    views = learner.symmetry.looked
    return learner.variant(passes=min(each * (views + 1) / 2, views * whole - 0.5))


@pytest.fixture(scope="module")
def ridge(frozen: Backbone) -> Any:
    return taught(RidgeLearner(frozen, **ALL))


def test_all_views_of_an_image_get_the_same_answer_to_the_bit(learner: Any, images: Tensor) -> None:
    asked = half(learner)
    found = [asked.predict(view) for view in orbit(learner.settings.group, images)]
    for one in found:
        for column in ("scores", "probabilities", "p_value", "passes"):
            assert torch.equal(getattr(one, column), getattr(found[0], column)), column
    assert not torch.equal(found[0].scores, learner.predict(images).scores)  # some were finished early
    assert len(found[0].passes.unique()) > 1


def test_an_answer_does_not_depend_on_the_other_images(learner: Any, images: Tensor) -> None:
    asked = half(learner)
    together, alone = asked.predict(images), [asked.predict(image[None]) for image in images]
    torch.testing.assert_close(torch.cat([one.scores for one in alone]), together.scores, rtol=0, atol=1e-5)
    assert torch.equal(torch.cat([one.passes for one in alone]), together.passes)


def test_as_many_passes_as_all_views_take_are_all_views_to_the_bit(learner: Any, images: Tensor) -> None:
    whole = learner.symmetry.looked * learner.view_passes[0]
    found, plain = learner.variant(passes=whole).predict(images), learner.predict(images)
    for column in ("scores", "probabilities", "p_value", "similarity"):
        assert torch.equal(getattr(found, column), getattr(plain, column)), column
    assert (found.passes == whole).all()
    assert plain.passes is None


def test_views_that_are_all_finished_are_the_answer_by_all_views(learner: Any, images: Tensor) -> None:
    every = learner.symmetry.orbit(images)[:, : learner.symmetry.looked]
    single = learner.extractor.untransformed
    found = view_by_view(every, lambda rows: learner.view_features(single, rows), partial(judged, learner), torch.inf)
    torch.testing.assert_close(found.values, learner.predict(images).scores, rtol=0, atol=1e-5)
    assert (found.passes == learner.symmetry.looked).all()


def test_passes_are_those_of_the_backbone(learner: Any, images: Tensor) -> None:
    seen: list[int] = []
    hook = learner.backbone.frozen.stages[0].register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    found = half(learner).predict(images)
    hook.remove()
    assert sum(seen) == int(found.passes.sum())


def test_more_passes_are_taken_where_more_are_allowed(ridge: Any, images: Tensor) -> None:
    means = [float(ridge.variant(passes=passes).predict(images).passes.mean()) for passes in (1, 2, 3, 5, 8)]
    assert means[0] == 1
    assert means[-1] == 8
    assert means == sorted(means)
    assert means[1] < means[3]


def test_the_mean_asked_for_is_met_by_images_of_the_same_kind(frozen: Backbone) -> None:
    learner = RidgeLearner(frozen, **ALL)
    learner.learn(*coloured_squares(range(4), 30))
    others = coloured_squares(range(4), 30, seed=9)[0]
    for passes in (1.5, 2.0, 3.0):
        assert abs(float(learner.variant(passes=passes).predict(others).passes.mean()) - passes) < 0.35


def test_one_by_one_stops_at_the_limit() -> None:
    leads = torch.tensor([[0.0, 5.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    views = torch.arange(9.0).reshape(3, 3, 1)

    def judge(features: Tensor, done: int) -> tuple[Scores, Tensor]:
        rows = ((features[:, 0] - (done - 1) / 2) / 3).round().long()  # the mean of an image's first views says which
        return Scores(features), leads[rows, done - 1]

    found = view_by_view(views, lambda rows: rows, judge, 2.0)
    assert found.passes is not None
    assert found.passes.tolist() == [2, 1, 3]
    assert found.values[:, 0].tolist() == [0.5, 3.0, 7.0]


def test_views_are_left_out_in_the_order_in_which_an_answer_takes_them(ridge: Any, images: Tensor) -> None:
    given = images[:5]
    rows = orbit(group_named("D4"), given).transpose(0, 1)  # as an experience's images are read: element by element
    noted = ridge.extractor.noted(rows.flatten(0, 1)).unflatten(0, (5, 8))
    places = ridge.symmetry.places(noted)
    assert torch.equal(taken(rows, places.argsort(1)), ridge.symmetry.orbit(given))
    assert torch.equal(places.argsort(1), content_order(rows))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "there is no group: add group='D4'"),
        ({"group": "D4", "symmetry": "lambda_equitune"}, "choose symmetry='equitune'"),
        ({"group": "D4", "symmetry": "canonicaliser"}, "choose symmetry='equitune'"),
        ({"group": "D4", "symmetry": "score_averaging"}, "choose symmetry='equitune'"),
        ({"group": "D4", "orbit_statistics": False}, "leave out orbit_statistics=False"),
    ],
    ids=str,
)
def test_what_cannot_be_finished_view_by_view_is_refused(frozen: Backbone, settings: Any, said: str) -> None:
    with pytest.raises(InputError, match="passes=2 ") as found:
        RidgeLearner(frozen, passes=2, **settings)
    assert said in str(found.value)


def test_fewer_passes_than_a_view_takes_are_refused(frozen: Backbone) -> None:
    with pytest.raises(InputError, match=r"passes=1\.5 is too few: .* take 2"):
        StrataLearner(frozen, group="C4", symmetry="equitune", passes=1.5)
    with pytest.raises(InputError, match="passes"):
        StrataLearner(frozen, group="C4", passes=0.5)


def test_methods_with_other_heads_say_that_they_cannot(frozen: Backbone) -> None:
    with pytest.raises(InputError, match="unknown setting 'passes'"):
        MOSLearner(frozen, passes=2, **ALL)


def test_every_kind_of_symmetry_says_whether_it_can() -> None:
    able = {name for name, kind in KINDS.all().items() if kind(group_named("C4"), 3).one_by_one}
    assert able == {"equitune", "frame"}


def test_without_a_group_that_was_taken_an_answer_is_as_ever(frozen: Backbone, images: Tensor) -> None:
    learner = taught(RidgeLearner(frozen))
    chosen = RidgeLearner(frozen, group="auto", symmetry="equitune", passes=2)
    chosen.state = replace(learner.state, choice=GroupChoice(0.0, 1.0, 1.0, 12))
    found = chosen.predict(images)
    assert torch.equal(found.scores, learner.predict(images).scores)
    assert found.passes is None


def test_a_model_file_keeps_the_setting_and_what_it_goes_by(ridge: Any, frozen: Backbone, tmp_path: Path) -> None:
    images = coloured_squares(range(4), 3, seed=5)[0]
    asked = ridge.variant(passes=2)
    asked.save(tmp_path / "model")
    loaded = RidgeLearner.load(tmp_path / "model", frozen)
    assert loaded.settings.passes == 2
    found, again = asked.predict(images), loaded.predict(images)
    assert torch.equal(found.scores, again.scores)
    assert torch.equal(found.passes, again.passes)
    assert torch.equal(loaded.variant(passes=None).predict(images).scores, ridge.predict(images).scores)


def test_a_model_that_does_not_say_when_looks_at_all_views(ridge: Any, images: Tensor) -> None:
    older = ridge.variant(passes=2)
    older.state = replace(ridge.state, certainty=replace(ridge.state.certainty, fewer=None))
    with pytest.warns(UserWarning, match="all are looked at"):
        found = older.predict(images)
    assert torch.equal(found.scores, ridge.predict(images).scores)
    assert (found.passes == 8).all()


def test_edits_and_balance_keep_what_it_goes_by(ridge: Any, images: Tensor) -> None:
    edited = ridge.variant(passes=2)
    edited.forget(4)
    edited.rename(0, 9)
    edited.correct(images[:2], 1)
    for one in (edited, edited.variant(balance=0.0)):
        found = one.predict(images)
        assert 1 <= float(found.passes.mean()) < 8
        assert not one.predict(images).passes.isnan().any()
