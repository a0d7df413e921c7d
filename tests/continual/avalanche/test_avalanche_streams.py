"""Streams of every make: remapped or not, with or without task labels, Avalanche's own SplitCIFAR100."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import (
    SplitCIFAR100,
    benchmark_from_datasets,
    class_incremental_benchmark,
    nc_benchmark,
    split_online_stream,
)
from avalanche.benchmarks.utils import as_classification_dataset
from PIL import Image
from torchvision.datasets import CIFAR100

from continual.avalanche.strategy import MOS, Finetune, LearnerStrategy, strategy_for
from continual.avalanche.streams import to_avalanche
from continual.data.ranges import ValueRangeWarning
from continual.datasets.streams import split_classes
from continual.errors import InputError
from continual.methods.mos.learner import MOSLearner
from tests.support.avalanche_fixtures import (
    ALIGNMENT,
    BATCH,
    EPOCHS,
    SETTINGS,
    Recorder,
    assert_same,
    blob_stream,
    evaluator,
    plain,
)

OPTIONS: dict[str, Any] = {**SETTINGS, **ALIGNMENT, "epochs": EPOCHS, "batch_size": BATCH}


def mos(backbone: Any, **options: Any) -> LearnerStrategy:
    return MOS(model=backbone, evaluator=evaluator(), **{**OPTIONS, **options})


class Labelled(torch.utils.data.Dataset[Any]):
    """What torchvision's data sets are: (image, label) pairs with `targets`."""

    def __init__(self, images: Any, targets: list[int]) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.images[index], self.targets[index]


def class_incremental(backbone: Any, train: Any, test: Any, **options: Any) -> Any:
    groups = {"train": (backbone.preprocessing.training(), None), "eval": (backbone.preprocessing.evaluation(), None)}
    datasets = {
        "train": as_classification_dataset(Labelled(*train), transform_groups=groups),
        "test": as_classification_dataset(Labelled(*test), transform_groups=groups),
    }
    return class_incremental_benchmark(datasets, **options)


def test_labels_that_nobody_remapped(backbone: Any, blobs: Any) -> None:
    """The second experience has the smallest labels, and the batches have no task labels."""
    train, test = blobs([0, 1, 2, 3], 6), blobs([0, 1, 2, 3], 3, seed=1)
    benchmark = class_incremental(backbone, train, test, class_order=[3, 2, 0, 1], num_classes_per_exp=[1, 3])
    sizes: list[int] = []

    class Look(Recorder):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            sizes.append(len(strategy.mbatch))

    ours = mos(backbone, plugins=[Look()])
    reference = MOSLearner(backbone, **OPTIONS)
    for experience in benchmark.streams["train"]:
        ours.train(experience)
        labels = [int(label) for label in experience.dataset.targets]
        rows = [row for label in dict.fromkeys(labels) for row, other in enumerate(train[1]) if other == label]
        assert [train[1][row] for row in rows] == labels
        reference.learn(train[0][rows], labels)
        metrics = ours.eval(benchmark.streams["test"])
        assert all(np.isfinite(value) for value in metrics.values())
    assert ours.learner.classes == (3, 0, 1, 2)
    assert_same(ours.learner, reference)
    assert set(sizes) == {2}
    assert metrics["Top1_Acc_Stream/eval_phase/test_stream"] == reference.evaluate(*test)


@pytest.mark.parametrize("task_labels", [False, True])
def test_nc_benchmark_with_and_without_task_labels(task_labels: bool, backbone: Any, blobs: Any) -> None:
    stream = blob_stream(blobs, classes=4)
    train, test = blobs([0, 1, 2, 3], 6), blobs([0, 1, 2, 3], 3, seed=1)
    benchmark = nc_benchmark(
        Labelled(*train),
        Labelled(*test),
        n_experiences=2,
        task_labels=task_labels,
        fixed_class_order=[0, 1, 2, 3],
        train_transform=backbone.preprocessing.training(),
        eval_transform=backbone.preprocessing.evaluation(),
    )
    record = Recorder()
    ours = mos(backbone, plugins=[record])
    ours.train(benchmark.train_stream)
    ours.eval(benchmark.test_stream)
    assert_same(ours.learner, plain(MOSLearner, backbone, stream))
    assert len(benchmark.train_stream[0].dataset[0]) == 3


def test_our_own_stream_from_files_and_names(backbone: Any, blobs: Any, tmp_path: Path) -> None:
    images, numbers = blobs([0, 1, 2, 3], 4)
    names, paths = [f"class {'dacb'[n]}" for n in numbers], []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i:02}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
    stream = split_classes("files", (paths, names), (paths, names), sizes=2, seed=3)
    benchmark = to_avalanche(stream, backbone.preprocessing)
    ours = mos(backbone, consolidate=None)
    reference = MOSLearner(backbone, **OPTIONS)
    for experience, own in zip(benchmark.train_stream, stream.experiences, strict=True):
        ours.train(experience)
        pairs = zip([stream.class_order.index(label) for label in own.train_labels], own.train_images, strict=True)
        labels, files = zip(*sorted(pairs), strict=True)  # by class, then in the order given
        assert [int(target) for target in experience.dataset.targets] == list(labels)
        reference.learn(files, labels)
    assert ours.learner.classes == (0, 1, 2, 3)
    assert_same(ours.learner, reference)


@pytest.mark.parametrize("kind", ["lora", "ladder"])
def test_other_kinds_of_adapters_train_as_in_our_own_loop(kind: str, backbone: Any, blobs: Any) -> None:
    stream = blob_stream(blobs, classes=4)
    own = {"adapter": kind, "adapter_args": {"reduction": 4, "cached_views": 2} if kind == "ladder" else {}}
    ours = mos(backbone, **own)
    ours.train(to_avalanche(stream, backbone.preprocessing).train_stream)
    assert_same(ours.learner, plain(MOSLearner, backbone, stream, **own))


def test_online_streams(backbone: Any, blobs: Any) -> None:
    """Pieces of an experience are experiences that bring known classes; each trains its own parameters."""
    train, test = blobs([0, 1, 2, 3], 6), blobs([0, 1, 2, 3], 3, seed=1)
    whole = class_incremental(backbone, train, test, class_order=[0, 1, 2, 3], num_experiences=2).streams["train"]
    pieces = split_online_stream(whole, experience_size=6, seed=2, access_task_boundaries=True)
    ours = Finetune(model=backbone, evaluator=evaluator(), **SETTINGS, train_epochs=1, train_mb_size=BATCH)
    heads = [torch.zeros(0)]
    for piece in pieces:
        ours.train(piece, eval_streams=[])
        assert not torch.equal(ours.learner.state.head.weight, heads[-1])
        heads.append(ours.learner.state.head.weight)
    assert ours.learner.state.updates == 4
    assert ours.learner.state.experiences == 2


def test_uneven_experiences(backbone: Any, blobs: Any) -> None:
    labels = list(range(4))
    stream = split_classes("uneven", blobs(labels, 3), blobs(labels, 2), sizes=[3, 1])
    benchmark = to_avalanche(stream, backbone.preprocessing)
    assert [sorted(e.classes_in_this_experience) for e in benchmark.train_stream] == [[0, 1, 2], [3]]
    assert [len(e.dataset) for e in benchmark.test_stream] == [6, 2]


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the format of CIFAR-100's own archive: 2 training and 1 test images a class, of noise."""
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", 200), ("test", 100)):
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        batch = {"data": data, "fine_labels": [i % 100 for i in range(count)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class{i}" for i in range(100)]}))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", None]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", None]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": None})
    return tmp_path


def test_split_cifar100(cifar: Path, backbone: Any) -> None:
    benchmark = SplitCIFAR100(
        n_experiences=10,
        seed=1993,
        dataset_root=cifar,
        train_transform=backbone.preprocessing.training(),
        eval_transform=backbone.preprocessing.evaluation(),
    )
    ours = mos(backbone, epochs=1)
    reference = MOSLearner(backbone, **{**OPTIONS, "epochs": 1})
    raw = CIFAR100(cifar)
    for experience in benchmark.train_stream[:2]:
        ours.train(experience, eval_streams=[])
        labels = [int(target) for target in experience.dataset.targets]
        rows = [i for label in dict.fromkeys(labels) for i in (label, label + 100)]
        assert [raw.targets[i] for i in rows] == labels
        reference.learn([raw[i][0] for i in rows], [raw[i][1] for i in rows])
    metrics = ours.eval(benchmark.test_stream)
    assert_same(ours.learner, reference)
    assert len(ours.learner.classes) == 20
    assert max(ours.learner.classes) > 20  # SplitCIFAR100 keeps CIFAR's own labels
    assert all(np.isfinite(value) for value in metrics.values())


def test_images_that_do_not_fit_the_backbone(cifar: Path, backbone: Any) -> None:
    """Avalanche's own transforms normalise at the data set's size."""
    ours = mos(backbone)
    benchmark = SplitCIFAR100(n_experiences=10, dataset_root=cifar)
    with pytest.raises(InputError, match=r"train_transform=backbone.preprocessing.training|\(B, 3, 16, 16\)"):
        ours.train(benchmark.train_stream[0])
    with pytest.raises(InputError, match="eval_transform=backbone.preprocessing.evaluation"):
        ours.eval(benchmark.test_stream[0])
    assert ours.learner.state.updates == 0


def as_unit(image: Any) -> torch.Tensor:
    """Do what torchvision's ToTensor does."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


@pytest.mark.parametrize("given", ["PIL images", "uint8 tensors", "floats from 0 to 1"])
def test_streams_without_the_backbones_transform_are_learned_as_learn_does(
    backbone: Any, given: str, blobs: Any
) -> None:
    """uint8 used to reach the network as it was, and [0, 1] was taken for normalised."""
    images, labels = blobs([0, 1], 6)
    raw: Any = images
    if given == "PIL images":
        raw = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    elif given == "floats from 0 to 1":
        raw = images / 255
    benchmark = benchmark_from_datasets(train=[as_classification_dataset(Labelled(raw, labels))])
    ours = mos(backbone, value_range="unit" if given == "floats from 0 to 1" else None)
    ours.train(benchmark.streams["train"], num_workers=0)
    reference = MOSLearner(backbone, **OPTIONS)
    reference.learn(raw, labels, value_range=ours.value_range)
    assert_same(ours.learner, reference)
    ours.eval(benchmark.streams["train"])
    scores = ours.learner.predict(raw, value_range=ours.value_range).scores
    assert torch.equal(ours.scores.values, scores[-len(ours.scores.values) :])


def test_a_stream_within_0_and_1_is_said_to_be_guessed(backbone: Any, blobs: Any) -> None:
    images, labels = blobs([0, 1], 4)
    benchmark = benchmark_from_datasets(train=[as_classification_dataset(Labelled(images / 255, labels))])
    ours = strategy_for("simple_cil")(model=backbone, evaluator=evaluator())
    with pytest.warns(ValueRangeWarning, match="value_range='unit'"):
        ours.train(benchmark.streams["train"])
    assert ours.learner.state.value_range == "unit"
    reference = strategy_for("simple_cil").learner_type(backbone)
    reference.learn(images, labels)
    assert torch.equal(ours.learner.state.prototypes.mean, reference.state.prototypes.mean)


def test_splits_that_do_not_divide_are_refused(backbone: Any, blobs: Any) -> None:
    """Avalanche's own builder keeps 9 of 10 classes in 3 experiences and says nothing; ours refuses."""
    images, labels = blobs(list(range(10)), 1)
    pair = (images, labels)
    theirs = class_incremental(backbone, pair, pair, class_order=list(range(10)), num_experiences=3)
    kept = {int(label) for experience in theirs.streams["train"] for label in experience.dataset.targets}
    assert len(kept) == 9
    with pytest.raises(InputError, match="10 classes cannot be split into experiences of 3"):
        split_classes("ten", pair, pair, sizes=3)


def test_negative_labels_are_refused(backbone: Any, blobs: Any) -> None:
    images, _ = blobs([0, 1], 2)
    groups = {"train": (backbone.preprocessing.training(), None), "eval": (backbone.preprocessing.evaluation(), None)}
    dataset = as_classification_dataset(Labelled(images, [-1, -1, 0, 0]), transform_groups=groups)
    with pytest.raises(InputError, match="labels from 0, got -1"):
        mos(backbone).train(benchmark_from_datasets(train=[dataset]).streams["train"][0])
