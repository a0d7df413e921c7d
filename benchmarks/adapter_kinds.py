"""What every kind of adapter gives and costs, in the methods that train adapters.

    OMP_NUM_THREADS=1 python benchmarks/adapter_kinds.py --images DIR --weights FILE --out results.json

Streams of the half of the classes that things are chosen on, or of the other (`--half report`). For each method and
kind: accuracy averaged over the experiences and at the end, seconds of training (of the processor without a GPU),
passes of the ViT per answer at the end, bytes of a later experience's adapter, and bytes that a training step keeps for
gradients. The row
"adapters off" trains the same heads and statistics with adapters that stay as they began: what a kind does itself is
the distance from it. `--rate` multiplies every kind's own rate, so that all can be tuned alike.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
import typer
from arguments import SEEDS, Figures, Images, PerClass, Seeds, Size, Weights
from measuring import seconds, spread, surroundings, table
from real_streams import backbone_of, half_of
from torch import Tensor

from continual.adapters import KINDS
from continual.backbones.loading import Backbone
from continual.backbones.vit import FrozenViT
from continual.data.inputs import as_experience
from continual.datasets.config import StreamConfig, load_data
from continual.datasets.streams import Stream, make_stream
from continual.experiments.config import DataConfig
from continual.learning.learner import IncrementalLearner
from continual.learning.training import GradientTraining
from continual.methods import method

METHODS = ("mos", "ease", "finetune", "joint")
OFF = "adapters off"

Learner = IncrementalLearner[Any]


def made(name: str, row: str, backbone: Backbone, rate: float, **settings: Any) -> Learner:
    """Return a new learner of a method whose adapters are of a kind, or stay as they began."""
    kind = "bottleneck" if row == OFF else row
    scale = 1e-12 if row == OFF else rate * KINDS.get(kind)().lr_scale
    return method(name)(backbone, adapter=kind, adapter_args={"lr_scale": scale}, **settings)


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[float]]:
    """Count how often the ViT's blocks are run for an image, in runs of the whole ViT."""
    runs, whole = [0.0], FrozenViT._mlp

    def mlp(self: FrozenViT, index: int, h: Tensor) -> Tensor:
        runs[0] += h.shape[0] / backbone.depth
        return whole(self, index, h)

    FrozenViT._mlp = mlp  # type: ignore[method-assign]
    try:
        yield runs
    finally:
        FrozenViT._mlp = whole  # type: ignore[method-assign]


def kept_for_gradients(learner: Learner, images: Any, labels: Any) -> int:
    """Return the bytes that the first training step keeps for its backward pass, the ViT's weights left out."""
    data = as_experience(images, labels, learner.backbone.preprocessing)
    training = learner.begin(data)
    if not isinstance(training, GradientTraining):
        return 0
    training.start_epoch(0)
    size = min(learner.settings.batch_size, len(data.labels))
    items = training.training_images()
    batch = torch.stack([items[index][0] for index in range(size)]).to(learner.device)
    own = {p.untyped_storage().data_ptr() for p in learner.backbone.frozen.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        training.loss(training.observed(batch), data.labels[:size])
    return sum(seen.values())


def measured(learner: Learner, stream: Stream) -> dict[str, Any]:
    """Learn a stream and return the figures of a row."""
    first = stream.experiences[0]
    kept, curve, took, grown = kept_for_gradients(learner, first.train_images, first.train_labels), [], 0.0, 0
    for number, experience in enumerate(stream.experiences):
        before = _adapter_bytes(learner)
        took += seconds(lambda now=experience: learner.learn(now.train_images, now.train_labels))  # type: ignore[misc]
        grown = _adapter_bytes(learner) - before if number else grown
        tests = stream.experiences[: number + 1]
        images = [image for one in tests for image in one.test_images]
        labels = [label for one in tests for label in one.test_labels]
        with counted(learner.backbone) as runs:
            answers = learner.predict(images).labels
        curve.append(100 * sum(a == b for a, b in zip(answers, labels, strict=True)) / len(labels))
    return {
        "average": statistics.fmean(curve),
        "final": curve[-1],
        "seconds": took,
        "passes": runs[0] / len(images),
        "bytes": grown or _adapter_bytes(learner),
        "kept": kept,
    }


def _adapter_bytes(learner: Learner) -> int:
    memory = learner.memory()
    return memory.get("bank", 0) + memory.get("stack", 0)


def main(
    images: Images,
    weights: Weights,
    out: Figures,
    size: Size = 70,
    classes: int = 30,
    experiences: int = 5,
    per_class: PerClass = 20,
    seeds: Seeds = SEEDS,
    half: Annotated[str, typer.Option(help="Which classes: tune or report.")] = "tune",
    epochs: Annotated[int, typer.Option(help="Of every training.")] = 20,
    rate: Annotated[float, typer.Option(help="Factor of every kind's own rate.")] = 1.0,
    methods: Annotated[str, typer.Option(help="Names, with commas.")] = ",".join(METHODS),
    kinds: Annotated[str | None, typer.Option(help="Names, with commas; all without.")] = None,
) -> None:
    """Measure what is not in the file yet, print a table and keep every figure."""
    torch.set_num_threads(1)
    backbone, train, test = backbone_of(weights, size), *load_data(DataConfig(source=f"{images}/"))
    records = json.loads(out.read_text())["records"] if out.is_file() else []
    config = StreamConfig(
        classes=classes // experiences, only=half_of(images, half), max_classes=classes, per_class=per_class
    )
    rows = [OFF, *(kinds.split(",") if kinds else KINDS.all())]
    for seed in seeds:
        stream = make_stream("adapter kinds", train, test, config, seed)
        for name in methods.split(","):
            for row in rows:
                about = {"seed": seed, "method": name, "row": row, "half": half, "rate": rate, "epochs": epochs}
                if any(about.items() <= record.items() for record in records):
                    continue
                learner = made(name, row, backbone, rate, seed=seed, epochs=epochs, batch_size=16)
                records.append(about | measured(learner, stream))
                print(records[-1], flush=True)
                about_all = {"ran on": surroundings(), "classes": classes, "per class": per_class, "size": size}
                out.write_text(json.dumps({**about_all, "records": records}, indent=1) + "\n")
    print(summary(records))


def summary(records: list[dict[str, Any]]) -> str:
    """Return a table of means over the seeds."""
    rows = []
    for name, row in dict.fromkeys((r["method"], r["row"]) for r in records):
        found = [r for r in records if (r["method"], r["row"]) == (name, row)]
        figures = [spread([r[key] for r in found]) for key in ("average", "final", "seconds", "passes")]
        rows.append([name, row, *figures, f"{found[0]['bytes']:,}", f"{found[0]['kept'] / 1e6:.1f} MB"])
    titles = [
        "method",
        "adapter",
        "average",
        "final",
        "seconds",
        "passes",
        "bytes per experience",
        "kept for gradients",
    ]
    return table(titles, rows)


if __name__ == "__main__":
    typer.run(main)
