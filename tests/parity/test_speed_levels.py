"""What each way to be fast leaves of the answers, against a plain path that is easy to see through.

The plain path takes one image at a time and one stack at a time, each from its pixels on, and refines in Python. One
image answered alone must have its bits: the operations and their shapes are the same. In a batch the products have
other shapes, and a library may then add up in another order: in float64 nothing but that order is seen.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import continual
from continual.adapters.bank import one, serve
from continual.adapters.bank import shared as shared_stack
from continual.data.inputs import PreparedImages
from continual.datasets.config import load_data
from continual.datasets.streams import split_classes
from continual.experiments.config import DataConfig
from continual.methods.mos.learner import MOSLearner
from continual.methods.mos.retrieval import ensemble
from continual.statistics.head import cosine_scores
from tests.parity.test_mos_reference import golden, learner  # noqa: F401

pytestmark = pytest.mark.shared


def plain(learner: MOSLearner, image: Tensor) -> tuple[Tensor, list[int]]:  # noqa: F811
    """Return the scores (C,) of one prepared image (3, H, W) and the stacks that refinement visited."""
    state = learner.state
    assert state.head is not None
    assert state.prototypes is not None

    def features(k: int) -> Tensor:
        return learner.extractor.features(image[None], shared_stack(learner.settings.adapter_kind, state.bank[k]))

    cosines = cosine_scores(features(0), state.prototypes.mean)
    path = [state.class_experience[int(cosines.argmax())]]
    while True:
        logits = state.head(features(path[-1]))
        asked = state.class_experience[int(logits.argmax())]
        if asked == path[-1] or len(path) == learner.settings.retrieval_rounds:
            return ensemble(logits, cosines, state.experiences)[0] / 2, path
        path.append(asked)


@pytest.fixture(scope="module")
def real(shared: Path) -> tuple[MOSLearner, Tensor]:
    """Four experiences of two real classes, and 48 test images."""
    folder = shared / "data" / "tiny_imagenet_100"
    train, test = load_data(DataConfig(source="folder", train=folder / "train", test=folder / "test"))
    stream = split_classes("Tiny-ImageNet", train, test, sizes=2, max_classes=8, per_class=5)
    weights = shared / "weights" / "vit_small_patch14_dinov2_depth11_fp16.safetensors"
    backbone = continual.load_backbone(weights=weights, img_size=56, crop_scale=(0.4, 1.0))
    made = MOSLearner(backbone, epochs=2, batch_size=8, precision="bfloat16", alignment_epochs=10)
    for experience in stream.experiences:
        made.learn(experience.train_images, experience.train_labels)
    photos = [image for e in stream.experiences for image in e.test_images[:12]]
    prepared = PreparedImages(photos, [0] * len(photos), backbone.preprocessing, augment=False)
    return made.variant(precision="float32"), torch.stack([prepared[i][0] for i in range(len(photos))])


@pytest.fixture(scope="module", params=["golden", pytest.param("real", marks=pytest.mark.slow)])
def case(request: pytest.FixtureRequest) -> tuple[MOSLearner, Tensor]:
    """A learner and images, of which some change their stack."""
    if request.param == "real":
        found: tuple[MOSLearner, Tensor] = request.getfixturevalue("real")
        return found
    return request.getfixturevalue("learner"), request.getfixturevalue("golden")["images"]


@torch.no_grad()
def test_an_image_alone_has_the_bits_of_the_plain_path(case: tuple[MOSLearner, Tensor]) -> None:
    mos, images = case
    visited = 0
    for image in images[:12]:
        scores, (expected, path) = mos.score_batch(image[None]), plain(mos, image)
        assert torch.equal(scores.values[0], expected)
        assert (scores.first_stack, scores.stack, scores.refinements) == (path[0], path[-1], len(path) - 1)
        visited = max(visited, len(path))
    assert visited > 1, "no image changed its stack: the test would not see a mistake"


@torch.no_grad()
def test_a_batch_has_the_answers_of_the_plain_path(case: tuple[MOSLearner, Tensor]) -> None:
    mos, images = case
    scores = mos.score_batch(images)
    expected, paths = zip(*[plain(mos, image) for image in images], strict=True)
    assert torch.equal(scores.values.argmax(-1), torch.stack(expected).argmax(-1))
    assert scores.stack is not None
    assert scores.stack.tolist() == [path[-1] for path in paths]
    assert (scores.values - torch.stack(expected)).abs().max() < 2e-6


@torch.no_grad()
def test_what_a_batch_adds_is_the_order_of_sums(case: tuple[MOSLearner, Tensor]) -> None:
    """Features of images in groups, gathered, and alone, in float64: equal to its rounding."""
    mos, images = case
    exact = MOSLearner(copy.deepcopy(mos.backbone))
    exact.backbone.frozen.double()
    bank = {name: tensor.double() for name, tensor in mos.state.stacked_bank().items()}
    images = images[:24].double()
    stacks = torch.arange(len(images)) * 7 % mos.state.experiences
    features, kind = exact.extractor.features, mos.settings.adapter_kind
    prefix = exact.extractor.stem(images)
    one_by_one = [
        features(image[None], shared_stack(kind, one(bank, k)))
        for image, k in zip(images, stacks.tolist(), strict=True)
    ]
    for rows in torch.arange(len(images)).split(24), torch.arange(len(images)).split(8):  # grouped, gathered
        together = torch.cat([serve(kind, features, prefix[part], bank, stacks[part]) for part in rows])
        assert (together - torch.cat(one_by_one)).abs().max() < 1e-11
    assert len(stacks.unique()) > 2


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"precision": "bfloat16"}, 0.95),
        ({"early_exit": 0.005}, 0.95),
        ({"precision": "bfloat16", "early_exit": 0.005}, 0.93),
    ],
)
def test_approximate_levels_agree_on_real_images(
    real: tuple[MOSLearner, Tensor], settings: dict[str, Any], least: float
) -> None:
    mos, images = real
    exact, fast = mos.score_batch(images), mos.variant(**settings).score_batch(images)
    agreement = float((exact.values.argmax(-1) == fast.values.argmax(-1)).float().mean())
    assert agreement >= least
