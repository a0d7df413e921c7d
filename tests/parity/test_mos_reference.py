"""Agreement with the published implementation of MOS, recorded on a tiny random ViT, to 1e-4 relative."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from continual.adapters.bank import per_image, stacked
from continual.adapters.bank import shared as shared_stack
from continual.adapters.bottleneck import Bottleneck
from continual.backbones.loading import assemble
from continual.losses.feature_contrast import feature_contrast
from continual.merging.base import merge
from continual.merging.base import merged as merged_by
from continual.methods.mos.learner import MOSLearner, MOSState
from continual.methods.mos.retrieval import ensemble, refine
from continual.statistics.class_statistics import fit
from continual.statistics.head import Head, Prototypes, cosine_scores

pytestmark = pytest.mark.shared
SCALE = 0.1


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, torch.Tensor]:
    with np.load(shared / "golden" / "mos_reference.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert ours.shape == theirs.shape
    assert error < 1e-4, f"largest difference {error:.2g} of the largest value"


def stack_of(golden: dict[str, torch.Tensor], prefix: str, depth: int) -> dict[str, torch.Tensor]:
    return {
        name.replace(".", "_"): torch.stack([golden[f"{prefix}/{block}/{name}"] for block in range(depth)])
        for name in ("down.weight", "down.bias", "up.weight", "up.bias")
    }


@pytest.fixture(scope="module")
def learner(golden: dict[str, torch.Tensor]) -> MOSLearner:
    """A learner in the state that the reference was in."""
    width, heads, depth, stacks, per, size, patch, _, _ = golden["meta"].tolist()
    args: dict[str, Any] = {
        "img_size": size, "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads,
    }  # fmt: skip
    vit = timm.create_model("vit_base_patch16_224", num_classes=0, **args)
    state = {k.removeprefix("backbone/"): v for k, v in golden.items() if k.startswith("backbone/")}
    head = Head(state.pop("head.weight"), state.pop("head.bias"))
    vit.load_state_dict(state, strict=True)
    made = MOSLearner(assemble(vit, "vit_base_patch16_224", args))
    made.state = MOSState(
        classes=tuple(range(stacks * per)),
        class_experience=tuple(golden["class_to_task"].tolist()),
        experiences=stacks,
        updates=stacks,
        bank=tuple(stack_of(golden, f"adapter/{t}", depth) for t in range(stacks)),
        head=head,
        statistics=tuple(fit(row[None]) for row in golden["prototypes"]),
        prototypes=Prototypes(golden["prototypes"], torch.ones(stacks * per, dtype=torch.int64)),
    )
    return made


def test_features_without_adapters(learner: MOSLearner, golden: dict[str, torch.Tensor]) -> None:
    close(learner.extractor.features(golden["images"]), golden["features/none"])


def test_features_under_each_stack(learner: MOSLearner, golden: dict[str, torch.Tensor]) -> None:
    for t, weights in enumerate(learner.state.bank):
        close(
            learner.extractor.features(golden["images"], shared_stack(Bottleneck(adapter_scale=SCALE), weights)),
            golden["features/adapter"][:, t],
        )


def test_features_with_a_stack_of_its_own_for_each_image(learner: MOSLearner, golden: dict[str, torch.Tensor]) -> None:
    chosen = torch.arange(len(golden["images"])) % learner.state.experiences
    ours = learner.extractor.features(
        golden["images"], per_image(Bottleneck(adapter_scale=SCALE), stacked(learner.state.bank), chosen)
    )
    close(ours, golden["features/adapter"][torch.arange(len(chosen)), chosen])


def test_prototype_scores(golden: dict[str, torch.Tensor]) -> None:
    ours = cosine_scores(golden["features/adapter"][:, 0], golden["prototypes"])
    close(ours, golden["prototype_logits"])


def test_retrieval_visits_the_same_stacks(learner: MOSLearner, golden: dict[str, torch.Tensor]) -> None:
    assert learner.state.head is not None
    head = learner.state.head
    features, experience = golden["features/adapter"], golden["class_to_task"]

    def logits_of(rows: torch.Tensor, stacks: torch.Tensor) -> torch.Tensor:
        return head(features[rows, stacks])

    found = refine(experience[golden["prototype_logits"].argmax(-1)], logits_of, experience)
    assert torch.equal(found.path, golden["retrieval/path"][:, :4])
    close(found.logits, golden["retrieval/logits"])
    close(ensemble(found.logits, golden["prototype_logits"], 4), golden["ensemble/scores"])


def test_the_learner_gives_the_same_answers(learner: MOSLearner, golden: dict[str, torch.Tensor]) -> None:
    scores = learner.score_batch(golden["images"])
    close(2 * scores.values, golden["ensemble/scores"])
    assert torch.equal(scores.values.argmax(-1), golden["ensemble/prediction"])


def test_feature_contrast(golden: dict[str, torch.Tensor]) -> None:
    features, means = golden["orth/features"], golden["orth/class_means"]
    weight = 0.1  # the recorded losses are as they were added to the objective
    close(weight * feature_contrast(features, means)[None], golden["orth/loss"][None])
    close(weight * feature_contrast(features, None)[None], golden["orth/loss_without_means"][None])


def test_one_merge(learner: MOSLearner, golden: dict[str, torch.Tensor]) -> None:
    depth = learner.backbone.depth
    merged = merge(stack_of(golden, "merge/before", depth), merged_by("mean", learner.state.bank), 0.1)
    for name, expected in stack_of(golden, "merge/after", depth).items():
        close(merged[name], expected)
