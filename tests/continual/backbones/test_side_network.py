"""A ViT and a ladder as two modules: the features of a learner, and tuning that runs the ViT once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import equivariant as eq
from continual.adapters.bank import shared
from continual.backbones.loading import Backbone
from continual.backbones.side_network import side_network
from continual.errors import BackboneError, InputError
from continual.seeding import generator
from continual.testing import tiny_convnet


def test_the_parts_give_the_features_of_the_ladder(backbone: Backbone) -> None:
    images = torch.rand(3, 3, 16, 16, generator=generator(0))
    reader, ladder = side_network(backbone, reduction=4, blocks=2)
    torch.testing.assert_close(ladder(reader(images)), backbone.frozen.features(images), rtol=1e-6, atol=1e-6)
    for name, tensor in ladder.adapter.weights().items():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator(1, name)))
    whole = backbone.frozen.features(images, shared(ladder.adapter.kind, ladder.adapter.weights()))
    torch.testing.assert_close(ladder(reader(images)), whole, rtol=1e-2, atol=1e-2)
    assert (whole - backbone.frozen.features(images)).abs().max() > 0.1
    assert [name for name, _ in ladder.named_parameters()] == [f"adapter.{name}" for name in ladder.adapter.weights()]


def test_tuning_runs_the_vit_once_for_every_view(backbone: Backbone) -> None:
    draw = generator(0)
    images, labels = torch.rand(8, 3, 16, 16, generator=draw), torch.arange(8) % 2
    reader, ladder = side_network(backbone, reduction=4)
    head, passes = nn.Linear(backbone.width, 2), []
    with torch.no_grad():  # whoever begins as well as it ends is kept as it began
        for weight in head.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw))
    model = nn.Sequential(eq.Equitune(nn.Sequential(reader, ladder), "D4"), head)
    reader.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = eq.Recipe((eq.Stage("head", steps=6, learning_rate=0.01),), batch_size=4, validate_every=6)
    eq.tune(
        model,
        (images, labels),
        (images[:4], labels[:4]),
        recipe,
        parts={"head": [*ladder.parameters(), *head.parameters()]},
    )
    assert sum(passes) == 8 * (8 + 4)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any("adapter.up_weight" in name for name in changed)
    assert not any("frozen" in name for name in changed)
    eq.assert_equivariant(model, "D4", images)


def test_what_cannot_be_run_beforehand_is_refused(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="lora changes the ViT.*adapter='ladder'"):
        side_network(backbone, "lora")
    with pytest.raises(BackboneError, match="a side network works inside the blocks of a ViT"):
        side_network(tiny_convnet())
