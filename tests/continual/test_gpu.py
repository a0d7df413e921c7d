"""Every method keeps the laws on a CUDA device, and agrees there with itself on the CPU.

`EQUIMOS_GPU=cpu` runs the same tests on a CPU, so that they cannot rot where there is no GPU.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from continual.methods import load, methods
from continual.testing import LAWS, Case, Law, synthetic_case
from continual.testing.answers import transformed_images_get_the_same_answers
from tests.conformance.test_laws import QUICK

DEVICE = os.environ.get("EQUIMOS_GPU", "cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]

#: Other laws ask for equal bits of what a GPU adds up in an order of its own, or start processes.
ON_A_GPU = (
    "predicting_twice_gives_the_same_bits",
    "random_state_is_left_alone",
    "backbone_is_frozen",
    "gradients_reach_only_what_is_trained",
    "bfloat16_works",
    "small_and_unbalanced_experiences_work",
    "class_seen_again_stays_one_class",
    "forgetting_leaves_the_other_classes",
    "bad_input_is_refused",
)


def quick(name: str, **more: Any) -> dict[str, Any]:
    known = methods()[name].settings_type.model_fields
    return {key: value for key, value in {**QUICK, **more}.items() if key in known}


@pytest.fixture(scope="module", params=methods())
def case(request: pytest.FixtureRequest) -> Case:
    return synthetic_case(methods()[request.param], device=DEVICE, **quick(request.param))


def test_the_laws_that_hold_on_a_gpu_are_laws() -> None:
    assert set(ON_A_GPU) <= {law.__name__ for law in LAWS}


@pytest.mark.parametrize("law", [law for law in LAWS if law.__name__ in ON_A_GPU], ids=lambda law: law.__name__)
def test_method_keeps_the_law(case: Case, law: Law) -> None:
    law(case)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", methods())
def test_learning_there_and_predicting_here(
    backbone: Any, blobs: Any, tmp_path: Any, name: str, precision: str
) -> None:
    learner = methods()[name](backbone, device=DEVICE, **quick(name, epochs=3, batch_size=8, precision=precision))
    learner.learn(*blobs([0, 1]))
    learner.learn(*blobs([2, 3]))
    there = learner.predict(blobs([0, 1, 2, 3], 8, seed=1)[0])
    learner.save(tmp_path / "model.safetensors")
    here = load(tmp_path / "model.safetensors", backbone, device="cpu").predict(blobs([0, 1, 2, 3], 8, seed=1)[0])
    tolerance = 1e-3 if precision == "float32" else 5e-2
    assert (here.scores - there.scores.cpu()).abs().max() < tolerance * max(1.0, float(here.scores.abs().max()))


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_a_group_is_kept_there(group: str) -> None:
    case = synthetic_case(methods()["mos"], device=DEVICE, group=group, **quick("mos"))
    transformed_images_get_the_same_answers(case)


def test_two_runs_give_the_same_model(backbone: Any, blobs: Any) -> None:
    scores = []
    for _ in range(2):
        learner = methods()["mos"](backbone, device=DEVICE, **quick("mos", batch_size=8))
        learner.learn(*blobs([0, 1]))
        scores.append(learner.predict(blobs([0, 1], 4, seed=1)[0]).scores)
    assert torch.allclose(*scores, atol=1e-5)
