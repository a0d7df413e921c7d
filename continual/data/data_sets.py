"""Data sets of labelled images: torch's, their loaders, and those of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from continual.data.containers import LABEL_KEYS, Label, by_position, image_of, label_of, plain, plain_labels
from continual.errors import InputError
from continual.seeding import seeded

#: where data sets keep their labels beside the images
LABEL_ATTRIBUTES = ("targets", "labels", "_labels")


@dataclass(frozen=True)
class ImageColumn(Sequence[Any]):
    """The images of a data set of pairs, of mappings, or of images alone."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        item = self.dataset[index]
        # Data sets may give pairs as lists; elsewhere a list is no pair.
        return image_of(tuple(item) if isinstance(item, list) else item, index)


def is_dataset(value: Any) -> bool:
    """Tell whether something is a data set of items: torch's, a loader, or one of Hugging Face."""
    return isinstance(value, Dataset | DataLoader) or (hasattr(value, "column_names") and hasattr(value, "features"))


def with_length(dataset: Any) -> Any:
    """Return a data set that has a length and items by position: a loader as the items it loads.

    Raises InputError for a stream without a length, and a loader whose items cannot be distinguished.
    """
    if isinstance(dataset, DataLoader):
        return LoadedItems.of(dataset)
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InputError(
            f"a {type(dataset).__name__} is a stream, whose images cannot be read again: give a data set with a length"
        )
    return dataset


@dataclass(frozen=True)
class LoadedItems(Dataset[Any]):
    """What a `DataLoader` loads, item by item, each through its `collate_fn`.

    Its sampler says which items: a subset stays one. Where it shuffles, they are in the data set's order, for the
    learner shuffles by its own seed, and answers need an order. Batch size and `drop_last` play no part.
    """

    dataset: Any
    indices: Sequence[int]
    collate: Any  #: None for torch's own

    @classmethod
    def of(cls, loader: DataLoader[Any]) -> LoadedItems:
        """Raises InputError for loaders of a stream, of whole batches, or of a share of the images at random."""
        dataset = with_length(loader.dataset)
        sampler: Any = loader.sampler
        if loader.batch_sampler is None:
            raise InputError("a DataLoader without a batch size loads no single images: give its data set")
        if isinstance(sampler, WeightedRandomSampler | DistributedSampler):
            raise InputError(
                f"a DataLoader with a {type(sampler).__name__} loads images at random or a share of them: give its "
                "data set, loader.dataset"
            )
        own = getattr(loader.batch_sampler, "sampler", None) is sampler
        if not own:
            indices = [index for batch in loader.batch_sampler for index in batch]
        elif isinstance(sampler, RandomSampler):
            indices = list(range(len(dataset)))
        else:
            indices = list(sampler.indices if isinstance(sampler, SubsetRandomSampler) else sampler)
        usual = getattr(loader.collate_fn, "__name__", "") == "default_collate"
        return cls(dataset, indices, None if usual else loader.collate_fn)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        item = self.dataset[self.indices[index]]
        if self.collate is None:
            return item
        batch = self.collate([item])
        if isinstance(batch, Mapping):
            return {name: values[0] for name, values in batch.items()}
        if not isinstance(batch, tuple | list):
            return (batch[0],)
        if len(batch) == 1 and isinstance(batch[0], Mapping | tuple | list):  # a list of the items, as they were
            return batch[0]
        return tuple(values[0] for values in batch)


def dataset_labels(dataset: Any) -> list[Label]:
    """Return the label of every item of a data set, by its class's name where the data set knows names.

    They are what the items have: `targets` and the like are only read where they agree with some items, a
    `target_transform` applied. Names are those in `classes` (ImageFolder, CIFAR, ...) or of a `ClassLabel` column, also
    through `Subset` and `ConcatDataset`, and a `collate_fn` that leaves labels as they are; labels that a
    `target_transform`, joint `transforms` or a `collate_fn` gave are final. Raises InputError for items without labels,
    or with others than str and int.
    """
    try:
        return plain_labels(_labels(dataset))
    except (TypeError, LookupError) as error:
        raise InputError(f"a data set without labels must give (image, label) pairs: {error}") from error


def _labels(dataset: Any, rows: Sequence[int] | None = None) -> Sequence[Any]:
    """Return the labels of a data set, or of some rows of it, whose items alone are then read."""
    rows = range(len(dataset)) if rows is None else rows
    if isinstance(dataset, Subset) or (isinstance(dataset, LoadedItems) and dataset.collate is None):
        return _labels(dataset.dataset, [dataset.indices[row] for row in rows])
    if isinstance(dataset, ConcatDataset):
        return _concatenated(dataset, rows)
    if hasattr(dataset, "features"):
        every = _column_labels(dataset)
        return [every[row] for row in rows]
    if (values := _quick(dataset, rows)) is None:
        with seeded(0, "labels"):
            values = [plain(label_of(dataset[row])) for row in rows]
        changed = any(hasattr(dataset, name) for name in LABEL_ATTRIBUTES)
    else:
        changed = getattr(dataset, "target_transform", None) is not None
    if isinstance(dataset, LoadedItems):
        return _named_by_items(values, dataset.dataset, [dataset.indices[row] for row in rows])
    return values if changed else _named(values, getattr(dataset, "classes", None))


def _named_by_items(values: Sequence[Any], dataset: Any, rows: Sequence[int]) -> Sequence[Any]:
    """Return the class indices that a `collate_fn` gave as names, if it left all of them as they were."""
    while isinstance(dataset, Subset):
        dataset, rows = dataset.dataset, [dataset.indices[row] for row in rows]
    kinds = (getattr(dataset, "features", None) or {}).values()
    known = [getattr(dataset, "classes", None), *(kind.names for kind in kinds if type(kind).__name__ == "ClassLabel")]
    expected = [*_labels(dataset, rows)]
    return expected if any([*_named(values, names)] == expected for names in known) else values


def _concatenated(dataset: ConcatDataset[Any], rows: Sequence[int]) -> list[Any]:
    """Return the labels of rows of several data sets, each of which knows its own names."""
    found: dict[int, Any] = {}
    for part, end in zip(dataset.datasets, dataset.cumulative_sizes, strict=True):
        start = end - len(part)  # type: ignore[arg-type]
        own = [row for row in dict.fromkeys(rows) if start <= row < end]
        found |= dict(zip(own, _labels(part, [row - start for row in own]), strict=True))
    return [found[row] for row in rows]


def _quick(dataset: Any, rows: Sequence[int]) -> list[Any] | None:
    """Return the labels that lie beside the images, if those of some items are the same."""
    transform = getattr(dataset, "target_transform", None) or (lambda label: label)
    joint = type(getattr(dataset, "transforms", None)).__name__ not in ("NoneType", "StandardTransform")
    for name in LABEL_ATTRIBUTES if len(rows) and not joint else ():
        found = getattr(dataset, name, None)
        if isinstance(found, Mapping | None) or not hasattr(found, "__len__") or len(found) != len(dataset):
            continue
        every = by_position(found, "labels")
        with seeded(0, "labels"):
            values = [plain(transform(plain(every[row]))) for row in rows]
            checked = {0, len(rows) // 2, len(rows) - 1}
            if all(_same(plain(label_of(dataset[rows[i]])), values[i]) for i in checked):
                return values
    return None


def _same(label: Any, other: Any) -> bool:
    return isinstance(label, str | int) and isinstance(other, str | int) and label == other


def _named(values: Sequence[Any], names: Any) -> Sequence[Any]:
    """Return class indices as names, where there is a name of its own for each."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return values
    whole = all(isinstance(value, int) and 0 <= value < len(names) for value in values)
    return [names[value] for value in values] if whole and len(set(names)) == len(names) else values


def _column_labels(dataset: Any) -> Sequence[Any]:
    """Return the labels of a Hugging Face data set."""
    features = dataset.features or {}
    of_kind = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    known = [name for name in LABEL_KEYS if name in features]
    candidates = of_kind if len(of_kind) == 1 else [name for name in known if name in of_kind or not of_kind] or of_kind
    if len(of_kind) > 1 and not {"label", "labels"} & set(of_kind):
        raise InputError(
            f"the data set has the label columns {', '.join(of_kind)}: keep one, with dataset.remove_columns(...)"
        )
    if not candidates:
        raise LookupError(f"no label among {', '.join(features)}: rename its column to 'label'")
    column = candidates[0]
    values = [plain(value) for value in dataset.with_format(None)[column]]
    if (missing := sum(value is None or value == -1 for value in values)) and column in of_kind:
        raise InputError(f"{missing} of {len(values)} images have no label in the column {column!r}: leave them out")
    return _named(values, getattr(features[column], "names", None))
