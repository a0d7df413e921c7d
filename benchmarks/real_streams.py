"""MOS on a real stream, kept after every experience: what the other benchmarks ask and align again.

    python benchmarks/real_streams.py --images DIR --weights FILE --out DIR [--experiences 20] [--seed 1993]

DIR holds train/ and test/ with one folder per class (100 of them for the figures in the README); `--turned` makes
four times as many. Learners are trained without alignment, which no adapter depends on: old classes take no part in the
training of new ones. `aligned` does it afterwards, for any kind of class statistics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from arguments import Images, PerClass, Weights
from torch import Tensor

from continual.backbones.loading import Backbone, load_backbone
from continual.data.images import open_image
from continual.datasets.config import load_data
from continual.datasets.streams import Stream, split_classes
from continual.experiments.config import DataConfig
from continual.methods.bases.alignment import AlignmentSettings, align
from continual.methods.mos.learner import MOSLearner
from continual.seeding import generator
from continual.statistics.class_statistics import ClassStatistics, Diagonal, Full, LowRank, Shrunk
from continual.statistics.head import Head

SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "lr": 0.03,
    "precision": "bfloat16",
    "statistics": "full",
    "alignment_epochs": 0,
}


def backbone_of(weights: Path, size: int = 98) -> Backbone:
    """Return the frozen ViT with the crops that small images bear."""
    return load_backbone(weights=weights, img_size=size, crop_scale=(0.4, 1.0))


TURNS = (0, 90, 180, 270)


def half_of(images: Path, half: str) -> list[str]:
    """Return classes of a folder with train/CLASS, permuted with seed 0: those of a half, or "all" of them.

    Things are chosen on the half "tune"; figures are of the half "report".
    """
    names = sorted(p.name for p in (images / "train").iterdir() if p.is_dir())
    order, middle = np.random.RandomState(0).permutation(len(names)), len(names) // 2
    return [names[i] for i in {"tune": order[:middle], "report": order[middle:], "all": order}[half]]


def stream_of(images: Path, experiences: int, seed: int, classes: int = 100, per_class: int = 20) -> Stream:
    """Return classes of a folder in `experiences` equal parts, in the order of the seed."""
    train, test = load_data(DataConfig(source="folder", train=images / "train", test=images / "test"))
    sizes = classes // experiences
    return split_classes("stream", train, test, sizes=sizes, seed=seed, per_class=per_class, max_classes=classes)


def write_turned(images: Path, out: Path) -> None:
    """Write a folder of images with train/ and test/ again, each class in four rotations: four classes."""
    for path in sorted(p for part in ("train", "test") for p in (images / part).glob("*/*") if p.is_file()):
        part, name = path.parts[-3:-1]
        copies = {angle: out / part / (f"{name} {angle}" if angle else name) / f"{path.stem}.png" for angle in TURNS}
        if copies[TURNS[-1]].exists():
            continue
        upright = open_image(path)
        for angle, copy in copies.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            upright.rotate(angle).save(copy, compress_level=1)


def path_of(out: Path, experiences: int, seed: int, done: int) -> Path:
    """Return where the learner is kept that has learned `done` of its experiences."""
    return out / f"stream-{experiences}-{seed}" / f"{done}.safetensors"


def train(backbone: Backbone, stream: Stream, out: Path, seed: int, until: int | None = None, **settings: Any) -> None:
    """Learn the stream from where it was left up to an experience, and keep the learner after every one."""
    count = len(stream.experiences)
    learner = MOSLearner(backbone, seed=seed, **SETTINGS | settings)
    for number, experience in enumerate(stream.experiences[:until], 1):
        path, started = path_of(out, count, seed, number), time.perf_counter()
        if path.exists():
            learner = MOSLearner.load(path, backbone=backbone)
            continue
        learner.learn(experience.train_images, experience.train_labels)
        path.parent.mkdir(parents=True, exist_ok=True)
        learner.save(path)
        print(f"{path}: {time.perf_counter() - started:.0f} s", flush=True)


_known: dict[bytes, tuple[Tensor, Tensor]] = {}


def _spectrum(covariance: Tensor) -> tuple[Tensor, Tensor]:
    key = covariance.diagonal().numpy().tobytes()
    if key not in _known:
        _known[key] = torch.linalg.eigh(covariance.double())
    return _known[key]


def remembered_as(full: ClassStatistics, kind: str, components: int = 8) -> ClassStatistics:
    """Return what would have been remembered of the same features in less memory."""
    assert isinstance(full, Full)
    covariance = full.covariance
    if kind == "full":
        return full
    if kind == "shrunk":
        return Shrunk(full.count, full.mean, covariance)
    if kind == "diagonal":
        return Diagonal(full.count, full.mean, covariance.diagonal().clone())
    assert kind == "low_rank", f"{kind} cannot be made of a covariance"
    values, directions = _spectrum(covariance)
    factor = (directions[:, -components:] * values[-components:].clamp(min=0).sqrt()).to(covariance.dtype)
    rest = (covariance.diagonal() - factor.square().sum(1)).clamp(min=0)
    return LowRank(full.count, full.mean, factor, rest)


def carried(head: Head, trained: Head, own: Head) -> Head:
    """Return the head that training would have given, had it begun with `head`; it began with `trained`, gave `own`.

    Of the rows of old classes training changes nothing but their length, by weight decay.
    """
    old = len(trained.weight)
    kept = float(own.weight[:old].norm() / trained.weight.norm())
    return Head(torch.cat([kept * head.weight, own.weight[old:]]), torch.cat([kept * head.bias, own.bias[old:]]))


def aligned(
    backbone: Backbone,
    out: Path,
    experiences: int,
    seed: int,
    kind: str = "full",
    components: int = 8,
    until: int | None = None,
) -> Iterator[MOSLearner]:
    """Yield the learner after every experience (or up to one), its head aligned on statistics of a kind.

    Of more than fifty experiences the last ten are yielded, and one before, with the head as it was trained.
    """
    head, trained = None, None
    first = 1 if experiences <= 50 else experiences - 10
    for number in range(first, (until or experiences) + 1):
        learner = MOSLearner.load(path_of(out, experiences, seed, number), backbone=backbone)
        own = learner.state.head
        assert own is not None
        statistics = tuple(remembered_as(s, kind, components) for s in learner.state.statistics)
        if head is None or trained is None:
            head = own
        else:
            settings, draw = learner.settings, generator(seed, "alignment", number - 1)
            head = align(
                carried(head, trained, own),
                statistics,
                AlignmentSettings(batch_size=settings.batch_size),
                generator=draw,
            )
        trained = own
        learner.state = replace(learner.state, head=head, statistics=statistics)
        yield learner


def main(
    images: Images,
    weights: Weights,
    out: Annotated[Path, typer.Option(help="Where learners are kept.")],
    turned: Annotated[
        Path | None, typer.Option(help="Where images are written in four rotations, each a class: these are learned.")
    ] = None,
    experiences: int = 20,
    until: Annotated[int | None, typer.Option(help="How many of them are learned; all without.")] = None,
    classes: Annotated[int, typer.Option(help="In all experiences.")] = 100,
    per_class: PerClass = 20,
    epochs: int = SETTINGS["epochs"],
    batch_size: int = SETTINGS["batch_size"],
    seed: int = 1993,
    threads: int = 1,
) -> None:
    """Train, or resume."""
    torch.set_num_threads(threads)
    if turned is not None:
        write_turned(images, turned)
    stream = stream_of(turned or images, experiences, seed, classes, per_class)
    train(backbone_of(weights), stream, out, seed, until, epochs=epochs, batch_size=batch_size)


if __name__ == "__main__":
    typer.run(main)
