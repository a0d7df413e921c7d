"""Which images of a pool to label: the library's own call, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import continual
from continual.backbones.loading import Backbone
from continual.backbones.patches import attended_patches
from continual.errors import BackboneError, InputError
from continual.testing import tiny_convnet

Blobs = Callable[..., tuple[torch.Tensor, list[int]]]


@pytest.mark.parametrize("by", ["image", "patterns"])
def test_every_colour_is_asked_for(backbone: Backbone, blobs: Blobs, by: Any) -> None:
    images, labels = blobs([0, 1, 2], 6)
    found = continual.select(images, 3, backbone, by=by, seed=3)
    assert len(found.indices) == 3
    assert {labels[place] for place in found.indices} == {0, 1, 2} or by == "patterns"
    assert found.paths is None
    assert found.stands_for is None if by == "patterns" else sum(found.stands_for or ()) == 18
    assert continual.select(images, 3, backbone, by=by, seed=3, batch_size=2).indices == found.indices


def test_files_are_named(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    for number, image in enumerate(blobs([0, 1], 3)[0]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    found = continual.select(tmp_path, 2, backbone)
    assert found.paths == [sorted(tmp_path.iterdir())[place] for place in found.indices]


def test_attention_is_that_of_the_last_block(backbone: Backbone) -> None:
    """As timm's own attention has it, hooked."""
    network: Any = backbone.frozen.network
    images = torch.randn(3, 3, 16, 16)
    seen: dict[str, Any] = {}
    last = network.blocks[-1]
    hook = last.register_forward_pre_hook(lambda _, given: seen.update(tokens=given[0]))
    with torch.no_grad():
        network.forward_features(images)
        patches, looked = attended_patches(backbone.frozen, images)  # type: ignore[arg-type]
    hook.remove()
    place = network.num_prefix_tokens
    torch.testing.assert_close(patches, seen["tokens"][:, place:])
    q, k, _ = last.attn.qkv(last.norm1(seen["tokens"])).unflatten(-1, (3, last.attn.num_heads, -1)).unbind(2)
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * last.attn.scale
    expected = scores.softmax(-1)[:, :, 0, place:].mean(1)
    torch.testing.assert_close(looked, expected / expected.sum(1, keepdim=True))


def test_new_classes_come_first_with_a_model_that_knows_the_others(backbone: Backbone, blobs: Blobs) -> None:
    known = continual.methods.method("ridge")(backbone)
    known.learn(*blobs([0, 1], 30))
    images, labels = blobs([0, 1, 2], 20, 1)
    found = continual.select(images, 6, known=known)
    plain = continual.select(images, 6, backbone)
    new = [sum(labels[place] == 2 for place in each.indices) for each in (found, plain)]
    assert new[0] > new[1]


def test_what_cannot_be_is_refused(backbone: Backbone, blobs: Blobs) -> None:
    images, _ = blobs([0, 1], 3)
    with pytest.raises(InputError, match=r"the budget is a number of images, got 5\.5"):
        continual.select("any", 5.5, backbone)  # type: ignore[arg-type]
    for budget in (0, 7):
        with pytest.raises(InputError, match=f"the budget is {budget}, and there are 6 images: ask for 1 to 6"):
            continual.select(images, budget, backbone)
    with pytest.raises(InputError, match="by 'image' or by 'patterns', not by 'herding'"):
        continual.select(images, 2, backbone, by="herding")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give one of them"):
        continual.select(images, 2)
    silent = continual.methods.method("simple_cil")(backbone)
    silent.learn(*blobs([0, 1], 3))
    with pytest.raises(InputError, match="simple_cil like this cannot say which images are unlike"):
        continual.select(images, 2, known=silent)
    with pytest.raises(BackboneError, match="class token, which a ResNet like this does not have"):
        continual.select(images, 2, tiny_convnet(), by="patterns")
