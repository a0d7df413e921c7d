"""Images for several backbones at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from continual.errors import BackboneError, InputError
from continual.methods.strata import StrataLearner
from continual.testing import coloured_squares, tiny_backbone, tiny_backbones
from continual.testing.cases import CONVNET_ARGS
from tests.field.case import Case

SECTION = "Several backbones"


def _prepared_for_one(folder: Path) -> None:
    learner, (images, labels) = StrataLearner(tiny_backbones()), coloured_squares([0, 1], 2)
    view = learner.backbone.parts[0].preprocessing.evaluation()
    with pytest.raises(InputError, match=r"takes \(B, 6, 24, 24\), got .*3, 16, 16\): pass uint8 tensors"):
        learner.learn(torch.stack([view(image) for image in images]), labels, value_range="normalised")
    both = learner.preprocessing.evaluation()
    learner.learn(torch.stack([both(image) for image in images]), labels, value_range="normalised")
    plain = StrataLearner(tiny_backbones())
    plain.learn(images, labels)
    assert torch.equal(plain.predict(images).scores, learner.predict(images, value_range="bytes").scores)


def _odd_and_even(folder: Path) -> None:
    from continual.backbones.loading import assemble, create

    arguments = {**CONVNET_ARGS, "img_size": 25}
    odd = assemble(create("resnet18", arguments), "resnet18", arguments)
    with pytest.raises(BackboneError, match="16 x 16, 25 x 25 px: give an img_size"):
        StrataLearner([tiny_backbone(), odd])


CASES = [
    Case(
        SECTION,
        "Tensors that were resized and normalised for one backbone, given to a model of two",
        "Refused, with the shape that both together take; `learner.preprocessing` prepares images for both.",
        "Reports of ensembles whose second network silently got inputs with the first one's mean and size",
        _prepared_for_one,
    ),
    Case(
        SECTION,
        "Backbones whose input sizes are even and odd, such as 224 and 299 px",
        "Refused with the cure, another `img_size` for the CNN: one input could not lie in the middle of the other.",
        "Reports of features that changed by a pixel's shift when an image was mirrored",
        _odd_and_even,
    ),
]
