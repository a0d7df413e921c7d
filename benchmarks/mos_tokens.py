"""MOS learned on a stream, and the tokens that the network says of all images, frozen and under every adapter."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from mos_diagnosis import tuning_stream
from real_streams import path_of, train
from torch import Tensor

from continual.adapters.bank import completed, shared
from continual.adapters.base import Adapters
from continual.backbones.loading import Backbone
from continual.data.inputs import PreparedImages
from continual.data.loaders import label_indices
from continual.datasets.collection import Images
from continual.datasets.streams import Stream, split_classes
from continual.learning.extractor import Extractor, extract
from continual.methods.mos.learner import MOSLearner
from continual.seeding import generator

BLOCKS = 4  #: that are read, as `strata` does
SETTINGS: dict[str, Any] = {"epochs": 4, "batch_size": 16, "alignment_epochs": 30, "statistics": "low_rank"}

# Options of what measures it.
SomeImages = Annotated[Path, typer.Option(help="Of train/CLASS and test/CLASS, or of CLASS alone.")]
Half = Annotated[str, typer.Option(help="tune, report or all.")]
Side = Annotated[int, typer.Option(help="Side of the images in pixels.")]
TestImages = Annotated[int, typer.Option(help="Test images of each class, of a folder without its own.")]

#: of training and test images: "frozen" and "first", tokens (n, 2, D') of image and mirror image without an adapter and
#: under the first; tokens of the image alone under its class's adapter ("own", n, D') and, of test images, under each
#: ("under", T, n, D'); "labels" (n,)
Read = dict[str, dict[str, Tensor]]


def stream_of(images: Path, half: str, seed: int, classes: int, experiences: int, per_class: int, test: int) -> Stream:
    """Return classes of a folder, drawn and ordered by the seed, in equal experiences."""
    if (images / "train").is_dir():
        return tuning_stream(images, seed, classes, experiences, per_class, half)
    parts: dict[str, Images] = {"train": Images([], []), "test": Images([], [])}
    for place in sorted(p for p in images.iterdir() if p.is_dir()):
        files = sorted(place.iterdir())
        order = torch.randperm(len(files), generator=generator(seed, "split", place.name)).tolist()
        for name, rows in (("train", order[:per_class]), ("test", order[per_class : per_class + test])):
            parts[name].images.extend(files[i] for i in rows)
            parts[name].labels.extend([place.name] * len(rows))
    sizes = classes // experiences
    return split_classes(images.name, **parts, sizes=sizes, seed=seed, max_classes=classes)


@contextmanager
def beside_mlps(backbone: Backbone, adapters: Adapters | None) -> Iterator[None]:
    """Run the backbone with adapters beside the MLPs of its blocks."""
    frozen: Any = backbone.frozen
    plain = frozen._mlp
    if adapters is not None:
        beside: Any = adapters
        frozen._mlp = lambda index, h: plain(index, h) + beside(index, h)
    try:
        yield
    finally:
        if adapters is not None:
            del frozen._mlp


def tokens(extractor: Extractor, images: Tensor, adapters: Adapters | None = None) -> Tensor:
    """Return what the last blocks say of images (B, D')."""
    with beside_mlps(extractor.backbone, adapters):
        return extractor.block_tokens(images, BLOCKS)


def read(learner: MOSLearner, stream: Stream) -> Read:
    """Return what is read of all images of a stream that was learned whole, or its first experience alone."""
    kind, extractor = learner.settings.adapter_kind, learner.extractor
    bank = [shared(kind, stack) for stack in completed(learner.state.bank)]
    columns: dict[str, dict[str, list[Tensor]]] = {"train": {}, "test": {}}
    classes = [label for e in stream.experiences for label in sorted({*e.train_labels}, key=str)]
    index = {label: c for c, label in enumerate(classes)}  # as the learner has them, or will have
    for side, (number, e) in product(columns, enumerate(stream.experiences)):
        labels = list(getattr(e, f"{side}_labels"))
        data = PreparedImages(getattr(e, f"{side}_images"), labels, learner.preprocessing, augment=False)
        mine: Sequence[Adapters] = bank if side == "test" else bank[number : number + 1] or bank[:1]

        def compute(batch: Tensor, _: Any, mine: Sequence[Adapters] = mine) -> list[Tensor]:
            views = (batch, batch.flip(-1))
            both = [torch.stack([tokens(extractor, view, own) for view in views], 1) for own in (None, bank[0])]
            return [*both, *(both[1][:, 0] if own is bank[0] else tokens(extractor, batch, own) for own in mine)]

        (frozen, first, *under), names = extract(data, compute, batch_size=64, device=learner.device)
        own = {"own": under[0]} if side == "train" else {"under": torch.stack(under)}
        for name, found in {"frozen": frozen, "first": first, **own, "labels": label_indices(names, index)}.items():
            columns[side].setdefault(name, []).append(found)
    return {
        side: {name: torch.cat(parts, int(name == "under")) for name, parts in own.items()}
        for side, own in columns.items()
    }


def learned_and_read(
    backbone: Backbone, stream: Stream, cache: Path, seed: int, until: int | None = None, **settings: Any
) -> tuple[list[MOSLearner], Read]:
    """Return the learner after every experience, or up to one, and what is read; from the cache if they are there."""
    started, count = time.perf_counter(), len(stream.experiences)
    train(backbone, stream, cache, seed, until, **{**SETTINGS, **settings})
    paths = [path_of(cache, count, seed, number) for number in range(1, (until or count) + 1)]
    learners = [MOSLearner.load(path, backbone=backbone) for path in paths]
    place = paths[-1].with_name("read.pt" if until is None else f"read-{until}.pt")
    if not place.is_file():
        torch.save(read(learners[-1], stream), place)
        print(f"{place}: {time.perf_counter() - started:.0f} s", flush=True)
    return learners, torch.load(place, weights_only=True)
