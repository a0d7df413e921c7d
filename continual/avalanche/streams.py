"""Streams as Avalanche benchmarks, for any Avalanche strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from continual.data.images import open_image
from continual.data.inputs import Label
from continual.data.preprocessing import Preprocessing
from continual.data.ranges import ValueRange, range_name
from continual.datasets.config import DataConfig, StreamConfig, StreamDocument
from continual.datasets.streams import Stream, read_stream

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


def benchmark(
    source: Any,
    stream: StreamConfig | int | None = None,
    *,
    preprocessing: Preprocessing | int = 224,
    seed: int | None = None,
) -> CLScenario:
    """Return a data set as an Avalanche benchmark.

    `source` is a config with its stream and first seed (a TOML file, or anything with the `title`, `data`, `stream` and
    `seeds` of a `RunConfig`), a `DataConfig`, or what `data.source` may be: the name of a published data set, a folder,
    a manifest, parquet. `stream` says how it is cut: a `StreamConfig`, or a number of classes per experience.
    `preprocessing` is a backbone's own (`backbone.preprocessing`), or the side in pixels of images scaled to [0, 1],
    with MOS's augmentation. Images of many channels have those of the `preprocessing`, or of the `DataConfig`, whose
    `value_range` says what their numbers mean. Labels are as in `to_avalanche`. Raises InputError for what `load_data`
    and `make_stream` refuse.

        benchmark("photos.csv", StreamConfig(by="domains"), preprocessing=96)
        benchmark("cifar100", 10, preprocessing=backbone.preprocessing, seed=1994)
    """
    title = str(source)
    if isinstance(source, str | Path) and str(source).endswith(".toml"):
        source = StreamDocument.load(source)
    if isinstance(source, str | Path):
        data = DataConfig(source=str(source.absolute() if isinstance(source, Path) else source))
    elif isinstance(source, DataConfig):
        data = source
    else:
        title, seed = source.title, source.seeds[0] if seed is None else seed
        data, stream = source.data, source.stream if stream is None else stream
    if stream is None or isinstance(stream, int):
        stream = StreamConfig(classes=stream)
    if isinstance(preprocessing, int):
        count = data.channels
        preprocessing = Preprocessing((preprocessing, preprocessing), (0.0,) * count, (1.0,) * count)
    data = data.for_channels(preprocessing.channels)
    return to_avalanche(read_stream(title, data, stream, 1993 if seed is None else seed), preprocessing)


class _OpenedImages(Dataset[Any]):
    """Images as PIL images or uint8 tensors, or as they are if not `opened`; their `targets` are positions of classes.

    Those that are not opened are for a transform that knows what their numbers mean.
    """

    def __init__(self, images: Sequence[Any], targets: list[int], opened: bool) -> None:
        self.images, self.targets, self.opened = images, targets, opened

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        return open_image(image, index) if self.opened else image, self.targets[index]


def to_avalanche(stream: Stream, preprocessing: Preprocessing, value_range: ValueRange | None = None) -> CLScenario:
    """Return the stream as an Avalanche benchmark, with the backbone's preprocessing.

    Labels are positions in `stream.class_order`, whose names are `class_names`. In a stream of new classes
    Avalanche groups the images of an experience by class. `value_range`, as in `learn`, is by default the stream's.
    """
    if value_range is not None:
        stream = replace(stream, value_range=range_name(value_range))
    position = {label: i for i, label in enumerate(stream.class_order)}
    disjoint = sum(len(e.classes) for e in stream.experiences) == len(position)
    made = (_by_classes if disjoint else _by_domains)(stream, position, preprocessing)
    made.class_names = stream.class_order
    return made


def _by_classes(stream: Stream, position: dict[Label, int], preprocessing: Preprocessing) -> Any:
    """Return a benchmark of disjoint classes."""
    from avalanche.benchmarks import nc_benchmark

    def joined(part: str) -> _OpenedImages:
        images = [image for e in stream.experiences for image in getattr(e, f"{part}_images")]
        labels = [label for e in stream.experiences for label in getattr(e, f"{part}_labels")]
        return _OpenedImages(images, [position[label] for label in labels], opened)

    training, evaluation, opened = _transforms(stream, preprocessing)

    return nc_benchmark(
        joined("train"),
        joined("test"),
        n_experiences=len(stream.experiences),
        task_labels=False,
        per_exp_classes={i: len(e.classes) for i, e in enumerate(stream.experiences)},
        fixed_class_order=list(range(len(position))),
        class_ids_from_zero_from_first_exp=True,
        train_transform=training,
        eval_transform=evaluation,
    )


def _by_domains(stream: Stream, position: dict[Label, int], preprocessing: Preprocessing) -> Any:
    """Return a benchmark whose experiences share classes."""
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline
    from avalanche.benchmarks.utils import TransformGroups, as_classification_dataset

    training, evaluation, opened = _transforms(stream, preprocessing)

    def part(images: Any, labels: list[Label]) -> Any:
        found = _OpenedImages(images, [position[label] for label in labels], opened)
        return as_classification_dataset(found, TransformGroups({"train": training, "eval": evaluation}))

    train = [part(e.train_images, e.train_labels) for e in stream.experiences]
    test = [part(e.test_images, e.test_labels).eval() for e in stream.experiences]
    return with_classes_timeline(benchmark_from_datasets(train=train, test=test))


def _transforms(stream: Stream, preprocessing: Preprocessing) -> tuple[Any, Any, bool]:
    """Return the transforms for training and evaluation, and whether images are opened before them."""
    ways = preprocessing.training(), preprocessing.evaluation()
    if preprocessing.channels == 3 and stream.value_range is None:
        return *ways, True
    from continual.avalanche.preparing import Prepare

    training, evaluation = (Prepare(preprocessing, way, stream.value_range) for way in ways)
    return training, evaluation, False
