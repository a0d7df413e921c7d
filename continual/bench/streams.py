"""Labelled images cut into a stream of experiences: plain lists for a learner, or an Avalanche benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from continual.data import Label, as_images, open_image, plain_labels
from continual.errors import InputError
from continual.preprocessing import Preprocessing

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


@dataclass(frozen=True)
class Experience:
    """The training and test images of some classes, in the order in which they were given."""

    train_images: Sequence[Any]
    train_labels: list[Label]
    test_images: Sequence[Any]
    test_labels: list[Label]
    classes: tuple[Label, ...]  #: in the stream's order


@dataclass(frozen=True)
class Stream:
    """Experiences of disjoint classes, to be learned one after the other."""

    name: str
    experiences: tuple[Experience, ...]
    class_order: tuple[Label, ...]  #: all classes, in the order they appear


def split_classes(
    name: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    *,
    sizes: Sequence[int] | int,
    seed: int | None = 1993,
    class_order: Sequence[Label] | None = None,
    per_class: int | None = None,
    max_classes: int | None = None,
) -> Stream:
    """Cut labelled images into experiences of disjoint classes.

    `train` and `test` are (images, labels): images a list (paths, PIL images, ...), array or tensor.
    `sizes` is how many classes each experience brings: one number for all, or a number for each.

    The classes come in `class_order`, or in that of the published class-incremental results: sorted, then
    permuted by `np.random.RandomState(seed).permutation`; `seed=None` leaves them sorted. Only the first
    `max_classes` of that order are kept, and only the first `per_class` training images of each class.

    Raises InputError for classes that do not fill the experiences exactly, for a class without training or
    test images, and for a `class_order` that is not one.
    """
    train_images, train_labels = _images_and_labels(train, f"{name}: train")
    test_images, test_labels = _images_and_labels(test, f"{name}: test")
    classes: list[Label] = sorted(set(train_labels))
    if strange := sorted(set(test_labels) - set(classes), key=str):
        raise InputError(f"{name}: no training images of {_few(strange)}: drop their test images, or add some")
    order = _ordered(name, classes, seed, class_order)
    if max_classes is not None:
        if not 1 <= max_classes <= len(order):
            raise InputError(f"{name}: max_classes must be 1 to {len(order)}, the classes there are, got {max_classes}")
        order = order[:max_classes]
    if untested := [label for label in order if label not in set(test_labels)]:
        raise InputError(f"{name}: no test images of {_few(untested)}: add some, or leave those classes out")
    if per_class is not None and per_class < 1:
        raise InputError(f"{name}: per_class must be at least 1 training image, got {per_class}")

    ends = np.cumsum([0, *_checked_sizes(name, sizes, len(order))]).tolist()
    experiences = []
    for start, end in pairwise(ends):
        chosen = order[start:end]
        train_rows, test_rows = _rows(train_labels, chosen, per_class), _rows(test_labels, chosen)
        experiences.append(
            Experience(
                _take(train_images, train_rows),
                _take(train_labels, train_rows),
                _take(test_images, test_rows),
                _take(test_labels, test_rows),
                tuple(chosen),
            )
        )
    return Stream(name, tuple(experiences), tuple(order))


def _images_and_labels(pair: tuple[Any, Any], what: str) -> tuple[Sequence[Any], list[Label]]:
    images, labels = as_images(pair[0]), plain_labels(pair[1])
    if len(images) != len(labels):
        raise InputError(f"{what} has {len(images)} images but {len(labels)} labels: give one label an image")
    return images, labels


def _ordered(name: str, classes: Sequence[Label], seed: int | None, class_order: Sequence[Label] | None) -> list[Label]:
    if class_order is not None:
        order = plain_labels(class_order)
        if len(set(order)) != len(order) or set(order) != set(classes):
            wrong = sorted(set(order) ^ set(classes), key=str)
            problem = f"differs in {_few(wrong)}" if wrong else "names a class twice"
            raise InputError(f"{name}: class_order {problem}: name each of the {len(classes)} classes once")
        return order
    if seed is None:
        return list(classes)
    return [classes[i] for i in np.random.RandomState(seed).permutation(len(classes))]


def _checked_sizes(name: str, sizes: Sequence[int] | int, count: int) -> list[int]:
    if isinstance(sizes, int):
        if sizes < 1 or count % sizes:
            fitting = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
            raise InputError(
                f"{name}: {count} classes cannot be split into experiences of {sizes}: use {fitting} classes an "
                f"experience, a list of sizes that adds up to {count}, or max_classes"
            )
        return [sizes] * (count // sizes)
    if not sizes or min(sizes) < 1 or sum(sizes) != count:
        raise InputError(
            f"{name}: sizes {list(sizes)} add up to {sum(sizes)}: give positive numbers that add up to the {count} "
            f"classes, or set max_classes"
        )
    return list(sizes)


def _rows(labels: Sequence[Label], chosen: Sequence[Label], per_class: int | None = None) -> list[int]:
    rows, found = [], dict.fromkeys(chosen, 0)
    for row, label in enumerate(labels):
        if label in found and (per_class is None or found[label] < per_class):
            found[label] += 1
            rows.append(row)
    return rows


def _take(values: Any, rows: list[int]) -> Any:
    return values[rows] if isinstance(values, Tensor | np.ndarray) else [values[row] for row in rows]


def _few(labels: Sequence[Label]) -> str:
    return ", ".join(repr(label) for label in labels[:5]) + (", …" if len(labels) > 5 else "")


class _OpenedImages(Dataset[Any]):
    """Images as PIL images or uint8 tensors, with positions in the class order as `targets`."""

    def __init__(self, images: Sequence[Any], targets: list[int]) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return open_image(self.images[index], index), self.targets[index]


def to_avalanche(stream: Stream, preprocessing: Preprocessing) -> CLScenario:
    """Return the stream as an Avalanche benchmark, with the backbone's preprocessing.

    Labels are positions in `stream.class_order`. Avalanche groups the images of an experience by class.
    """
    from avalanche.benchmarks import nc_benchmark

    position = {label: i for i, label in enumerate(stream.class_order)}

    def joined(images: str, labels: str) -> _OpenedImages:
        return _OpenedImages(
            [image for e in stream.experiences for image in getattr(e, images)],
            [position[label] for e in stream.experiences for label in getattr(e, labels)],
        )

    return nc_benchmark(
        joined("train_images", "train_labels"),
        joined("test_images", "test_labels"),
        n_experiences=len(stream.experiences),
        task_labels=False,
        per_exp_classes={i: len(e.classes) for i, e in enumerate(stream.experiences)},
        fixed_class_order=list(range(len(position))),
        class_ids_from_zero_from_first_exp=True,
        train_transform=preprocessing.training(),
        eval_transform=preprocessing.evaluation(),
    )
