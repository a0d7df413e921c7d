"""Kept views: what a ladder trains on when the ViT is run once for all epochs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from continual import losses
from continual.adapters.bank import shared
from continual.adapters.ladder import Ladder
from continual.backbones.side_network import packed, unpacked
from continual.backbones.vit import FrozenViT
from continual.data.inputs import as_experience
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.learning.loop import run
from continual.losses.base import Batch, LossTerm
from continual.methods.bases.kept_views import keep_views
from continual.methods.finetune import FinetuneLearner
from continual.methods.mos.learner import MOSLearner
from continual.testing import coloured_squares, tiny_backbone

QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 4, "lr": 0.1, "adapter": "ladder"}


def learned(views: int, **settings: Any) -> IncrementalLearner[Any]:
    arguments = {**QUICK, "adapter_args": {"reduction": 4, "cached_views": views}, **settings}
    learner = FinetuneLearner(tiny_backbone(), **arguments)
    learner.learn(*coloured_squares([0, 1, 2], 4))
    return learner


def test_a_stem_is_unpacked_as_it_was_packed() -> None:
    frozen, kind = tiny_backbone().frozen, Ladder(reduction=4)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    weights = kind.new(frozen.shapes, torch.Generator().manual_seed(1))
    weights["up_weight"] = torch.randn(weights["up_weight"].shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        stem = frozen.stem(images, reads=kind.reads)
        rows = packed(stem)
        again = unpacked(rows, 1)
        assert rows.dtype == torch.float16
        assert torch.equal(again.passed[-1], stem.passed[-1]), "features keep every bit"
        ours, theirs = (frozen.features(one, shared(kind, weights)) for one in (again, stem))
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.01)


def test_one_epoch_on_one_kept_view_is_an_epoch_on_fresh_views() -> None:
    images, _ = coloured_squares([0, 1, 2], 4, seed=1)
    kept, fresh = (learned(views, epochs=1).predict(images).scores for views in (1, 0))
    other = learned(0, epochs=1, seed=5).predict(images).scores
    torch.testing.assert_close(kept, fresh, atol=3e-3, rtol=0)
    assert not torch.allclose(other, fresh, atol=3e-3)


@pytest.mark.parametrize(("views", "runs"), [(0, 3), (1, 1), (2, 2)])
def test_the_vit_is_run_once_for_each_kept_view(views: int, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = FrozenViT.stem

    def counted(self: FrozenViT, images: Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(len(images))
        return whole(self, images, *rest, **options)

    learner = FinetuneLearner(tiny_backbone(), **QUICK, adapter_args={"reduction": 4, "cached_views": views})
    data = as_experience(*coloured_squares([0, 1, 2], 4), learner.backbone.preprocessing)
    training = learner.begin(data)
    monkeypatch.setattr(FrozenViT, "stem", counted)
    run(training)
    assert sum(seen) == runs * 12


def test_epochs_draw_among_the_views() -> None:
    data = as_experience(*coloured_squares([0, 1], 3), tiny_backbone().preprocessing)
    extractor = FinetuneLearner(tiny_backbone()).extractor
    kept = keep_views(data.training, 3, extractor, 1, seed=0, experience=0, batch_size=4)
    assert len(kept.views) == 3
    assert not torch.equal(kept.views[0], kept.views[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [kept[2][0] for _ in range(30)]
    bits = [rows.view(torch.int16) for rows in drawn]  # halves of a number in full precision may read as NaN
    counts = [sum(torch.equal(rows, view[2].view(torch.int16)) for rows in bits) for view in kept.views]
    assert sum(counts) == 30
    assert min(counts) > 0
    assert kept[2][1] == data.training[2][1]


def test_too_many_views_are_refused_before_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 64)
    with pytest.raises(InputError, match="cached_views=1 would keep .* GB in memory, more than half"):
        learned(1)


class _Light(LossTerm):
    name = "light of images"

    def observe(self, images: Tensor) -> dict[str, Tensor]:
        return {"light": images.mean((1, 2, 3))}

    def __call__(self, batch: Batch) -> Tensor:
        return batch.extra["light"].mean() * batch.logits.mean()


def test_a_term_that_looks_at_images_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.TERMS._added, "light of images", _Light)
    terms = {"light of images": {"weight": 0.1}}
    with pytest.raises(InputError, match="'cached_views': 0}, or leave the term out"):
        learned(1, losses=terms)
    learned(0, losses=terms)


def test_a_contrast_of_features_trains_on_kept_views() -> None:
    learner = MOSLearner(
        tiny_backbone(), **QUICK, adapter_args={"reduction": 4}, feature_contrast=0.1, alignment_epochs=1
    )
    learner.learn(*coloured_squares([0, 1], 4))
    learner.learn(*coloured_squares([2, 3], 4))
    assert len(learner.state.bank) == 2
