"""What makes a training step cheaper leaves its numbers as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from continual.adapters.bank import TrainableAdapter
from continual.backbones.loading import Backbone
from continual.data.inputs import as_experience
from continual.methods.bases.adapter_training import new_adapter
from continual.methods.mos.learner import MOSLearner

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 5, "bottleneck": 4, "alignment_epochs": 2}


@pytest.fixture
def graphs() -> Iterator[Any]:
    """Count what torch.compile does, from nothing."""
    import torch._dynamo as dynamo

    dynamo.reset()
    dynamo.utils.counters.clear()
    yield dynamo.utils.counters
    dynamo.reset()


def learned(backbone: Backbone, blobs: Blobs, **settings: Any) -> MOSLearner:
    learner = MOSLearner(backbone, **{**QUICK, **settings})
    for classes, images in (([0, 1], 3), ([2], 4), ([3, 4, 5], 3)):
        learner.learn(*blobs(classes, images))
    return learner


def fresh(learner: MOSLearner) -> TrainableAdapter:
    settings = learner.settings
    return TrainableAdapter(settings.adapter_kind, new_adapter(settings, learner.backbone))


def same(a: MOSLearner, b: MOSLearner) -> bool:
    mine, theirs = a.export()[0], b.export()[0]
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_nothing_before_the_first_adapter_keeps_a_graph(backbone: Backbone) -> None:
    learner = MOSLearner(backbone, **QUICK)
    stack, images = fresh(learner), torch.rand(2, 3, 16, 16)
    prefix = learner.extractor.stem(images)
    assert not prefix.h.requires_grad
    tokens: list[Tensor] = []
    block = backbone.frozen.network.blocks[0]
    block.mlp.register_forward_hook(lambda *call: tokens.append(call[-1]))
    features = learner.extractor.features(prefix, stack.bind())
    assert features.requires_grad
    assert not tokens[0].requires_grad, "the first block's MLP has no trainable parameter below"


def test_of_the_last_block_only_the_token_that_is_read_is_trained_on(backbone: Backbone, blobs: Blobs) -> None:
    learner = MOSLearner(backbone, adapter_dropout=0.3, **QUICK)
    training, tokens = learner.begin(as_experience(*blobs([0, 1], 3), backbone.preprocessing)), []
    training.start_epoch(0)
    hook = backbone.frozen.network.norm.register_forward_hook(lambda *call: tokens.append(call[-1].shape[1]))
    training.forward(torch.rand(2, 3, 16, 16))
    hook.remove()
    assert tokens == [1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_computed_again_give_the_same_bits_and_keep_less(
    backbone: Backbone, blobs: Blobs, precision: str
) -> None:
    settings = {"precision": precision, "adapter_dropout": 0.3}
    again = learned(backbone, blobs, checkpoint_activations=True, **settings)
    assert same(learned(backbone, blobs, **settings), again)

    def kept(checkpoint: bool) -> int:
        numbers: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            numbers[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            again.extractor.features(torch.rand(8, 3, 16, 16), fresh(again).bind(), checkpoint=checkpoint)
        own = {parameter.data_ptr() for parameter in backbone.frozen.parameters()}
        return sum(size for place, size in numbers.items() if place not in own)

    assert kept(True) < 0.6 * kept(False)


@pytest.mark.slow
# Torch looks at `.grad` of the stack's slices and hides the warning, except where warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_compiled_step_is_one_graph_for_all_experiences(
    backbone: Backbone, blobs: Blobs, graphs: Any, backend: str
) -> None:
    """With dropout and a growing head: one for the first size of batch, one for one image, one for any other size."""
    compiled = learned(backbone, blobs, compile=backend)
    assert not graphs["graph_break"]
    assert graphs["stats"]["unique_graphs"] == 3
    compiled.variant().learn(*blobs([6, 7, 8], 3))
    assert graphs["stats"]["unique_graphs"] == 3
    plain = learned(backbone, blobs)
    if backend == "eager":
        assert same(compiled, plain)
    images, _ = blobs(range(6), 3, seed=3)
    torch.testing.assert_close(compiled.predict(images).scores, plain.predict(images).scores, rtol=1e-3, atol=1e-3)
