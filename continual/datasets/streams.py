"""Labelled images cut into a stream of experiences, as plain lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from continual.data.inputs import Label, as_images, labelled, plain_labels, range_of
from continual.datasets.collection import Images
from continual.datasets.config import DataConfig, StreamConfig, load_data
from continual.errors import InputError, nearest


@dataclass(frozen=True)
class Experience:
    """The training and test images of some classes, or of a domain, in the order in which they were given."""

    train_images: Sequence[Any]
    train_labels: list[Label]
    test_images: Sequence[Any]
    test_labels: list[Label]
    classes: tuple[Label, ...]  #: in the stream's order
    domain: str | None = None  #: where an experience brings a domain


@dataclass(frozen=True)
class Stream:
    """Experiences to be learned one after the other: of disjoint classes, or of domains that share classes."""

    name: str
    experiences: tuple[Experience, ...]
    class_order: tuple[Label, ...]  #: all classes, in the order they appear
    channels: int = 3  #: of its images
    value_range: str | None = None  #: what numbers in its images mean, see `continual.data.ranges`; None for pictures


def read_stream(title: str, data: DataConfig, config: StreamConfig, seed: int) -> Stream:
    """Return the data set of a config as a stream; see `read_streams`."""
    return read_streams(title, data, config, [seed])[seed]


def read_streams(title: str, data: DataConfig, config: StreamConfig, seeds: Sequence[int]) -> dict[int, Stream]:
    """Return a config's data set as the stream of each seed, with what the numbers in its images mean.

    Raises InputError if the data are not there or do not fit, or if nobody said what their numbers mean.
    """
    train, test = load_data(data)
    found = range_of(as_images(train.images), data.value_range, channels=data.channels)
    own: Any = {"channels": data.channels, "value_range": found}
    return {seed: replace(make_stream(title, train, test, config, seed), **own) for seed in seeds}


def make_stream(name: str, train: Images, test: Images, config: StreamConfig, seed: int) -> Stream:
    """Cut a data set into the experiences that a config asks for."""
    drawn = None if config.order == "sorted" else seed
    order: list[Any] | None = config.order if isinstance(config.order, list) else None
    if config.only is not None:
        train, test = _only(name, train, config.only), _only(name, test, config.only)
    if config.by == "domains":
        return split_domains(name, train, test, seed=drawn, order=order, per_class=config.per_class)
    sizes: Any = config.classes
    if isinstance(sizes, list) and sizes and isinstance(sizes[0], list):
        order = [label for group in sizes for label in group]
        train, test = _only(name, train, order), _only(name, test, order)
        sizes = [len(group) for group in sizes]
    if config.base is not None:
        count = len(set(train.labels)) if config.max_classes is None else config.max_classes
        sizes = _with_base(name, config.base, sizes, count)
    limits = {"per_class": config.per_class, "max_classes": config.max_classes}
    return split_classes(name, train, test, sizes=sizes, seed=drawn, class_order=order, **limits)


def _only(name: str, part: Images, classes: Sequence[Label]) -> Images:
    """Keep the images of the classes named."""
    if unknown := [label for label in classes if label not in set(part.labels)]:
        raise InputError(f"{name}: no class {unknown[0]!r}: {nearest(str(unknown[0]), set(map(str, part.labels)))}")
    rows = _rows(part.labels, classes)
    return Images(*_pick(part, rows), None if part.domains is None else _take(part.domains, rows))


def _with_base(name: str, base: int | str, increment: int, count: int) -> list[int]:
    """Return the sizes of a first experience of `base` classes and later ones of `increment`.

    >>> _with_base("toy", "half", 10, 100)
    [50, 10, 10, 10, 10, 10]
    """
    first = count // 2 if base == "half" else int(base)
    if not 1 <= first <= count or increment < 1 or (count - first) % increment:
        raise InputError(
            f"{name}: {count} classes cannot be split into {first} first and then {increment} per experience: the "
            f"rest, {count - first}, must be a multiple of {increment}"
        )
    return [first] + [increment] * ((count - first) // increment)


def split_domains(
    name: str,
    train: Images,
    test: Images,
    *,
    seed: int | None = 1993,
    order: Sequence[str] | None = None,
    per_class: int | None = None,
) -> Stream:
    """Cut images with domains into one experience per domain; a class may come in any number of them.

    The domains come in `order`, or sorted and permuted by `np.random.RandomState(seed).permutation` (`seed=None`:
    sorted). Raises InputError for images without domains, for a domain without training or test images, for test images
    of a class that no domain so far has trained, and for an `order` that is not one.
    """
    if train.domains is None or test.domains is None:
        raise InputError(
            f"{name}: the images have no domains: use a manifest with a column 'domain', folders DOMAIN/CLASS with "
            "data.domains=true, or data.domain_column"
        )
    if odd := sorted(set(train.domains) ^ set(test.domains)):
        raise InputError(f"{name}: every domain needs training and test images; not so: {_few(odd)}")
    experiences: list[Experience] = []
    seen: dict[Label, None] = {}
    for domain in _ordered(name, sorted(set(train.domains)), seed, order, "domain"):
        rows, tested = _rows(train.domains, [domain]), _pick(test, _rows(test.domains, [domain]))
        labels = _take(train.labels, rows)
        classes = sorted(set(labels))
        trained = _pick(train, [rows[i] for i in _rows(labels, classes, per_class)])
        seen |= dict.fromkeys(classes)
        if early := sorted(set(tested[1]) - seen.keys(), key=str):
            raise InputError(f"{name}: domain {domain!r} tests {_few(early)} before any domain trained it")
        experiences.append(Experience(*trained, *tested, tuple(classes), str(domain)))
    return Stream(name, tuple(experiences), tuple(seen))


def split_classes(
    name: str,
    train: tuple[Any, Any] | Images,
    test: tuple[Any, Any] | Images,
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
    train, test = labelled(train[0], train[1], f"{name}: train has "), labelled(test[0], test[1], f"{name}: test has ")
    classes: list[Label] = sorted(set(train[1]))
    if strange := sorted(set(test[1]) - set(classes), key=str):
        raise InputError(f"{name}: no training images of {_few(strange)}: drop their test images, or add some")
    order = _ordered(name, classes, seed, class_order)
    if max_classes is not None:
        if not 1 <= max_classes <= len(order):
            raise InputError(f"{name}: max_classes must be 1 to {len(order)}, the classes there are, got {max_classes}")
        order = order[:max_classes]
    if untested := [label for label in order if label not in set(test[1])]:
        raise InputError(f"{name}: no test images of {_few(untested)}: add some, or leave those classes out")
    if per_class is not None and per_class < 1:
        raise InputError(f"{name}: per_class must be at least 1 training image, got {per_class}")
    experiences = []
    for start, end in pairwise(np.cumsum([0, *_checked_sizes(name, sizes, len(order))]).tolist()):
        chosen = order[start:end]
        trained, tested = _pick(train, _rows(train[1], chosen, per_class)), _pick(test, _rows(test[1], chosen))
        experiences.append(Experience(*trained, *tested, tuple(chosen)))
    return Stream(name, tuple(experiences), tuple(order))


def _ordered(
    name: str, found: Sequence[Label], seed: int | None, wanted: Sequence[Label] | None, what: str = "class"
) -> list[Label]:
    if wanted is not None:
        order = plain_labels(wanted)
        if len(set(order)) != len(order) or set(order) != set(found):
            wrong = sorted(set(order) ^ set(found), key=str)
            problem = f"differs in {_few(wrong)}" if wrong else f"names a {what} twice"
            plural = "classes" if what == "class" else f"{what}s"
            raise InputError(f"{name}: {what}_order {problem}: name each of the {len(found)} {plural} once")
        return order
    if seed is None:
        return list(found)
    return [found[i] for i in np.random.RandomState(seed).permutation(len(found))]


def _checked_sizes(name: str, sizes: Sequence[int] | int, count: int) -> list[int]:
    if isinstance(sizes, int):
        if sizes < 1 or count % sizes:
            fitting = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
            raise InputError(
                f"{name}: {count} classes cannot be split into experiences of {sizes}: use {fitting} classes per "
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
    """Return where the labels chosen are, the first `per_class` of each."""
    rows, found = [], dict.fromkeys(chosen, 0)
    for row, label in enumerate(labels):
        if label in found and (per_class is None or found[label] < per_class):
            found[label] += 1
            rows.append(row)
    return rows


def taken(images: Any, labels: Any, rows: list[int]) -> tuple[Any, list[Label]]:
    """Return some of several images, and their labels."""
    return _take(images, rows), _take(labels, rows)


def _pick(part: tuple[Any, Any] | Images, rows: list[int]) -> tuple[Sequence[Any], list[Label]]:
    return taken(part[0], part[1], rows)


def _take(values: Any, rows: list[int]) -> Any:
    return values[rows] if isinstance(values, Tensor | np.ndarray) else [values[row] for row in rows]


def _few(labels: Sequence[Label]) -> str:
    return ", ".join(repr(label) for label in labels[:5]) + (", …" if len(labels) > 5 else "")
