"""What the any-time orbit promises beyond equivariance: which views it finishes, in what order, and how many."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.checks.passes import counted
from equivariant.tuning.tune import meet_passes
from tests.support.zoo import Anything, Micro, Whole, sharp_entropy, vit

X = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(7)).double()


def anytime(model: nn.Module | None = None, group: str = "D4", **options: object) -> eq.AnytimeOrbit:
    torch.manual_seed(3)
    given = {"score": Anything(), "proxy": sharp_entropy, "limit": 0.4, **options}
    return eq.AnytimeOrbit(model or Micro(), group, **given).double().eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("weigh", [False, True])
def test_views_are_finished_in_the_order_of_their_scores_until_the_mean_is_sure(weigh: bool) -> None:
    wrapper = anytime(weigh=weigh)
    views = wrapper.model(eq.orbit("D4", X).flatten(0, 1)).unflatten(0, (8, 24))
    scores = wrapper.orbit_scores(X)
    answer, weights = wrapper.answer(X)
    counts = set()
    for image in range(24):
        for count in range(1, 9):
            best = scores[:, image].argsort(descending=True)[:count]
            shares = scores[best, image].softmax(0) if weigh else torch.full((count,), 1 / count).double()
            mean = (shares[:, None] * views[best, image]).sum(0)
            if sharp_entropy(mean[None]) <= 0.4:
                break
        counts.add(count)
        torch.testing.assert_close(answer[image], mean)
        torch.testing.assert_close(weights[best, image], shares)
        assert (weights[:, image] > 0).sum() == count
    assert {1, 2} < counts, "this test shows little"


def test_a_staged_model_answers_as_the_whole_one_and_finishes_the_chosen_views_alone() -> None:
    model = vit(depth=4).double()
    wrapper = anytime(eq.StagedViT(model, 1), score=None, limit=inf)
    nn.init.normal_(wrapper.score.layers[-1].weight)
    x = torch.randn(3, 3, 16, 16).double()
    with counted(wrapper) as passes, torch.no_grad():
        answer, weights = wrapper.answer(x)
    assert passes.views == {"early": 24, "late": 3}
    views = model(eq.orbit("D4", x).flatten(0, 1)).unflatten(0, (8, 3))
    torch.testing.assert_close(answer, (weights[..., None] * views).sum(0))
    eq.assert_equivariant(wrapper, "D4", x)


def test_untrained_scores_of_a_staged_model_tie_and_all_views_answer() -> None:
    wrapper = anytime(eq.StagedPair(Micro().first, Micro().second, 4), score=None, limit=inf)
    torch.testing.assert_close(wrapper(X), eq.Equitune(wrapper.model, "D4")(X))


class Coarse(nn.Module):
    """A score that ties often, to within a few roundings: the first pixel, made coarse."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, 0].round() + 1e-12 * x[:, 0, 0, 1]


def test_views_that_tie_are_finished_together() -> None:
    wrapper = anytime(score=Coarse())
    weights, rounded = wrapper.orbit_weights(X), eq.orbit("D4", X)[:, :, 0, 0, 0].round()
    for image in range(24):
        finished = weights[:, image] > 0
        worst = rounded[finished, image].min()
        assert torch.equal(finished, rounded[:, image] >= worst)
    assert ((weights > 0).sum(0) > 1).any()
    eq.assert_equivariant(wrapper, "D4", X)
    whole = wrapper(X)
    for wrapper.chunk in (1, 3):
        torch.testing.assert_close(wrapper(X), whole)


class Arrow(nn.Module):
    """Arrows (B, 2, 2, 2) of all lengths."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2, :2, :2] - x[:, 1:3, 1:3, 2:4]


def test_answers_that_do_more_than_change_places_are_read_in_the_first_view() -> None:
    """Entropy takes the axes of an arrow for two classes, and so depends on where up is."""
    wrapper = anytime(Arrow(), output=eq.VectorField(), proxy="entropy", limit=0.4)
    assert (wrapper.orbit_weights(X) > 0).sum(0).unique().numel() > 2
    eq.assert_equivariant(wrapper, "D4", X)
    wrapper._unsure = lambda mean, x, first: wrapper._loss(mean, x)  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="not equivariant"):
        eq.assert_equivariant(wrapper, "D4", X)


@pytest.mark.parametrize("staged", [False, True])
def test_the_limit_meets_the_passes_that_were_asked_for(staged: bool) -> None:
    model, wanted = (eq.StagedPair(Micro().first, Micro().second, 4), 7.4) if staged else (Micro(), 3.0)
    wrapper = anytime(model, passes=wanted, limit=-inf)
    found = wrapper.fit_limit(X.split(10))
    assert 0.8 * wanted < found <= wanted
    with counted(wrapper) as passes:
        wrapper(X)
    assert passes.per_image(24) == pytest.approx(found, rel=1e-6)
    assert wrapper.fit_limit(X, passes=100) == pytest.approx(8)
    assert found < wrapper.fit_limit(X, passes=(wanted + 8) / 2) <= (wanted + 8) / 2
    eq.assert_equivariant(wrapper, "D4", X)
    with pytest.raises(eq.InputError, match="too few: one view of each image takes"):
        wrapper.fit_limit(X, passes=0.9)


def test_an_image_at_the_limit_does_not_sit_on_it() -> None:
    """The limit lies between two losses, so that rounding cannot decide when an image of the held-out ones stops."""
    wrapper = anytime(passes=2.0, limit=-inf)
    wrapper.fit_limit(X)
    counts = (wrapper.orbit_weights(X) > 0).sum(0)
    for g in range(8):
        assert torch.equal((wrapper.orbit_weights(eq.act("D4", g, X)) > 0).sum(0), counts)


def test_training_finishes_all_views_and_teaches_the_score() -> None:
    wrapper = anytime().train()
    scores = wrapper.orbit_scores(X)
    answer, weights = wrapper.answer(X)
    torch.testing.assert_close(weights, scores.softmax(0))
    answer.square().sum().backward()
    assert wrapper.score.gain.grad != 0


def test_bad_options_are_refused() -> None:
    with pytest.raises(eq.InputError, match=r"passes=0.5 must be at least 1"):
        eq.AnytimeOrbit(Micro(), "C4", passes=0.5)
    with pytest.raises(eq.InputError, match="unknown proxy"):
        eq.AnytimeOrbit(Micro(), "C4", proxy="certainty")
    with pytest.raises(eq.InputError, match="how many passes"):
        eq.AnytimeOrbit(Micro(), "C4").fit_limit(X.float())
    with pytest.raises(eq.InputError, match="held-out images, at least 1 and better hundreds, not 0"):
        anytime(passes=2.0).fit_limit([])
    with pytest.raises(eq.InputError, match="the proxy loss must return one number"):
        anytime(proxy=lambda scores: scores)(X)


def test_the_limit_is_stored_with_the_weights() -> None:
    one, other = anytime(Whole(Micro()), limit=0.3), anytime(Whole(Micro()), limit=-inf)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(X), other(X))


def test_passes_that_untrained_scores_cannot_meet_are_a_warning() -> None:
    wrapper = anytime(eq.StagedPair(Micro().first, Micro().second, 4), score=None, limit=inf, passes=1.1)
    said = r"passes=1.1 is too few.*, as 8.00 views tie.*Every view is finished: train its scores first"
    with pytest.warns(UserWarning, match=said):
        meet_passes(wrapper, (X, torch.zeros(len(X), dtype=torch.int64)), 8)
    assert float(wrapper.limit) == inf
