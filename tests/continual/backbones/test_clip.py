"""CLIP's image tower and prompts, against open_clip itself."""

from __future__ import annotations

import pytest
import torch

from continual.backbones.clip import load_clip


def test_clip_s_scores_are_clip_s_own(tiny_clip: str) -> None:
    open_clip = pytest.importorskip("open_clip")
    templates = ["a {}.", "the {}, turned"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower, head, prepared = load_clip(tiny_clip, None, {}, ["rose", "iris"], templates, pretrained=False)
        torch.manual_seed(0)
        model = open_clip.create_model(tiny_clip).eval()
    images = torch.randn(3, 3, *prepared.size, generator=torch.Generator().manual_seed(1))
    tokens = open_clip.get_tokenizer(tiny_clip)(["a rose.", "the rose, turned", "a iris.", "the iris, turned"])
    with torch.no_grad():
        text = model.encode_text(tokens, normalize=True).unflatten(0, (2, 2)).mean(1)
        text = text / text.norm(dim=1, keepdim=True)
        expected = model.logit_scale.exp() * model.encode_image(images, normalize=True) @ text.T
        assert head is not None
        torch.testing.assert_close(head(tower(images)), expected)
    assert prepared.size == (16, 16)
    assert prepared.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
