"""Where MOS loses its points: what each of its parts costs, from one pass over the features under every adapter.

    python benchmarks/mos_diagnosis.py --images DIR --weights FILE --out DIR

DIR holds train/CLASS and test/CLASS. Classes are those of the half that things are chosen on (see `strata.py`). MOS
is trained without alignment, which no adapter depends on; every kind of head is then made from the features of the same
adapters. After each experience, what is measured is the accuracy on the test images of all classes so far.
`mos_diagnosis_report.py` makes tables and the picture.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from arguments import SEEDS, Figures, Images, PerClass, Seeds, Size, Weights
from measuring import records_in
from real_streams import backbone_of, carried, half_of
from torch import Tensor

from continual.adapters.bank import shared
from continual.data.inputs import PreparedImages
from continual.datasets.config import StreamConfig, load_data
from continual.datasets.streams import Stream, make_stream
from continual.experiments.config import DataConfig
from continual.learning.extractor import extract
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.methods.bases.alignment import AlignmentSettings, align
from continual.methods.mos.learner import MOSLearner
from continual.methods.mos.retrieval import Answering, ensemble
from continual.methods.mos.state import MOSState
from continual.methods.strata import StrataLearner
from continual.seeding import generator
from continual.statistics.head import Head, cosine_scores
from continual.statistics.penalties import choose_penalty
from continual.statistics.ridge import GramStatistics, LinearHead, solve

SETTINGS: dict[str, Any] = {"epochs": 6, "batch_size": 16, "precision": "bfloat16", "alignment_epochs": 0}
#: what is trained -> settings that differ; "joint" learns all classes as one experience, "strata" is that method
RUNS: dict[str, dict[str, Any]] = {
    "mos": {},
    "strata": {},
    "joint": {"epochs": 10},
    "no merging": {"alpha": 0.0},
    "2 epochs": {"epochs": 2},
    "15 epochs": {"epochs": 15},
}


@dataclass(frozen=True)
class Known:
    """Images of the classes learned so far, as features under T adapters; class c came with experience[c]."""

    frozen: Tensor  #: (n, D), training images without an adapter
    frozen_test: Tensor  #: (m, D)
    train: Tensor  #: (T, n, D)
    labels: Tensor  #: (n,)
    test: Tensor  #: (T, m, D)
    truth: Tensor  #: (m,)
    experience: Tensor  #: (C,)

    def until(self, count: int) -> Known:
        """Return what is known after the first `count` experiences."""
        classes = int((self.experience < count).sum())
        old, seen = self.labels < classes, self.truth < classes
        return Known(
            self.frozen[old],
            self.frozen_test[seen],
            self.train[:count, old],
            self.labels[old],
            self.test[:count, seen],
            self.truth[seen],
            self.experience[:classes],
        )

    def own(self) -> tuple[Tensor, Tensor]:
        """Return training and test images (n, D), (m, D), each under the adapter of its own class."""
        return (
            self.train[self.experience[self.labels], torch.arange(len(self.labels))],
            self.test[self.experience[self.truth], torch.arange(len(self.truth))],
        )

    def right(self, scores: Tensor) -> float:
        """Return the share of test images that scores (m, C) answer right."""
        return share(scores.argmax(-1) == self.truth)


@dataclass(frozen=True)
class Features:
    """True features (n, D) of a class, where alignment would draw from their Gaussian."""

    values: Tensor

    def sampler(self, floor: float) -> Features:
        """Return itself: there is nothing to factor."""
        return self

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` of them, drawn with replacement."""
        return self.values[torch.randint(len(self.values), (count,), generator=generator)]


def share(hits: Tensor) -> float:
    """Return the share of True."""
    return float(hits.float().mean())


def features(learner: MOSLearner, images: Sequence[Any], labels: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return features (1 + T, n, D), the first without an adapter, and class indices (n,)."""
    kind = learner.settings.adapter_kind
    stacks = [None, *[shared(kind, stack) for stack in learner.state.bank]]
    data = PreparedImages(images, list(labels), learner.backbone.preprocessing, augment=False)

    def compute(batch: Tensor, _: Sequence[Any]) -> list[Tensor]:
        stem = learner.extractor.stem(batch)
        return [learner.extractor.features(stem, stack) for stack in stacks]

    found, names = extract(data, compute, batch_size=125, device=learner.device)
    return torch.stack(found), learner.indices(names)


def known_of(learner: MOSLearner, stream: Stream) -> Known:
    """Return all that the measures ask of a stream that was learned whole."""
    parts = [
        features(learner, [i for e in stream.experiences for i in getattr(e, f"{side}_images")],
                 [y for e in stream.experiences for y in getattr(e, f"{side}_labels")])
        for side in ("train", "test")
    ]  # fmt: skip
    (train, labels), (test, truth) = parts
    return Known(train[0], test[0], train[1:], labels, test[1:], truth, learner.state.experience_of_class)


def heads(states: Sequence[MOSState], known: Known, settings: Any, kind: str, first: bool = False) -> list[Head]:
    """Return the head after every experience, aligned on "gaussians" or "true features" as MOS would have.

    `states` are those of a learner that did not align. With `first`, the first experience's head is aligned as well.
    """
    found: list[Head] = []
    for number, state in enumerate(states):
        assert state.head is not None
        now = known.until(number + 1)
        own, _ = now.own()
        sources: Any = state.statistics
        if kind == "true features":
            sources = [Features(own[now.labels == c]) for c in range(len(now.experience))]
        head, before = state.head, states[number - 1].head if number else None
        if before is not None:
            head = carried(found[-1], before, head)
        if number or first:
            draw = generator(settings.seed, "alignment", state.updates - 1)
            head = align(head, sources, AlignmentSettings(batch_size=settings.batch_size), generator=draw)
        found.append(head)
    return found


def ridge(train: Tensor, labels: Tensor, classes: int, seed: int = 0) -> LinearHead:
    """Return the ridge regression on features (n, D); a fifth of them, drawn at random, chooses its penalty."""
    draw = generator(seed, "diagnosis")
    penalty = choose_penalty(None, train, labels, classes, standardise=True, generator=draw)
    return solve(GramStatistics.of(train, labels, classes), penalty, standardise=True)


def retrieved(known: Known, state: MOSState, head: Head, rounds: int = 4) -> dict[str, float]:
    """Return what MOS's retrieval makes of a head: accuracy without and with the ensemble, and right adapters."""
    assert state.prototypes is not None

    def combine(logits: Tensor, cosines: Tensor) -> Tensor:
        return ensemble(logits, cosines, state.experiences)

    answering = Answering(head, state.prototypes.mean, known.experience, rounds, combine)
    scores, found = answering.retrieve(known.test[0], lambda rows, stacks: known.test[stacks, rows])
    own = known.experience[known.truth]
    return {
        "without ensemble": known.right(found.logits),
        "as it is": known.right(scores),
        "right stack at first": share(found.path[:, 0] == own),
        "right stack": share(found.stack == own),
    }


def measures(known: Known, state: MOSState, made: dict[str, Head]) -> dict[str, float]:
    """Return every measure after an experience; `made` are the heads by their kind."""
    assert state.prototypes is not None
    classes, own = len(known.experience), known.own()
    other = known.experience[None] != known.experience[known.truth][:, None]
    found = {"prototypes": known.right(cosine_scores(known.test[0], state.prototypes.mean))}
    solved = ridge(own[0], known.labels, classes)
    everything = {**made, "ridge": Head(solved.weight.mT.float(), solved.bias.float())}
    for kind, head in everything.items():
        told = head(own[1])
        found[f"{kind}: stack told"] = known.right(told)
        found[f"{kind}: experience told"] = known.right(told.masked_fill(other, -torch.inf))
        found |= {f"{kind}: {name}": value for name, value in retrieved(known, state, head).items()}
    sides = [(known.frozen, known.frozen_test), *zip(known.train, known.test, strict=True)]
    for number, (train, test) in enumerate(sides):
        name = f"ridge on stack {number}" if number else "ridge on frozen features"
        found[name] = known.right(ridge(train, known.labels, classes)(test))
    return found


def diagnosis(backbone: Any, stream: Stream, **settings: Any) -> list[dict[str, float]]:
    """Learn a stream and return the measures after every experience."""
    learner, states = MOSLearner(backbone, **{**SETTINGS, **settings}), []
    started = time.perf_counter()
    for experience in stream.experiences:
        learner.learn(experience.train_images, experience.train_labels)
        states.append(learner.state)
    seconds = time.perf_counter() - started
    known = known_of(learner, stream)
    kinds = {
        "aligned": heads(states, known, learner.settings, "gaussians"),
        "aligned from the first": heads(states, known, learner.settings, "gaussians", first=True),
        "true features": heads(states, known, learner.settings, "true features"),
        "true features from the first": heads(states, known, learner.settings, "true features", first=True),
        "not aligned": [state.head for state in states],
    }
    found = []
    for number, state in enumerate(states):
        made: Any = {kind: several[number] for kind, several in kinds.items()}
        found.append(measures(known.until(number + 1), state, made) | {"learning [s]": seconds})
    return found


def answered(learner: IncrementalLearner[Any], stream: Stream) -> list[dict[str, float]]:
    """Learn a stream, and return the accuracy after every experience."""
    cache, found = FeatureCache(), []
    for number, e in enumerate(stream.experiences, 1):
        learner.learn(e.train_images, e.train_labels)
        hits = [
            answer == label
            for seen in stream.experiences[:number]
            for answer, label in zip(
                learner.predict(seen.test_images, cache=cache).labels, seen.test_labels, strict=True
            )
        ]
        found.append({"as it is": sum(hits) / len(hits)})
    return found


def tuning_stream(
    images: Path, seed: int, classes: int, experiences: int, per_class: int, half: str = "tune"
) -> Stream:
    """Return classes of a half, by default the one that things are chosen on, drawn and ordered by the seed."""
    train, test = load_data(DataConfig(source=f"{images}/"))
    config = StreamConfig(
        classes=classes // experiences, only=half_of(images, half), max_classes=classes, per_class=per_class
    )
    return make_stream("diagnosis", train, test, config, seed)


def main(
    images: Images,
    weights: Weights,
    out: Figures,
    size: Size = 70,
    classes: int = 20,
    experiences: int = 5,
    per_class: PerClass = 20,
    seeds: Seeds = SEEDS,
) -> None:
    """Measure what is not in the file yet."""
    torch.set_num_threads(1)
    backbone = backbone_of(weights, size)
    records = records_in(out)
    for seed in seeds:
        for run, changes in RUNS.items():
            if any((r["seed"], r["run"]) == (seed, run) for r in records):
                continue
            count = 1 if run == "joint" else experiences
            stream = tuning_stream(images, seed, classes, count, per_class)
            if run == "strata":
                found = answered(StrataLearner(backbone, precision="bfloat16"), stream)
            else:
                found = diagnosis(backbone, stream, seed=seed, **changes)
            records += [{"seed": seed, "run": run, "experience": n + 1, **f} for n, f in enumerate(found)]
            out.write_text(json.dumps(records, indent=1))
            final = [f"{100 * v:.1f}" for k, v in found[-1].items() if k.endswith("as it is")]
            print(f"seed {seed}, {run}: {', '.join(final)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
