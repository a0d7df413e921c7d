"""What every kind of adapter gives and costs, in the methods that train adapters.

    OMP_NUM_THREADS=1 python benchmarks/adapter_kinds.py --images DIR --weights FILE --out results.json

Streams of the half of the classes that things are chosen on, of the other (`--half report`), or of all classes of a
folder (`--half all`). `joint` learns all of a stream at once, so it has no average. For each method and kind: accuracy
averaged over the experiences and at the end, processor seconds of training, passes of the ViT per answer at the end,
bytes of a later experience's adapter, bytes that a training step keeps for gradients, its peak, and those of cached
views. A row is a kind, with settings of its own if need be: `--row "bottleneck bottleneck=1"`. Rows with "off" train
the same heads and statistics with adapters that stay as they began: what a kind does itself is the distance from them.
Kinds that are off add nothing, so one row is that of all but the ladder, which sees cached views.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Annotated, Any

import torch
import typer
from arguments import SEEDS, Figures, Images, PerClass, Seeds, Size, Weights
from measuring import peak_bytes, seconds, spread, surroundings, table
from real_streams import backbone_of, half_of
from torch import Tensor

from continual.adapters import KINDS
from continual.backbones.loading import Backbone
from continual.backbones.vit import FrozenViT
from continual.data.inputs import as_experience
from continual.datasets.config import StreamConfig, load_data
from continual.datasets.streams import Stream, make_stream
from continual.experiments.config import DataConfig
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.training import GradientTraining
from continual.methods import method
from continual.methods.bases.kept_views import KeptViews

METHODS = ("mos", "ease", "finetune", "joint")
#: a ladder that is off and caches no views does for all other kinds: nothing but the head is trained
OFF = "adapters off"
NONE = "no adapters"
ROWS = [OFF, "ladder off", "bottleneck bottleneck=1", *KINDS.all()]

Learner = IncrementalLearner[Any]


def made(name: str, row: str, backbone: Backbone, **settings: Any) -> Learner:
    """Return a new learner of a method whose adapters are of a row, as "lora rank=4 lr_scale=1" or "ladder off".

    A method without adapters takes what it has of the `settings`.
    """
    if not _trains(name):
        known = method(name).settings_type.model_fields
        return method(name)(backbone, **{key: value for key, value in settings.items() if key in known})
    kind, *words = row.replace(OFF, "ladder cached_views=0 off").split()
    args = {key: json.loads(value) for key, _, value in (word.partition("=") for word in words if word != "off")}
    if "off" in words:
        args["lr_scale"] = 1e-12
    return method(name)(backbone, adapter=kind, adapter_args=args, **settings)


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


def memory(learner: Learner, images: Any, labels: Any) -> dict[str, int]:
    """Return bytes of a first training step: kept for its backward pass, at its peak, and of all cached views.

    What a step keeps is counted without the ViT's weights.
    """
    data = as_experience(images, labels, learner.backbone.preprocessing)
    training = learner.begin(data)
    if not isinstance(training, GradientTraining):
        return {"kept": 0, "peak": 0, "views": 0}
    training.start_epoch(0)
    size = min(learner.settings.batch_size, len(data.labels))
    items, optimizer = training.training_images(), training.make_optimizer()
    batch = torch.stack([items[index][0] for index in range(size)]).to(learner.device)
    own = {p.untyped_storage().data_ptr() for p in learner.backbone.frozen.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step() -> None:
        loss = training.loss(training.observed(batch), data.labels[:size])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    views = items.views if isinstance(items, KeptViews) else ()
    return {"kept": sum(seen.values()), "peak": peak_bytes(step), "views": sum(view.nbytes for view in views)}


def measured(learner: Learner, stream: Stream, joint: bool) -> dict[str, Any]:
    """Learn a stream, or all of it at once, and return the figures of a row."""
    first, everything = stream.experiences[0], list(stream.experiences)
    found: dict[str, Any] = {**memory(learner, first.train_images, first.train_labels)}
    curve, took, grown, cache = [], 0.0, 0, FeatureCache()
    for number in range(1 if joint else len(everything)):
        newest = everything if joint else everything[number : number + 1]
        images = [image for one in newest for image in one.train_images]
        labels = [label for one in newest for label in one.train_labels]
        before = _adapter_bytes(learner)
        took += seconds(lambda images=images, labels=labels: learner.learn(images, labels))  # type: ignore[misc]
        grown = _adapter_bytes(learner) - before if number else grown
        known = everything if joint else everything[: number + 1]
        images = [image for one in known for image in one.test_images]
        truth = [label for one in known for label in one.test_labels]
        answers = learner.predict(images, cache=cache).labels
        curve.append(100 * sum(a == b for a, b in zip(answers, truth, strict=True)) / len(truth))
    asked = images[:: max(1, len(images) // 100)]
    with counted(learner.backbone) as runs:
        learner.predict(asked)
    return found | {
        "average": None if joint else statistics.fmean(curve),
        "final": curve[-1],
        "curve": curve,
        "seconds": took,
        "passes": runs[0] / len(asked),
        "bytes": grown or _adapter_bytes(learner),
    }


def _trains(name: str) -> bool:
    return "adapter" in method(name).settings_type.model_fields


def _adapter_bytes(learner: Learner) -> int:
    held = learner.memory()
    return held.get("bank", 0) + held.get("stack", 0)


def main(
    images: Images,
    weights: Weights,
    out: Figures,
    size: Size = 70,
    classes: int = 30,
    experiences: int = 5,
    per_class: PerClass = 20,
    seeds: Seeds = SEEDS,
    half: Annotated[str, typer.Option(help="Which classes: tune, report or all.")] = "tune",
    methods: Annotated[str, typer.Option(help="Names, with commas.")] = ",".join(METHODS),
    row: Annotated[list[str] | None, typer.Option(help="A kind with settings of its own; several.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of every method, as JSON.")] = None,
    minutes: Annotated[float, typer.Option(help="After which no other cell begins; the next call goes on.")] = math.inf,
) -> None:
    """Measure what is not in the file yet, print a table and keep every figure."""
    torch.set_num_threads(1)
    backbone, train, test = backbone_of(weights, size), *load_data(DataConfig(source=f"{images}/"))
    records = json.loads(out.read_text())["records"] if out.is_file() else []
    given = {key: json.loads(value) for key, _, value in (one.partition("=") for one in setting or [])}
    only = None if half == "all" else half_of(images, half)
    config = StreamConfig(classes=classes // experiences, only=only, max_classes=classes, per_class=per_class)
    about = {"images": images.name, "half": half, "classes": classes, "experiences": experiences}
    about |= {"per class": per_class, "size": size, "settings": given}
    orders = [(name, one) for name in methods.split(",") for one in (row or ROWS if _trains(name) else [NONE])]
    cells = [{**about, "seed": s, "method": name, "row": one} for s, (name, one) in product(seeds, orders)]
    began = time.perf_counter()
    for cell in cells:
        if any(cell.items() <= record.items() for record in records):
            continue
        if time.perf_counter() - began > 60 * minutes:
            break
        stream = make_stream("adapter kinds", train, test, config, cell["seed"])
        learner = made(cell["method"], cell["row"], backbone, seed=cell["seed"], **given)
        records.append(cell | measured(learner, stream, joint=cell["method"] == "joint"))
        print(records[-1], flush=True)
        out.write_text(json.dumps({"ran on": surroundings(), "records": records}, indent=1) + "\n")
    print(summary([record for record in records if about.items() <= record.items()]))


def summary(records: list[dict[str, Any]]) -> str:
    """Return a table of means over the seeds."""
    rows = []
    for name, row in dict.fromkeys((r["method"], r["row"]) for r in records):
        found = [r for r in records if (r["method"], r["row"]) == (name, row)]
        figures = [
            spread([r[key] for r in found]) if found[0][key] is not None else "–"
            for key in ("average", "final", "seconds", "passes")
        ]
        sizes = [f"{found[0][key] / 1e6:.2f}" for key in ("bytes", "kept", "peak", "views")]
        rows.append([name, row, str(len(found)), *figures, *sizes])
    titles = ["method", "adapter", "seeds", "Ā [%]", "final [%]", "training [s]", "passes per answer"]
    return table([*titles, "an experience [MB]", "kept for gradients [MB]", "peak [MB]", "cached views [MB]"], rows)


if __name__ == "__main__":
    typer.run(main)
