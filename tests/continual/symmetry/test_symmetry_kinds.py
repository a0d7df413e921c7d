"""The laws of every kind of symmetry that is registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from continual.errors import InputError
from continual.methods.simple_cil import SimpleCILLearner
from continual.methods.strata import StrataLearner
from continual.symmetry import KINDS
from continual.symmetry.base import Symmetry, symmetry_of
from continual.testing import Case, synthetic_case
from equivariant.orbits import orbit

every_kind = pytest.mark.parametrize("kind", KINDS.all().values(), ids=KINDS.all())
every_method = pytest.mark.parametrize("method", [SimpleCILLearner, StrataLearner])


def learned(kind: type[Symmetry], method: Any = SimpleCILLearner, **settings: Any) -> tuple[Any, Tensor]:
    """Return a learner of three classes with a group of eight elements, and prepared images (8, 3, H, W)."""
    case: Case = synthetic_case(method, group="D4", symmetry=kind.name, **settings)
    prepare = case.learned.backbone.preprocessing.evaluation()
    return case.learned, torch.stack([prepare(image) for image in case.images[::2]])


@every_method
@every_kind
def test_all_views_get_the_same_answer(kind: type[Symmetry], method: Any) -> None:
    if kind.reads_features and method is StrataLearner:
        with pytest.raises(InputError, match=f"{kind.name} reads .* symmetry='frame'"):
            learned(kind, method, orbit_statistics=False)
        return
    learner, images = learned(kind, method)
    scores = torch.stack([learner.predict(view).scores for view in orbit("D4", images)])
    assert torch.equal(scores, scores[:1].expand_as(scores)) == kind.invariant
    assert not torch.allclose(scores[0, 0], scores[0, -1], atol=1e-4)  # it does tell images apart


@every_kind
def test_weights_sum_to_one(kind: type[Symmetry]) -> None:
    learner, images = learned(kind)
    symmetry = learner.symmetry
    views, weights = symmetry.look(learner.backbone.frozen, images)
    assert len(views) == symmetry.looked * len(images)
    if kind.reads_features:
        weights = symmetry.weigh(torch.randn(8, 8, 32, generator=torch.Generator().manual_seed(0)))
    if weights is not None:
        assert (weights >= 0).all()
        assert torch.allclose(weights.sum(1), torch.ones(len(images)))
    alike = images.new_ones(len(views), 32)
    assert torch.allclose(symmetry.mean(alike, symmetry.looked, weights), alike[: len(images)])


@every_kind
def test_features_are_those_of_views_in_shares_that_each_view_says(kind: type[Symmetry]) -> None:
    """What is learned view by view can be asked about as it is later: what is usual of known images relies on it."""
    learner, images = learned(kind)
    symmetry, extractor = learner.symmetry, learner.extractor
    views = orbit("D4", images).transpose(0, 1)  # in the order of the group's elements
    noted = extractor.noted(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    shares = symmetry.shares(noted).float()
    assert torch.allclose(shares.sum(1), torch.ones(len(images)))
    each = extractor.untransformed.features(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    torch.testing.assert_close((shares[..., None] * each).sum(1), extractor.features(images), atol=1e-5, rtol=1e-4)


@every_kind
def test_what_is_fitted_is_stored_and_restored(kind: type[Symmetry], tmp_path: Path) -> None:
    learner, images = learned(kind)
    learner.save(tmp_path / "model")
    loaded = type(learner).load(tmp_path / "model", learner.backbone)
    assert type(loaded.symmetry) is kind
    assert bool(loaded.state.fitted) == kind.learns
    assert set(loaded.state.fitted) == set(learner.state.fitted)
    assert all(torch.equal(loaded.state.fitted[name], tensor) for name, tensor in learner.state.fitted.items())
    assert torch.equal(loaded.predict(images).scores, learner.predict(images).scores)


@every_kind
def test_settings_name_it(kind: type[Symmetry]) -> None:
    found = symmetry_of(SimpleCILLearner.settings_type(group="C4", symmetry=kind.name, views=2), {})
    assert found is not None
    assert (type(found), found.group.name, found.keep) == (kind, "C4", 2)
    assert symmetry_of(SimpleCILLearner.settings_type(symmetry=kind.name), {}) is None


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'equitune'"):
        SimpleCILLearner.settings_type(symmetry="equitun")
