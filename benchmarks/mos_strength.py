"""What strata reads under MOS's first adapter if this acts more weakly or strongly, on images nothing is reported of.

    python benchmarks/mos_strength.py --images DIR --weights FILE --features CACHE --out FILE --per-class 100

A bottleneck adapter is one of another strength by scaling what goes up. The mean of the values of two regressions, on
frozen tokens and on those under the adapter, is measured beside them. `mos_readouts.py` says what the options are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from arguments import SEEDS, Figures, PerClass, Seeds, Weights
from measuring import records_in, surroundings
from mos_diagnosis import share
from mos_tokens import SETTINGS, Half, Side, SomeImages, TestImages, stream_of, tokens
from real_streams import backbone_of, path_of, train
from several_backbones import strata
from torch import Tensor

from continual.adapters.bank import shared
from continual.data.inputs import PreparedImages
from continual.data.loaders import label_indices
from continual.datasets.streams import Stream
from continual.learning.extractor import extract
from continual.methods.mos.learner import MOSLearner

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)


def read(learner: MOSLearner, stream: Stream, side: str) -> tuple[Tensor, Tensor]:
    """Return tokens (S, n, 2, D') of images and mirror images under the first adapter at each strength, and labels."""
    first, kind = learner.state.bank[0], learner.settings.adapter_kind
    scaled = [{n: t * s if n.startswith("up") else t for n, t in first.items()} for s in STRENGTHS]
    adapters = [shared(kind, weights) for weights in scaled]
    classes = [label for e in stream.experiences for label in sorted({*e.train_labels}, key=str)]
    images = [image for e in stream.experiences for image in getattr(e, f"{side}_images")]
    labels = [label for e in stream.experiences for label in getattr(e, f"{side}_labels")]

    def compute(batch: Tensor, _: object) -> list[Tensor]:
        views = batch, batch.flip(-1)
        return [torch.stack([tokens(learner.extractor, view, own) for view in views], 1) for own in adapters]

    data = PreparedImages(images, labels, learner.preprocessing, augment=False)
    found, names = extract(data, compute, batch_size=64, device=learner.device)
    return torch.stack(list(found)), label_indices(names, {label: c for c, label in enumerate(classes)})


def measured(learner: MOSLearner, stream: Stream) -> dict[str, list[float]]:
    """Return the accuracy after each experience, for each strength and for the mean of two."""
    (x, y), (z, truth) = (read(learner, stream, side) for side in ("train", "test"))
    sizes = torch.tensor([len({*e.train_labels}) for e in stream.experiences]).cumsum(0).tolist()
    found: dict[str, list[float]] = {}
    for known in sizes:
        mine, asked = y < known, truth < known
        values = [strata(own[mine], y[mine], test[asked]) for own, test in zip(x, z, strict=True)]
        both = {"mean of 0 and 1": values[0] + values[STRENGTHS.index(1.0)]}
        for name, said in {**dict(zip(map(str, STRENGTHS), values, strict=True)), **both}.items():
            found.setdefault(name, []).append(share(said.argmax(-1) == truth[asked]))
    return found


def main(
    images: SomeImages,
    weights: Weights,
    features: Annotated[Path, typer.Option(help="A folder where learners are kept.")],
    out: Figures,
    half: Half = "tune",
    size: Side = 56,
    classes: int = 9,
    experiences: int = 3,
    per_class: PerClass = 20,
    test: TestImages = 25,
    epochs: int = SETTINGS["epochs"],
    seeds: Seeds = SEEDS,
) -> None:
    """Learn the first adapter, and measure what is not in the file yet."""
    torch.set_num_threads(1)
    backbone, records = backbone_of(weights, size), records_in(out)
    for seed in seeds:
        key = {"data": images.name, "half": half, "per class": per_class, "classes": classes, "seed": seed}
        if any(key.items() <= record.items() for record in records):
            continue
        stream = stream_of(images, half, seed, classes, experiences, per_class, test)
        cache = features / "-".join(map(str, key.values()))
        train(backbone, stream, cache, seed, 1, **{**SETTINGS, "epochs": epochs})
        learner = MOSLearner.load(path_of(cache, experiences, seed, 1), backbone=backbone)
        accuracy = measured(learner, stream)
        records.append({**key, "epochs": epochs, "size": size, "ran on": surroundings(), "accuracy": accuracy})
        out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        print(seed, {name: round(100 * sum(own) / len(own), 1) for name, own in accuracy.items()}, flush=True)


if __name__ == "__main__":
    typer.run(main)
