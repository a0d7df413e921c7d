"""Data sets and loaders: torchvision's, torch's own and Hugging Face's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, SubsetRandomSampler, WeightedRandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from continual.errors import InputError
from continual.testing import coloured_squares
from tests.field.case import Case
from tests.field.cases.b_containers import NAMES, fresh, learned, pictures

SECTION = "Data sets and loaders"
TO_TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def _names_are_kept(folder: Path) -> None:
    paths, names = pictures(folder / "first")
    data = ImageFolder(str(folder / "first"))
    learner = learned(data)
    assert learner.classes == NAMES
    assert learner.evaluate(paths, names) == 1
    more, _ = coloured_squares([7], 4)
    (folder / "second" / "yak").mkdir(parents=True)
    for number, image in enumerate(more):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "second" / "yak" / f"{number}.png")
    learner.learn(folder / "second")
    assert learner.classes == (*NAMES, "yak")
    assert learner.evaluate(data) == 1


def _parts_keep_names(folder: Path) -> None:
    paths, names = pictures(folder / "a")
    pictures(folder / "b")
    (folder / "b" / "cat").rename(folder / "b" / "zebra")  # so that index 0 is another class there
    one, two = ImageFolder(str(folder / "a")), ImageFolder(str(folder / "b"))
    assert learned(Subset(one, range(4, 12))).classes == ("dog", "owl")
    joined = ConcatDataset([Subset(one, range(8)), Subset(two, [-1, -2])])
    assert learned(joined).classes == ("cat", "dog", "zebra")
    assert learned(Subset(one, list(range(11, -1, -1)))).evaluate(paths, names) == 1


def _target_transform(folder: Path) -> None:
    pictures(folder)
    data = ImageFolder(str(folder), target_transform=lambda target: 10 + target)
    assert learned(data).classes == (10, 11, 12)
    assert learned(ConcatDataset([data, Subset(data, [0])])).classes == (10, 11, 12)
    merged = ImageFolder(str(folder), target_transform=lambda target: "pet" if target < 2 else "bird")
    assert learned(merged).classes == ("bird", "pet")
    assert learned(merged).predict(merged).labels == ["pet"] * 8 + ["bird"] * 4


def _targets_that_are_not_the_items(folder: Path) -> None:
    images, labels = coloured_squares([0, 1], 4)

    class Wrapper(Dataset[Any]):
        """Changes labels in its items, and still shows those of what it wraps."""

        targets, classes = labels, ["a", "b"]

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> Any:
            return images[index], 1 - labels[index] + 5

    assert learned(Wrapper()).classes == (5, 6)


def _items_that_are_mappings(folder: Path) -> None:
    paths, names = pictures(folder)

    class Items(Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            return {"label": names[index], "image": Image.open(paths[index]).convert("RGB")}

    learner = learned(Items())
    assert learner.predict(Items()).labels == names
    assert learned(DataLoader(Items(), collate_fn=list[Any])).predict(paths).labels == names

    class Other(Items):
        def __getitem__(self, index: int) -> Any:
            return {"photo": 3}

    with pytest.raises(InputError, match="no label among photo: rename its column to 'label'"):
        learned(Other())


def _images_alone(folder: Path) -> None:
    images, labels = coloured_squares([0, 1], 4)

    class Alone(Dataset[Any]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> Any:
            return images[index]

    learner = learned(images, labels)
    assert learner.predict(Alone()).labels == labels
    with pytest.raises(InputError, match=r"must give \(image, label\) pairs: an item is a Tensor"):
        learner.learn(Alone())


def _loader(folder: Path) -> None:
    paths, names = pictures(folder)
    data = ImageFolder(str(folder), TO_TENSOR)
    learner = learned(DataLoader(data, batch_size=5, shuffle=True, drop_last=True), value_range="unit")
    assert learner.classes == NAMES
    assert learner.evaluate(paths, names) == 1
    state = torch.random.get_rng_state()
    assert learner.predict(DataLoader(data, batch_size=5, shuffle=True)).labels == names
    assert torch.equal(torch.random.get_rng_state(), state)
    some = [11, 0, 5]
    assert learner.predict(DataLoader(data, sampler=some)).labels == [names[i] for i in some]
    part = learned(DataLoader(data, 2, sampler=SubsetRandomSampler(range(4, 12))), value_range="unit")
    assert part.classes == ("dog", "owl")

    def collate(items: list[Any]) -> dict[str, Any]:
        return {"pixel_values": torch.stack([item[0] for item in items]), "labels": torch.tensor([i[1] for i in items])}

    own = learned(DataLoader(data, 3, collate_fn=collate), value_range="unit")
    assert own.predict(DataLoader(data, 3, collate_fn=collate)).labels == names
    part = learned(DataLoader(Subset(data, range(4, 12)), 3, collate_fn=collate), value_range="unit")
    assert part.classes == ("dog", "owl")

    def changes(items: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([item[0] for item in items]), torch.tensor([2 - item[1] for item in items])

    assert learned(DataLoader(data, 3, collate_fn=changes), value_range="unit").classes == (0, 1, 2)


def _odd_loaders(folder: Path) -> None:
    pictures(folder)
    data = ImageFolder(str(folder), TO_TENSOR)
    with pytest.raises(InputError, match=r"a WeightedRandomSampler loads images at random.*loader\.dataset"):
        learned(DataLoader(data, sampler=WeightedRandomSampler([1.0] * 12, 12)))
    with pytest.raises(InputError, match="without a batch size"):
        learned(DataLoader(data, batch_size=None))


def _hugging_face(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths, names = pictures(folder)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    columns = {"image": paths, "label": [NAMES.index(name) for name in names]}
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features)).shuffle(seed=2)
    truth = [NAMES[i] for i in data["label"]]
    learner = learned(data)
    assert learner.classes == NAMES
    assert learner.predict(data).labels == truth
    raw = data.cast_column("image", datasets.Image(decode=False))
    for other in (data.with_format("torch"), data.with_format("numpy"), raw, data["image"]):
        assert learner.predict(other).labels == truth
    assert learned(data["image"], data["label"]).classes == (0, 1, 2)
    changed = data.with_transform(lambda rows: {"pixel_values": [TO_TENSOR(i) for i in rows["image"]]})
    assert learner.predict(changed, value_range="unit").labels == truth
    with pytest.raises(InputError, match="mapping with the keys 'train'"):
        learned(datasets.DatasetDict({"train": data}))
    with pytest.raises(InputError, match="is a stream"):
        learned(data.to_iterable_dataset())
    with pytest.raises(InputError, match="12 of 12 images have no label"):
        learned(data.map(lambda row: {"label": -1}))


def _two_label_columns(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths, _ = pictures(folder)
    kind = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"img": datasets.Image(), "fine": kind, "coarse": kind})
    columns = {"img": paths, "fine": [0, 1] * 6, "coarse": [1] * 12}
    data = datasets.Dataset.from_dict(columns, features=features)
    with pytest.raises(InputError, match="label columns fine, coarse: keep one"):
        learned(data)
    assert learned(data.remove_columns("coarse")).classes == ("a", "b")


def _names_then_numbers(folder: Path) -> None:
    paths, _ = pictures(folder)
    learner = fresh()
    learner.learn(ImageFolder(str(folder)))
    with pytest.raises(InputError, match="labels are int, but the classes learned so far are str"):
        learner.learn(paths, [0] * 12)


CASES = [
    Case(
        SECTION,
        "torchvision's ImageFolder, CIFAR, … with `classes`",
        "the learner knows the classes by name; later folders and data sets with names go together with it",
        "models answer 3 and nobody knows which class that was",
        _names_are_kept,
    ),
    Case(
        SECTION,
        "Subset, random_split and ConcatDataset of them",
        "names are kept, each part's own: index 0 of two folders may be two classes",
        "joined ImageFolders whose indices mean different classes are trained as one",
        _parts_keep_names,
    ),
    Case(
        SECTION,
        "a data set with a `target_transform`",
        "its labels are learned as they are",
        "readers of `.targets` overlook target_transform",
        _target_transform,
        row="",
    ),
    Case(
        SECTION,
        "a wrapper whose `targets` are not what its items say",
        "the items are right",
        "wrappers that relabel forward the attributes of what they wrap",
        _targets_that_are_not_the_items,
        row="",
    ),
    Case(
        SECTION,
        "items that are mappings, with 'image' and 'label' or names like them",
        "used; an error names the keys where none fits",
        "torchgeo, Hugging Face and many own data sets give dicts",
        _items_that_are_mappings,
    ),
    Case(
        SECTION,
        "a data set of images without labels",
        "`predict` answers; `learn` says that labels are missing",
        "the first row of a tensor is taken for the image",
        _images_alone,
    ),
    Case(
        SECTION,
        "a DataLoader",
        "the images that its sampler names, each through its transform and collate_fn, which may change labels, but "
        "loses no names; the learner shuffles by "
        "its seed, and answers are in the data set's order where the loader shuffles",
        "people who come from timm have loaders, not data sets",
        _loader,
    ),
    Case(
        SECTION,
        "a DataLoader that draws with weights, for one of several processes, or without a batch size",
        "refused; the error says to give the data set",
        "a share of the images is learned twice and another never",
        _odd_loaders,
    ),
    Case(
        SECTION,
        "a Hugging Face data set, in any format, with a transform, or one of its columns",
        "used, with the names of its ClassLabel; unlabelled rows, streams and a DatasetDict are refused",
        "ds['train'] is handed over whole",
        _hugging_face,
    ),
    Case(
        SECTION,
        "a Hugging Face data set with several label columns",
        "refused; the error names them",
        "CIFAR-100 has fine and coarse labels",
        _two_label_columns,
    ),
    Case(
        SECTION,
        "names first, and numbers later",
        "refused: a class has one name",
        "a folder after torchvision's data set of the same classes",
        _names_then_numbers,
    ),
]
