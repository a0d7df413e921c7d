"""What a class must leave behind: accuracy of MOS by kind of class statistics, and bytes per class.

    OMP_NUM_THREADS=1 python benchmarks/mos_memory.py --images DIR --weights FILE --learners DIR --until 8 --out DIR

For every seed the same adapters, trained by `real_streams.py`, have their head aligned on all kinds of statistics after
every experience, and answer for the test images of all classes learned so far. Seeds may be measured one at a time:
what --out holds of others is kept. With `--many DIR`, heads are also
aligned on the features of DIR's training images (hundreds per class) under the first adapter, once for all classes.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from arguments import Images, Learners, Out, Weights
from measuring import surroundings, table, write
from real_streams import aligned, backbone_of, remembered_as, stream_of
from torch import Tensor

from continual.data.inputs import PreparedImages
from continual.learning.extractor import extract
from continual.learning.feature_cache import FeatureCache
from continual.methods.bases.alignment import AlignmentSettings, align
from continual.methods.mos.adapter_features import AdapterFeatures
from continual.methods.mos.learner import MOSLearner
from continual.statistics.class_statistics import fit
from continual.statistics.head import Head

KINDS = [
    ("full", 0),
    ("shrunk", 0),
    ("low_rank", 32),
    ("low_rank", 16),
    ("low_rank", 8),
    ("low_rank", 4),
    ("diagonal", 0),
]


def name_of(kind: str, components: int) -> str:
    """Return how a kind is called in tables."""
    return f"{kind}, {components} directions" if components else kind


def bytes_of(kind: str, components: int, width: int) -> int:
    """Return the bytes per class: statistics, head row and prototype, in float32."""
    own = {"full": width + width**2, "shrunk": width + width**2, "diagonal": 2 * width}
    return 4 * (own.get(kind, width * (components + 2)) + 2 * width + 1)


def accuracies(learner: MOSLearner, tests: list[Any], cache: FeatureCache) -> float:
    """Return the accuracy on the test images of the experiences so far."""
    right = total = 0
    for experience in tests:
        answers = learner.predict(experience.test_images, cache=cache).labels
        right += sum(a == b for a, b in zip(answers, experience.test_labels, strict=True))
        total += len(answers)
    return right / total


def with_many_images(backbone: Any, images: Path, learner: MOSLearner, each: int) -> dict[str, Any]:
    """Return the accuracy of heads aligned on statistics of `each` images per class under the first adapter."""
    experience = stream_of(images, 1, 0, classes=10, per_class=each).experiences[0]

    kind, bank, own = learner.settings.adapter_kind, learner.state.stacked_bank(), learner.settings.retrieved_views

    def compute(batch: Tensor, _: Any) -> list[Tensor]:
        return [AdapterFeatures(learner.extractor, kind, bank, batch, views=own).first]

    def features(photos: Any, labels: Any) -> tuple[Tensor, Tensor]:
        data = PreparedImages(photos, labels, backbone.preprocessing, augment=False)
        (found,), names = extract(data, compute, batch_size=64, device=torch.device("cpu"))
        return found, torch.tensor([experience.classes.index(name) for name in names])

    train, targets = features(experience.train_images, experience.train_labels)
    test, truth = features(experience.test_images, experience.test_labels)
    known = [fit(train[targets == c]) for c in range(len(experience.classes))]
    found = {}
    for name, components in KINDS:
        remembered = [remembered_as(s, name, components) for s in known]
        right = []
        for seed in (1993, 1994, 1995):
            draw = torch.Generator().manual_seed(seed)
            head = Head(torch.zeros(len(known), train.shape[1]), torch.zeros(len(known)))
            made = align(head, remembered, AlignmentSettings(batch_size=16), generator=draw)
            right.append(float((made(test).argmax(1) == truth).float().mean()))
        found[name_of(name, components)] = right
    return found


def main(
    images: Images,
    weights: Weights,
    learners: Learners,
    out: Out,
    experiences: int = 20,
    until: Annotated[int, typer.Option(help="How many of them were learned.")] = 20,
    seed: Annotated[list[int] | None, typer.Option(help="1993 by default.")] = None,
    many: Annotated[Path | None, typer.Option(help="A folder of ten classes with many images.")] = None,
    each: Annotated[int, typer.Option(help="Training images per class of that.")] = 500,
    threads: int = 1,
) -> None:
    """Measure, and write mos_memory.json and mos_memory.md."""
    torch.set_num_threads(threads)
    backbone = backbone_of(weights)
    kept = out / "mos_memory.json"
    record: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"experiences": until, "accuracy": {}}
    done = record["accuracy"].get("diagonal", {"final": {}})["final"]
    for one in [s for s in seed or [1993] if str(s) not in done]:
        stream, cache = stream_of(images, experiences, one), FeatureCache()
        for kind, components in KINDS:
            curve = [
                accuracies(learner, list(stream.experiences[:number]), cache)
                for number, learner in enumerate(
                    aligned(backbone, learners, experiences, one, kind, components, until), 1
                )
            ]
            row = record["accuracy"].setdefault(name_of(kind, components), {"average": {}, "final": {}})
            row["average"][str(one)], row["final"][str(one)] = statistics.mean(curve), curve[-1]
            print(one, kind, components, f"{statistics.mean(curve):.2%} {curve[-1]:.2%}", flush=True)
    record["ran on"] = surroundings()
    if many is not None:
        *_, last = aligned(backbone, learners, experiences, (seed or [1993])[0], until=until)
        record["many images"] = with_many_images(backbone, many, last, each)
    write(out, "mos_memory", record, markdown(record, backbone.width))


def spread(values: list[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def loss(values: list[float], full: list[float]) -> str:
    """Return by how many points `full` is better, seed by seed."""
    gaps = [100 * (b - a) for a, b in zip(values, full, strict=True)]
    return f"{statistics.mean(gaps):.2f}"


def markdown(record: dict[str, Any], width: int) -> str:
    accuracy, more = record["accuracy"], record.get("many images")
    headings = [
        "statistics",
        f"KB per class, D = {width}",
        "D = 768",
        "Ā [%]",
        "lost to full",
        "final [%]",
        "lost to full",
    ]
    headings += ["many images [%]", "lost to full"] if more else []
    rows = []
    for kind, components in KINDS:
        name = name_of(kind, components)
        row = accuracy[name]
        cells = [name, *(f"{bytes_of(kind, components, d) / 1000:.0f}" for d in (width, 768))]
        for key in ("average", "final"):
            cells += [spread([*row[key].values()]), loss([*row[key].values()], [*accuracy["full"][key].values()])]
        if more:
            cells += [spread(more[name]), loss(more[name], more["full"])]
        rows.append(cells)
    return table(headings, rows)


if __name__ == "__main__":
    typer.run(main)
