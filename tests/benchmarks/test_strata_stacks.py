"""Strata under a stack reads the tokens that the stack makes, and leaves the backbone as it was."""

from __future__ import annotations

from typing import Any

import torch
from strata_stacks import stacked, summary
from torch import Tensor
from torch.nn.functional import layer_norm

from continual.adapters.bank import shared
from continual.adapters.bottleneck import Bottleneck
from continual.backbones.loading import Backbone
from continual.methods.strata import StrataLearner
from continual.seeding import generator


def test_tokens_under_a_stack(backbone: Backbone) -> None:
    images = torch.rand(3, 3, 16, 16, generator=generator(0, "images"))
    depth, width = backbone.depth, backbone.width
    shapes = {"down_weight": (depth, 4, width), "down_bias": (depth, 4), "up_weight": (depth, width, 4)}
    shapes["up_bias"] = (depth, width)
    stack = {name: torch.randn(shape, generator=generator(0, name)) for name, shape in shapes.items()}
    only_class = {"blocks": 1, "patches": False, "mirror": False}
    kind = Bottleneck(adapter_scale=0.1)
    plain, learner = StrataLearner(backbone, **only_class), stacked(stack, kind, True)(backbone, **only_class).variant()

    def last(adapters: Any) -> Tensor:
        """The class token of the last block: the features before the last norm, which is the identity here."""
        frozen: Any = backbone.frozen
        norm, frozen.network.norm = frozen.network.norm, torch.nn.Identity()
        try:
            return layer_norm(frozen.features(images, adapters), (width,))
        finally:
            frozen.network.norm = norm

    with torch.no_grad():
        frozen, adapted = learner.design_features(learner.extractor, images).chunk(2, 1)
        assert torch.equal(frozen, plain.design_features(plain.extractor, images))
        torch.testing.assert_close(frozen, last(None), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(adapted, last(shared(kind, stack)), rtol=1e-4, atol=1e-4)
    assert (adapted - frozen).abs().max() > 0.01
    rows = [{"seed": 1, "row": row, "average": 50 + gain, "final": 40.0} for row, gain in (("strata", 0), ("b", 2))]
    assert "| b | 52.0 | +2.0 | 40.0 | +0.0 |" in summary(rows)
