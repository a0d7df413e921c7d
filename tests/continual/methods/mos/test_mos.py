"""MOS against its specification: what is trained, merged, remembered, aligned and retrieved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from continual.adapters.bank import shared
from continual.adapters.bottleneck import Bottleneck
from continual.backbones.loading import Backbone
from continual.backbones.vit import SharedStem
from continual.data.inputs import as_experience
from continual.errors import LearningError
from continual.learning.feature_cache import FeatureCache
from continual.merging.base import merged
from continual.methods.mos.adapter_features import AdapterFeatures
from continual.methods.mos.learner import MOSLearner
from continual.methods.mos.training import MOSTraining
from continual.statistics.class_statistics import Kind, fit
from continual.statistics.fields import pack
from continual.statistics.head import cosine_scores
from continual.uncertainty.gaussians import LEVELS

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.05, "bottleneck": 4, "alignment_epochs": 2}
STREAM = ([0, 1], [2, 3], [4, 5])


@pytest.fixture
def learned(backbone: Backbone, blobs: Blobs) -> Callable[..., MOSLearner]:
    """Make a learner that has learned the first experiences of the stream."""

    def make(experiences: int = 3, **settings: Any) -> MOSLearner:
        learner = MOSLearner(backbone, **{**QUICK, **settings})
        for classes in STREAM[:experiences]:
            learner.learn(*blobs(classes, 4))
        return learner

    return make


def prepared(learner: MOSLearner, images: Tensor) -> Tensor:
    view = learner.backbone.preprocessing.evaluation()
    return torch.stack([torch.Tensor(view(image)) for image in images])


def under(learner: MOSLearner, images: Tensor, stack: int) -> Tensor:
    """Features of images under one finished stack."""
    with torch.no_grad():
        adapters = shared(learner.settings.adapter_kind, learner.state.bank[stack])
        return learner.extractor.features(prepared(learner, images), adapters)


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# Training and merging ----------------------------------------------------------------------------------


def test_the_working_stack_goes_on_and_finished_stacks_stay(learned: Callable[..., MOSLearner], blobs: Blobs) -> None:
    two = learned(2)
    before = two.state.bank
    still = two.variant(epochs=0)
    still.learn(*blobs(STREAM[2], 4))
    assert same(still.state.bank[2], before[1])
    two.learn(*blobs(STREAM[2], 4))
    assert all(same(a, b) for a, b in zip(before, two.state.bank, strict=False))
    assert not same(two.state.bank[2], before[1])


def test_full_merging_gives_the_mean_of_the_finished_stacks(learned: Callable[..., MOSLearner]) -> None:
    bank = learned(3, alpha=1.0).state.bank
    assert same(bank[1], bank[0])
    assert same(bank[2], merged("mean", bank[:2]))


@pytest.mark.parametrize(("rule", "effective"), [("step", 0.1), ("per_forward", 1 - 0.9**3)])
def test_every_step_merges_with_the_rule_s_strength(
    learned: Callable[..., MOSLearner], blobs: Blobs, rule: str, effective: float
) -> None:
    learner = learned(2, merge=rule)
    training = learner.begin(as_experience(*blobs(STREAM[2], 4), learner.backbone.preprocessing))
    with torch.no_grad():
        training.adapter.up_bias.fill_(10.0)
    before = training.adapter.frozen()["up_bias"]
    training.after_step()
    anchor = merged("mean", learner.state.bank)["up_bias"]
    torch.testing.assert_close(training.adapter.up_bias.detach(), (1 - effective) * before + effective * anchor)


def test_the_first_experience_does_not_merge(learned: Callable[..., MOSLearner]) -> None:
    assert same(learned(1, alpha=0.0).state.bank[0], learned(1, alpha=1.0).state.bank[0])


def test_old_classes_take_no_part_in_the_training_of_new_ones(learned: Callable[..., MOSLearner]) -> None:
    plain = {"alignment_epochs": 0, "weight_decay": 0.0}
    one, two = learned(1, **plain).state.head, learned(2, **plain).state.head
    assert one is not None
    assert two is not None
    assert torch.equal(one.weight, two.weight[:2])
    assert torch.equal(one.bias, two.bias[:2])


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_loss_is_cross_entropy_and_the_weighted_contrast(
    learned: Callable[..., MOSLearner], blobs: Blobs, weight: float
) -> None:
    learner = learned(1, feature_contrast=weight)
    images, labels = blobs([7, 8], 1)
    training = MOSTraining(learner.start, as_experience(images, labels, learner.backbone.preprocessing))
    output = training.forward(prepared(learner, images))
    rows = torch.cat([torch.stack([s.mean for s in learner.state.statistics]), output.features])
    contrast = cross_entropy(rows @ rows.T / 0.8, torch.arange(4))
    entropy = cross_entropy(output.logits[:, 2:], torch.tensor([0, 1]))
    torch.testing.assert_close(training.loss(output, labels), entropy + weight * contrast)


# What is remembered ------------------------------------------------------------------------------------


def test_statistics_are_of_the_classes_own_stack_and_prototypes_of_the_first(
    learned: Callable[..., MOSLearner], blobs: Blobs
) -> None:
    learner = learned(2, statistics="full")
    assert learner.state.prototypes is not None
    for label in range(4):
        images, _ = blobs([label], 4)
        statistics = learner.state.statistics[label]
        expected = fit(under(learner, images, label // 2))
        torch.testing.assert_close(statistics.mean, expected.mean)
        torch.testing.assert_close(statistics.covariance_matrix(), expected.covariance_matrix())
        torch.testing.assert_close(learner.state.prototypes.mean[label], under(learner, images, 0).mean(0))


def test_a_class_seen_again_is_remembered_by_all_its_images(learned: Callable[..., MOSLearner], blobs: Blobs) -> None:
    """Alone, and beside new classes; of the first experience, and of a later one."""
    learner = learned(2, statistics="full")
    again = {label: blobs([label], 3, seed=9)[0] for label in (1, 2)}
    bank = learner.state.bank
    learner.learn(again[1], [1] * 3)
    assert learner.state.bank is bank
    new, names = blobs([4], 4)
    learner.learn(torch.cat([again[2], new]), [2] * 3 + names)
    state = learner.state
    assert (state.classes, state.class_experience) == ((0, 1, 2, 3, 4), (0, 0, 1, 1, 2))
    assert (state.experiences, state.updates, len(state.bank)) == (3, 4, 3)
    assert state.prototypes is not None
    for label, images in again.items():
        union = torch.cat([blobs([label], 4)[0], images])
        expected = fit(under(learner, union, label // 2))
        assert state.statistics[label].count == expected.count == int(state.prototypes.count[label]) == 7
        found = pack(state.statistics[label])[0]
        for name, tensor in pack(expected)[0].items():
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(state.prototypes.mean[label], under(learner, union, 0).mean(0))


def test_alignment_starts_with_the_second_experience(learned: Callable[..., MOSLearner]) -> None:
    def heads(experiences: int) -> list[Tensor]:
        learners = [learned(experiences, alignment_epochs=epochs) for epochs in (0, 2)]
        return [learner.state.head.weight for learner in learners if learner.state.head is not None]

    assert torch.equal(*heads(1))
    assert not torch.equal(*heads(2))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_memory_grows_as_documented(backbone: Backbone, blobs: Blobs, kind: Kind) -> None:
    components = 3
    learner = MOSLearner(backbone, **{**QUICK, "epochs": 0}, statistics=kind, statistics_components=components)
    depth, d, r = backbone.depth, backbone.width, learner.settings.bottleneck
    own = {
        "full": d + d * d,
        "shrunk": d + d * d,
        "diagonal": 2 * d,
        "low_rank": d * (components + 2),
        "centroids": components * (d + 1) + 2 * d,
    }
    size = 4 * (LEVELS + 2 * d * d)  # the calibration and what tells shifts, from the first experience on
    for classes in ([0, 1], [2], [3, 4, 5]):
        learner.learn(*blobs(classes, 4))
        now = sum(learner.memory().values())
        numbers = depth * (2 * r * d + r + d) + 11 * d + len(classes) * (2 * d + 1 + own[kind])
        assert now - size == 4 * numbers + 8 * len(classes)  # float32, and an int64 count a class
        size = now


def test_by_default_a_class_of_a_vit_base_leaves_120_kb_and_the_paper_s_presets_keep_all(backbone: Backbone) -> None:
    default = MOSLearner(backbone).settings
    remembered = fit(torch.randn(50, 768), default.statistics, default.statistics_components)
    assert sum(4 * tensor.numel() for tensor in pack(remembered)[0].values()) + 4 * (2 * 768 + 1) < 120_000
    for preset in ("paper", "reference"):
        assert MOSLearner(backbone, preset=preset).settings.statistics == "full"


# Inference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"ensemble": False}, {"retrieval_rounds": 2}, {"consolidate": "mean"}])
def test_answers_are_those_of_every_stack_run_on_every_image(
    learned: Callable[..., MOSLearner], blobs: Blobs, settings: dict[str, Any]
) -> None:
    learner = learned().variant(**settings)
    state, rounds = learner.state, learner.settings.retrieval_rounds
    images, _ = blobs(range(6), 5, seed=3)
    images = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert state.head is not None
    assert state.prototypes is not None
    bank = learner.state.bank
    stacks = [bank[0], bank[0], merged("mean", bank[:2])] if learner.settings.consolidate else list(bank)
    with torch.no_grad():
        inputs = prepared(learner, images)
        features = [
            learner.extractor.features(inputs, shared(Bottleneck(adapter_scale=0.1), stack)) for stack in stacks
        ]
    cosines = cosine_scores(features[0], state.prototypes.mean)

    answer = learner.predict(images)
    assert answer.stack is not None
    assert answer.first_stack is not None
    assert answer.refinements is not None
    for i in range(len(images)):
        path = [state.class_experience[int(cosines[i].argmax())]]
        while True:
            logits = state.head(features[path[-1]][i])
            asked = state.class_experience[int(logits.argmax())]
            if asked == path[-1] or len(path) == rounds:
                break
            path.append(asked)
        expected = logits.softmax(0)
        if learner.settings.ensemble:
            expected = (expected + (3 * cosines[i]).softmax(0)) / 2
        assert [int(answer.first_stack[i]), int(answer.stack[i])] == [path[0], path[-1]]
        assert int(answer.refinements[i]) == len(path) - 1
        torch.testing.assert_close(answer.scores[i], expected, atol=1e-5, rtol=1e-4)
    assert answer.refinements.any(), "no image was refined: the test would not see a mistake"
    assert len(answer.stack.unique()) > 1


def test_only_the_stacks_that_are_asked_for_are_run(
    learned: Callable[..., MOSLearner], blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learned()
    images, _ = blobs(range(6), 3, seed=3)
    begun, ran = 0, 0
    frozen = type(learner.backbone.frozen)
    stem, features = frozen.stem, frozen.features

    def counted_stem(self: Any, images: Tensor, prompts: Tensor | None = None, reads: int = 0) -> SharedStem:
        nonlocal begun
        begun += len(images)
        return stem(self, images, prompts, reads)

    def counted_features(self: Any, start: SharedStem, adapters: Any = None) -> Tensor:
        nonlocal ran
        ran += len(start.h)
        return features(self, start, adapters)

    monkeypatch.setattr(frozen, "stem", counted_stem)
    monkeypatch.setattr(frozen, "features", counted_features)
    answer = learner.predict(images)
    assert answer.first_stack is not None
    assert answer.refinements is not None
    later = int(answer.refinements.sum() + (answer.first_stack > 0).sum())
    assert ran <= len(images) + later
    assert begun == len(images), "what all stacks have in common was computed more than once"


def test_consolidation_is_of_inference_only(learned: Callable[..., MOSLearner], blobs: Blobs) -> None:
    plain, consolidated = learned(), learned(consolidate="mean")
    assert all(same(a, b) for a, b in zip(plain.state.bank, consolidated.state.bank, strict=True))
    images, _ = blobs(range(6), 2, seed=3)
    assert torch.equal(plain.variant(consolidate="mean").predict(images).scores, consolidated.predict(images).scores)


# Failure -----------------------------------------------------------------------------------------------


def test_an_alignment_that_diverges_is_refused(learned: Callable[..., MOSLearner], blobs: Blobs) -> None:
    learner = learned(1).variant(alignment_lr=1e38)
    before = learner.state
    with pytest.raises(LearningError, match="experience 2 gave weights whose scores are not finite"):
        learner.learn(*blobs(STREAM[1], 4))
    assert learner.state is before


def test_it_learns(backbone: Backbone, blobs: Blobs) -> None:
    learner = MOSLearner(backbone, epochs=10, batch_size=4, bottleneck=4, lr=0.1)
    for classes in STREAM:
        learner.learn(*blobs(classes, 8))
    assert learner.evaluate(*blobs(range(6), 8, seed=5)) > 0.9


@pytest.mark.parametrize("args", [{"bottleneck": 4}, {"reduction": 4}], ids=["bottleneck", "ladder"])
def test_tokens_of_all_images_are_not_copied_for_the_first_adapter(
    args: dict[str, int], learned: Callable[..., MOSLearner], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learned(2, adapter="ladder" if "reduction" in args else "bottleneck", adapter_args=args)
    images, kind, bank = torch.randn(5, 3, 16, 16), learner.settings.adapter_kind, learner.state.stacked_bank()
    copied: list[int] = []
    some = SharedStem.__getitem__
    monkeypatch.setattr(SharedStem, "__getitem__", lambda stem, rows: (copied.append(len(rows)), some(stem, rows))[1])
    with torch.no_grad():
        alone = learner.extractor.features(images, shared(kind, learner.state.bank[0]))
        for cache in (None, FeatureCache()):
            under = AdapterFeatures(learner.extractor, kind, bank, images, views=1, cache=cache)
            torch.testing.assert_close(under.first, alone)
            assert copied == []
            under.later(torch.tensor([1, 3]), torch.tensor([1, 1]))
            assert copied == [2]
            copied.clear()
