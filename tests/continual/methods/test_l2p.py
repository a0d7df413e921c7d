"""L2P against its equations, restated here in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from continual.backbones.loading import assemble, create
from continual.data.inputs import as_experience
from continual.errors import BackboneError, InputError
from continual.methods.l2p import L2PLearner, select

SETTINGS: dict[str, Any] = {"epochs": 1, "batch_size": 8, "pool": 4, "chosen": 2, "prompt_length": 3}
NOISE = np.random.RandomState(0)


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def chosen_by_hand(query: Any, keys: Any, count: int) -> tuple[list[int], float]:
    """Return the keys of the greatest cosine, best first, and the sum of their 1 - cosine."""
    likeness = [cosine(query, key) for key in keys]
    order = sorted(range(len(keys)), key=lambda i: -likeness[i])[:count]
    return order, sum(1 - likeness[i] for i in order)


def test_every_image_gets_the_prompts_whose_keys_are_most_like_it() -> None:
    queries, keys, prompts = (NOISE.randn(*s).astype(np.float32) for s in ((5, 6), (4, 6), (4, 3, 6)))
    found, distance = select(*map(torch.from_numpy, (queries, keys, prompts)), chosen=2)
    for i, query in enumerate(queries):
        order, expected = chosen_by_hand(query, keys, 2)
        np.testing.assert_array_equal(found[i].numpy(), np.concatenate([prompts[k] for k in order]))
        assert float(distance[i]) == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_cross_entropy_over_the_new_classes_plus_the_pull(backbone: Any, blobs: Any) -> None:
    learner = L2PLearner(backbone, **SETTINGS, pull=0.3)
    learner.learn(*blobs([0, 1], 4))
    data = as_experience(*blobs([2, 3], 2), backbone.preprocessing)
    training = learner.begin(data)
    inputs = torch.stack([data.evaluation[i][0] for i in range(4)])
    output = training.forward(inputs)
    queries, keys = learner.extractor.features(inputs).numpy(), training.pool.keys.detach().numpy()
    logits = output.logits.detach().numpy()
    expected = 0.0
    for i, label in enumerate(data.labels):
        new = logits[i, 2:]
        expected += np.log(np.exp(new).sum()) - new[int(label) - 2]
        expected += 0.3 * chosen_by_hand(queries[i], keys, 2)[1]
    assert training.loss(output, data.labels).item() == pytest.approx(expected / 4, rel=1e-4)


def test_features_are_the_mean_of_the_prompts_after_the_vit(backbone: Any) -> None:
    """The ViT's own blocks on its own tokens with prompts after the class token."""
    images, prompts = torch.randn(2, 3, 16, 16), torch.randn(2, 6, backbone.width)
    vit = backbone.frozen.network
    with torch.no_grad():
        tokens = vit._pos_embed(vit.patch_embed(images))
        tokens = vit.norm(vit.blocks(torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], 1)))
        found = backbone.frozen.features(backbone.frozen.stem(images, prompts))
    torch.testing.assert_close(found, tokens[:, 1:7].mean(1))


def test_rows_of_old_classes_are_left_alone(backbone: Any, blobs: Any) -> None:
    learner = L2PLearner(backbone, **SETTINGS)
    learner.learn(*blobs([0, 1], 4))
    assert learner.state.head is not None
    before = learner.state.head.weight.clone()
    learner.learn(*blobs([2], 4))
    assert torch.equal(learner.state.head.weight[:2], before)


def test_the_pool_learns_and_its_memory_is_counted(backbone: Any, blobs: Any) -> None:
    learner = L2PLearner(backbone, **{**SETTINGS, "lr": 0.01})
    learner.learn(*blobs([0, 1], 4))
    first = learner.state.pool
    learner.learn(*blobs([2, 3], 4))
    assert first is not None
    assert learner.state.pool is not None
    assert not torch.equal(first["prompts"], learner.state.pool["prompts"])
    assert not torch.equal(first["keys"], learner.state.pool["keys"])
    d = backbone.width
    assert learner.memory() == {"head": 4 * 4 * (d + 1), "pool": 4 * 4 * (3 + 1) * d}


def test_what_cannot_be_is_refused(backbone: Any) -> None:
    learner = L2PLearner(backbone, **SETTINGS)
    for make in (lambda: L2PLearner(backbone, **{**SETTINGS, "chosen": 5}), lambda: learner.variant(chosen=5)):
        with pytest.raises(InputError, match="chosen is 5, but the pool has 4 prompts"):
            make()


def test_rotary_positions_take_no_prompts() -> None:

    name, args = "eva02_tiny_patch14_224", {"img_size": 28, "depth": 1, "embed_dim": 48, "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        backbone = assemble(create(name, args), name, args)
    with pytest.raises(BackboneError, match="rotary positions takes no prompts: use a vit"):
        backbone.frozen.stem(torch.zeros(1, 3, 28, 28), torch.zeros(1, 2, 48))
