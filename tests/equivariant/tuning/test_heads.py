"""A head that is fitted on all views: what it is, where it may sit, and what it keeps."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.tuning.heads import fit_head, views_at
from tests.equivariant.tuning.test_tuning import TEST, TRAIN, VALIDATION
from tests.support.zoo import Micro


def parts() -> tuple[nn.Module, nn.Linear]:
    """A network that reads what is at which place, and a head for it that was fitted to upright images."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Flatten(), nn.Linear(16, 40), nn.Tanh()).requires_grad_(False).eval()
    with torch.no_grad():
        return features, eq.fit_head(features(TRAIN[0]), TRAIN[1], 2)


#: where a head may be
PLACES: dict[str, Callable[[nn.Module, nn.Linear], nn.Module]] = {
    "outside": lambda features, head: nn.Sequential(eq.Equitune(features, "C4"), head),
    "last of the model": lambda features, head: eq.Equitune(nn.Sequential(features, head), "C4"),
    "of λ-equitune": lambda features, head: eq.LambdaEquitune(features, "C4", head=head, width=40),
    "of a chosen view": lambda features, head: nn.Sequential(eq.Canonicaliser(features, "C4", channels=1), head),
    "of an any-time orbit": lambda features, head: eq.AnytimeOrbit(
        nn.Sequential(features, head), "C4", score=eq.ImageScore(1), passes=2.0
    ),
}


def test_it_is_scikit_learn_s_regression() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    features = torch.randn(60, 4, 5) * torch.tensor([1.0, 10, 0.1, 1, 0]) + 3
    labels = torch.arange(60) % 3
    features[:, :, 0] += labels[:, None]
    head = fit_head(features, labels, penalty=20.0)
    rows, deviation = features.flatten(0, 1).double(), features.flatten(0, 1).double().std(0, correction=0)
    z = (rows - rows.mean(0)) / torch.where(deviation > 0, deviation, 1)
    theirs = linear.LogisticRegression(C=1 / 20, tol=1e-8, max_iter=1000).fit(z, labels.repeat_interleave(4))
    expected = torch.from_numpy(theirs.predict_proba(z)).float()
    torch.testing.assert_close(head(features).flatten(0, 1).softmax(1), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("place", PLACES)
def test_the_head_is_given_every_view_by_itself_wherever_it_is(place: str) -> None:
    features, head = parts()
    model = PLACES[place](features, head).eval()
    before = copy.deepcopy(model.state_dict())
    found, labels = views_at(head, model, eq.as_group("C4"), eq.Images(), (TRAIN[0][:10], TRAIN[1][:10]), 4)
    expected = features(eq.orbit("C4", TRAIN[0][:10]).flatten(0, 1)).unflatten(0, (4, 10)).transpose(0, 1)
    torch.testing.assert_close(found, expected)
    assert torch.equal(labels, TRAIN[1][:10])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    eq.assert_equivariant(model, "C4", TEST[0][:5])


@pytest.mark.parametrize("place", PLACES)
def test_fitted_on_all_views_a_mean_keeps_the_upright_accuracy(place: str) -> None:
    """The default of `tune`, for every wrapper: it fits the head alone, with the orbits cached or not."""
    features, head = parts()
    plain = eq.evaluate(nn.Sequential(features, head), TEST, "C4")
    model, frozen = PLACES[place](features, head), copy.deepcopy(features.state_dict())
    passes: list[int] = []
    features.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    result = eq.tune(model, TRAIN, VALIDATION, parts={"head": list(head.parameters())}, test=TEST)
    assert [record.step for record in result.history] == [0, 1]
    assert result.before is not None
    assert result.after is not None
    assert plain.upright > 0.95
    assert result.after.upright == result.after.turned > plain.upright - 0.06
    assert result.after.turned > plain.turned + 0.1
    assert all(torch.equal(value, frozen[name]) for name, value in features.state_dict().items())


def test_an_any_time_orbit_meets_its_passes_after_tuning() -> None:
    features, head = parts()
    model = PLACES["of an any-time orbit"](features, head)
    assert isinstance(model, eq.AnytimeOrbit)
    eq.tune(model, TRAIN, VALIDATION, parts={"head": list(head.parameters())})
    assert 1.5 < eq.evaluate(model, VALIDATION, "C4").passes <= 2.0


def test_the_order_of_an_any_time_orbit_is_trained_without_labels() -> None:
    features, head = parts()
    model = PLACES["of an any-time orbit"](features, head)
    assert isinstance(model, eq.AnytimeOrbit)
    stages = (eq.Stage("upright", 60, 0.01), eq.Stage("fit_head"))
    result = eq.tune(model, TRAIN, VALIDATION, eq.Recipe(stages, validate_every=20), parts={
        "weights": model.weight_parameters(), "head": list(head.parameters())
    })  # fmt: skip
    found = [record.validation_accuracy for record in result.history if record.stage == 0]
    assert found[-1] > 0.95 > 0.9 > found[0]
    assert (model.orbit_weights(TEST[0])[0] > 0).double().mean() > 0.9, "the upright view is among the first"
    assert eq.evaluate(model, VALIDATION, "C4").passes <= 2.0


class Between(nn.Module):
    """Something without weights between what is frozen and the head."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


def test_what_lies_before_the_head_is_not_forgotten() -> None:
    features, _ = parts()
    head = nn.Linear(40, 2)
    model = eq.Equitune(nn.Sequential(features, Between(), head), "C4")
    eq.tune(model, TRAIN, VALIDATION, parts={"head": list(head.parameters())})
    given = features(eq.orbit("C4", TRAIN[0]).flatten(0, 1)).relu().unflatten(0, (4, -1)).transpose(0, 1)
    torch.testing.assert_close(head.weight, fit_head(given, TRAIN[1], 2).weight, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(eq.InputError, match=r"not \(3, 2\) and torch.float32"):
        fit_head(torch.randn(3, 2), torch.zeros(3))
    deep = nn.Sequential(eq.Equitune(Micro(), "C4"), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(eq.InputError, match=r"fits one linear layer with a bias, not Linear, Linear: train it by"):
        eq.tune(deep, TRAIN, VALIDATION)
    with pytest.raises(eq.InputError, match="take_off_head"):
        eq.tune(eq.Equitune(Micro(), "C4"), TRAIN, VALIDATION)
