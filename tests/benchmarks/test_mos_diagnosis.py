"""The pieces of the diagnosis: heads made anew are those of the library, and what is told helps as it must."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import mos_diagnosis as study
import mos_diagnosis_report as report
import numpy as np
import pytest
import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.datasets.streams import Stream, split_classes
from continual.methods.mos.learner import MOSLearner
from continual.methods.mos.state import MOSState
from continual.methods.strata import StrataLearner

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.05, "bottleneck": 4, "precision": "float32"}
SEED = 1993


def stream_of(blobs: Blobs, sizes: int = 2) -> Stream:
    return split_classes("toy", blobs(range(6), 4), blobs(range(6), 3, seed=1), sizes=sizes, seed=SEED)


def learned(backbone: Backbone, stream: Stream, **settings: Any) -> tuple[MOSLearner, list[MOSState]]:
    learner, states = MOSLearner(backbone, **{**QUICK, **settings}), []
    for e in stream.experiences:
        learner.learn(e.train_images, e.train_labels)
        states.append(learner.state)
    return learner, states


def test_heads_made_anew_and_their_answers_are_the_library_s(backbone: Backbone, blobs: Blobs) -> None:
    stream = stream_of(blobs)
    plain, states = learned(backbone, stream, alignment_epochs=0)
    aligning, theirs = learned(backbone, stream)
    known = study.known_of(plain, stream)
    ours = study.heads(states, known, plain.settings, "gaussians")
    for head, state in zip(ours, theirs, strict=True):
        assert state.head is not None
        assert torch.allclose(head.weight, state.head.weight, atol=1e-4)
        assert torch.allclose(head.bias, state.head.bias, atol=1e-4)
    right = [aligning.evaluate(e.test_images, e.test_labels) for e in stream.experiences]
    assert study.retrieved(known, states[-1], ours[-1])["as it is"] == pytest.approx(np.mean(right))


def test_true_features_are_drawn_instead_of_gaussians(backbone: Backbone, blobs: Blobs) -> None:
    stream = stream_of(blobs)
    learner, states = learned(backbone, stream, alignment_epochs=0)
    known = study.known_of(learner, stream)
    true, gaussian = (study.heads(states, known, learner.settings, k) for k in ("true features", "gaussians"))
    assert torch.equal(true[0].weight, gaussian[0].weight)  # not aligned yet
    assert not torch.equal(true[1].weight, gaussian[1].weight)
    first = study.heads(states, known, learner.settings, "true features", first=True)
    assert not torch.equal(first[0].weight, true[0].weight)
    drawn = study.Features(torch.eye(3)).draw(50, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.unique(dim=0), torch.eye(3).flip(0))


def made_up_known() -> study.Known:
    """Two experiences of two classes, told apart by the first number, and the experience by the second."""
    labels = torch.arange(4).repeat_interleave(3)
    at = torch.stack([labels % 2 - 0.5, labels // 2 - 0.5], 1)
    stacks = torch.stack([at + torch.tensor([0.0, 10.0 * k]) for k in range(2)])
    return study.Known(at, at, stacks, labels, stacks, labels, torch.tensor([0, 0, 1, 1]))


def test_what_is_known_so_far_and_under_the_own_stack() -> None:
    known = made_up_known()
    first = known.until(1)
    assert first.labels.tolist() == [0] * 3 + [1] * 3
    assert first.train.shape == (1, 6, 2)
    assert first.experience.tolist() == [0, 0]
    own, test = known.own()
    assert torch.equal(own, torch.cat([known.train[0, :6], known.train[1, 6:]]))
    assert torch.equal(own, test)


def test_measures(backbone: Backbone, blobs: Blobs) -> None:
    found = study.diagnosis(backbone, stream_of(blobs), **{k: v for k, v in QUICK.items() if k != "precision"})
    assert len(found) == 3
    last = found[-1]
    assert {"ridge on stack 3", "aligned from the first: as it is", "true features: stack told"} <= last.keys()
    assert "ridge on stack 3" not in found[1]
    for kind in ("aligned", "ridge"):
        assert last[f"{kind}: experience told"] >= last[f"{kind}: stack told"]
        assert all(0 <= value <= 1 for name, value in last.items() if name != "learning [s]")


def test_strata_s_accuracy_on_all_classes_so_far(backbone: Backbone, blobs: Blobs) -> None:
    images, labels = blobs(range(6), 3, seed=1)
    swapped = images, [{4: 5, 5: 4}.get(label, label) for label in labels]  # some are bound to be answered wrong
    stream = split_classes("toy", blobs(range(6), 4), swapped, sizes=2, seed=SEED)
    found = study.answered(StrataLearner(backbone, mirror=False), stream)
    learner = StrataLearner(backbone, precision="bfloat16", mirror=False)
    for e in stream.experiences:
        learner.learn(e.train_images, e.train_labels)
    right = [learner.evaluate(e.test_images, e.test_labels) for e in stream.experiences]
    assert len(set(right)) > 1
    assert found[-1]["as it is"] == pytest.approx(np.mean(right))


def records() -> report.Records:
    """Of three seeds and two experiences; every step down costs a percent."""
    made: dict[Any, dict[str, Any]] = {}
    for seed, n in product(range(3), (1, 2)):
        for step, (run, measure) in enumerate(report.STEPS.values()):
            own = made.setdefault((seed, run, n), {"seed": seed, "run": run, "experience": n})
            own[measure] = 0.8 - 0.01 * step - 0.1 * n
    return list(made.values())


def test_the_report(tmp_path: Path) -> None:
    steps = report.waterfall(records())
    assert list(steps.values()) == pytest.approx([60, 59, 58, 57, 56, 55])
    report.picture(steps, tmp_path / "waterfall.png", "Made up")
    assert (tmp_path / "waterfall.png").stat().st_size > 1000
    text = report.changes(records())
    assert "| right adapter known | 3 | 62.0 ± 0.0 | +2.0 ± 0.0 | 57.0 ± 0.0 | +2.0 ± 0.0 |" in text


def test_a_run_of_one_seed_is_compared_on_that_seed() -> None:
    one = [{"seed": 1, "run": "2 epochs", "experience": n, report.MOS[1]: 0.5} for n in (1, 2)]
    made = [{**r, report.MOS[1]: r[report.MOS[1]] + 0.1 * r["seed"]} if r["run"] == "mos" else r for r in records()]
    # MOS is at 75 and 65 % with that seed
    assert "| 2 epochs | 1 | 50.0 | -20.0 | 50.0 | -15.0 |" in report.changes([*made, *one])


def test_the_table_by_experience() -> None:
    assert "| MOS | 65.0 | 55.0 |" in report.by_experience(records())
