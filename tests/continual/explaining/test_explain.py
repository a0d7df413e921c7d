"""Why: the shares of patches add up to the value; a place that matters is found; pictures are kept if asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import continual
from continual.errors import InputError
from continual.explaining.drawing import drawn
from continual.explaining.explain import explained, prepared_for
from continual.explaining.patches import divisible
from continual.methods.ridge import RidgeLearner
from continual.methods.simple_cil import SimpleCILLearner
from continual.methods.strata import StrataLearner
from continual.testing import coloured_squares, tiny_backbone
from tests.support.served import BACKBONE, taught


def pictures(kind: int, count: int = 1) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in coloured_squares([kind], count, seed=50)[0]]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"answer_views": 1},
        {"mirror": False},
        {"mirror_as": "mean"},
        {"patches": False},
        {"blocks": 1, "balance": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("against", [None, "class 1"])
def test_the_parts_sum_to_the_value(settings: dict[str, Any], against: str | None) -> None:
    learner = taught(StrataLearner(BACKBONE, **settings), [0, 1], [2])
    image = pictures(2)[0]
    found = continual.explain(learner, image, against)
    head, answered = learner.current.head, learner.classes.index(found.answer)
    prepared = learner.preprocessing.evaluation()(image)[None]
    with torch.no_grad():
        values = head(learner.design_features(learner.extractor, prepared))[0]
    expected = values[answered] - (0 if against is None else values[learner.classes.index(against)])
    assert found.exact == settings.get("patches", True)
    if found.exact:
        assert found.value == pytest.approx(float(expected), abs=1e-6)
        assert abs(found.residual) < 1e-5
        assert found.places.shape == BACKBONE.frozen.network.patch_embed.grid_size
        assert np.abs(found.places).max() > 1e-4
    assert found.nearest[0][0] == found.answer


def test_a_mirror_image_has_its_shares_mirrored() -> None:
    learner = taught(StrataLearner(BACKBONE), [0, 1], [2])
    image = prepared_for(learner, pictures(1)[0])
    one, other = (explained(learner, given) for given in (image, image.flip(-1)))
    assert np.allclose(one.places, other.places[:, ::-1], atol=1e-6)


def test_on_a_cnn_the_stages_are_shared_out_as_well() -> None:
    learner = taught(StrataLearner(tiny_cnn()), [0, 1], [2])
    found = continual.explain(learner, pictures(0)[0])
    assert found.exact
    assert abs(found.residual) < 1e-5


def tiny_cnn() -> Any:
    import timm

    from continual.backbones.loading import assemble

    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet.r160_in1k", pretrained=False, num_classes=0).eval()
    return assemble(network, name="test_efficientnet.r160_in1k")


class Corner(SimpleCILLearner):
    """Looks at the upper left quarter alone."""

    method = "corner"

    def _scores(self, images: Tensor, cache: Any = None) -> Any:
        half = images.shape[-1] // 2
        seen = torch.zeros_like(images)
        seen[..., :half, :half] = images[..., :half, :half]
        return super()._scores(seen, cache)


@pytest.mark.parametrize("kind", [RidgeLearner, Corner])
def test_any_other_method_is_explained_by_covering(kind: Any) -> None:
    learner = taught(kind(BACKBONE), [0, 1], [2])
    before = learner.predict(pictures(2)).scores
    found = continual.explain(learner, pictures(2)[0])
    assert not found.exact
    assert not divisible(learner)
    assert found.places.shape == (7, 7)
    if kind is Corner:
        assert np.abs(found.places[4:]).max() == np.abs(found.places[:, 4:]).max() == 0
        assert np.abs(found.places[:4, :4]).max() > 0
    assert torch.equal(learner.predict(pictures(2)).scores, before)


def test_it_is_drawn() -> None:
    learner = taught(StrataLearner(BACKBONE), [0, 1])
    found = continual.explain(learner, pictures(0)[0])
    plain, with_others = drawn(found), drawn(found, pictures(1, 3))
    assert plain.size == (2 * 448 + 8, 448)
    assert with_others.size[1] > plain.size[1]
    row, column, _ = found.strongest(1)[0]
    side = 448 // found.places.shape[0]
    half = np.asarray(plain).astype(int)
    at = (row * side + side // 2, column * side + side // 2)
    assert half[at[0], at[1] + 456, 2] - half[at[0], at[1], 2] != 0


def test_refusals() -> None:
    with pytest.raises(InputError, match="nothing has been learned"):
        continual.explain(StrataLearner(tiny_backbone()), pictures(0)[0])
    with pytest.raises(InputError, match="never"):
        continual.explain(taught(StrataLearner(BACKBONE), [0, 1]), pictures(0)[0], "nut")
