"""Streams: the published class order, exact splits, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from continual.datasets.streams import Stream, split_classes
from continual.errors import InputError

CLASSES = 12


def pairs(per_class: int, classes: int = CLASSES) -> tuple[list[str], list[str]]:
    """Interleaved (path, label) lists with labels 'c00', 'c01', ..."""
    labels = [f"c{i % classes:02}" for i in range(classes * per_class)]
    return [f"{label}/{i}.png" for i, label in enumerate(labels)], labels


def split(**options: Any) -> Stream:
    return split_classes("toy", pairs(4), pairs(2), **{"sizes": 3, **options})


def test_the_published_permutation() -> None:
    # how the class order of CIFAR-100 begins in the published class-incremental results
    names = [f"c{i:02}" for i in range(100)]
    stream = split_classes("cifar100", (names, names), (names, names), sizes=10)
    assert stream.class_order[:10] == tuple(f"c{i:02}" for i in (68, 56, 78, 8, 23, 84, 90, 65, 74, 76))
    assert sorted(stream.class_order) == names


def test_seed_none_keeps_the_sorted_order_and_other_seeds_differ() -> None:
    assert split(seed=None).class_order == tuple(f"c{i:02}" for i in range(12))
    assert split(seed=1994).class_order != split().class_order


def test_integer_classes_are_sorted_as_numbers() -> None:
    labels = [10, 9, 2, 100]
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    assert split_classes("n", (images, labels), (images, labels), sizes=1, seed=None).class_order == (2, 9, 10, 100)


def test_experiences_partition_images_and_keep_them_with_their_labels() -> None:
    stream = split()
    assert [e.classes for e in stream.experiences] == [stream.class_order[i : i + 3] for i in (0, 3, 6, 9)]
    images, _ = pairs(4)
    assert sorted(i for e in stream.experiences for i in e.train_images) == sorted(images)
    for e in stream.experiences:
        assert set(e.train_labels) == set(e.test_labels) == set(e.classes)
        assert all(path.startswith(label) for path, label in zip(e.train_images, e.train_labels, strict=True))
        assert all(path.startswith(label) for path, label in zip(e.test_images, e.test_labels, strict=True))
        assert (len(e.train_images), len(e.test_images)) == (12, 6)


def test_uneven_sizes_class_order_and_limits() -> None:
    order = [f"c{i:02}" for i in reversed(range(12))]
    stream = split(sizes=[1, 4], class_order=order, max_classes=5, per_class=2)
    assert stream.class_order == tuple(order[:5])
    assert [len(e.train_labels) for e in stream.experiences] == [2, 8]
    assert [len(e.test_labels) for e in stream.experiences] == [2, 8]
    # the first two images of class c11 in the order given
    assert stream.experiences[0].train_images == ["c11/11.png", "c11/23.png"]


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_images_in_memory_stay_what_they_are(kind: str) -> None:
    labels = [0, 1, 0, 1]
    images: Any = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    if kind == "array":
        images = images.numpy().transpose(0, 2, 3, 1)
    stream = split_classes("t", (images, labels), (images, np.array(labels)), sizes=1, seed=None)
    second = stream.experiences[1]
    assert type(second.train_images) is type(images)
    assert [int(image.max()) for image in second.train_images] == [1, 3]


def test_numpy_random_state_is_left_alone() -> None:
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    split()
    assert np.random.random() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": 5}, "12 classes cannot be split into experiences of 5: use 1, 2, 3, 4, 6, 12"),
        ({"sizes": 0}, "cannot be split into experiences of 0"),
        ({"sizes": [6, 5]}, "add up to 11"),
        ({"sizes": [13, -1]}, "positive numbers"),
        ({"sizes": []}, "positive numbers"),
        ({"max_classes": 13}, "max_classes must be 1 to 12"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"class_order": ["c00"]}, "differs in 'c01'"),
        ({"class_order": [f"c{i:02}" for i in range(12)] + ["c00"]}, "names a class twice"),
    ],
)
def test_bad_splits_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(**options)


def test_bad_data_is_refused() -> None:
    with pytest.raises(InputError, match="no test images of 'c11'"):
        split_classes("toy", pairs(1), pairs(1, 11), sizes=1)
    with pytest.raises(InputError, match="no training images of 'c11'"):
        split_classes("toy", pairs(1, 11), pairs(1), sizes=1)
    with pytest.raises(InputError, match="2 images but 1 labels"):
        split_classes("toy", (["a", "b"], ["x"]), (["a"], ["x"]), sizes=1)
    # a class that max_classes drops needs no test images
    split_classes("toy", pairs(1), pairs(1, 11), sizes=1, seed=None, max_classes=11)


@pytest.mark.slow
def test_avalanche_is_not_imported() -> None:
    code = "import sys, continual.datasets.streams; sys.exit('avalanche' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
