"""FeCAM: shrinking, normalising, and distances beside the naive ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from continual.errors import InputError
from continual.methods.fecam import FeCAMLearner, normalised, shrunk
from continual.seeding import generator
from continual.testing.cases import coloured_squares, tiny_backbone


def learned(**settings: object) -> FeCAMLearner:
    learner = FeCAMLearner(tiny_backbone(), **settings)
    for classes in ([0, 1], [2, 3]):
        learner.learn(*coloured_squares(classes))
    return learner


def features(learner: FeCAMLearner, images: Tensor) -> Tensor:
    return F.normalize(learner.extractor.features(learner.preprocessing.evaluation()(images)), dim=-1)


@pytest.mark.parametrize("settings", [{}, {"shrinkage": 10.0, "off_diagonal_shrinkage": 5.0}, {"pooled": True}])
def test_distances_are_those_of_their_definition(settings: dict[str, object]) -> None:
    learner, asked = learned(**settings), coloured_squares(range(4), seed=1)[0]
    own = learner.settings
    rows = {label: features(learner, coloured_squares([label])[0]).double() for label in range(4)}
    covariances = [row.mT.cov() for row in rows.values()]
    if own.pooled:
        covariances = [torch.stack(covariances).mean(0)] * 4
    distances = []
    for row, covariance in zip(rows.values(), covariances, strict=True):
        off = covariance[~torch.eye(32, dtype=torch.bool)]
        whole = covariance + own.shrinkage * covariance.diagonal().mean() * torch.eye(32)
        whole = whole + own.off_diagonal_shrinkage * off[off != 0].mean() * (1 - torch.eye(32))
        scale = whole.diagonal().sqrt()
        inverse = torch.linalg.pinv(whole / torch.outer(scale, scale))
        apart = features(learner, asked).double() - row.mean(0)
        distances.append((apart @ inverse @ apart.mT).diagonal())
    expected = (-torch.stack(distances, -1)).softmax(-1)
    found = learner._scores(learner.preprocessing.evaluation()(asked)).values
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-3)


def test_much_shrinking_is_the_nearest_mean() -> None:
    learner, asked = learned(shrinkage=1e8), coloured_squares(range(4), seed=1)[0]
    means = torch.stack([own.mean for own in learner.state.statistics])
    nearest = torch.cdist(features(learner, asked), means).argmin(-1)
    assert learner.predict(asked).labels == nearest.tolist()


def test_what_is_normalised_does_not_see_the_scale_of_a_feature() -> None:
    rows = torch.randn(20, 6, generator=generator(0), dtype=torch.float64)
    scaled = rows * torch.tensor([10.0, 1, 1, 1, 0.1, 1], dtype=torch.float64)
    torch.testing.assert_close(normalised(rows.mT.cov()[None]), normalised(scaled.mT.cov()[None]))


def test_shrunk_covariances_have_no_negative_direction() -> None:
    rows = torch.randn(3, 5, 12, generator=generator(1), dtype=torch.float64)
    covariances = torch.stack([row.mT.cov() for row in rows])
    for first, second in ((1.0, 1.0), (2.0, 0.5), (10.0, 10.0)):
        assert (torch.linalg.eigvalsh(shrunk(covariances, first, second)) > -1e-10).all()


def test_classes_of_one_and_two_images_have_distances() -> None:
    learner = FeCAMLearner(tiny_backbone())
    learner.learn(coloured_squares([0, 1])[0][[0, 8, 9]], [0, 1, 1])
    values = learner._scores(learner.preprocessing.evaluation()(coloured_squares([0, 1])[0])).values
    assert torch.isfinite(values).all()


def test_more_off_the_diagonal_than_on_it_is_refused() -> None:
    with pytest.raises(InputError, match="off_diagonal_shrinkage is from 0 to shrinkage"):
        FeCAMLearner(tiny_backbone(), shrinkage=1.0, off_diagonal_shrinkage=2.0)
