"""Images and labels in the containers people have them in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.testing import coloured_squares, tiny_backbone
from tests.field.case import Case

SECTION = "Containers"
NAMES = ("cat", "dog", "owl")


def pictures(folder: Path, per_class: int = 4, seed: int = 0) -> tuple[list[str], list[str]]:
    """Paths of small pictures, and their classes' names."""
    images, labels = coloured_squares(range(len(NAMES)), per_class, seed)
    paths = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / NAMES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        paths.append(str(path))
    return paths, [NAMES[label] for label in labels]


def fresh() -> IncrementalLearner[Any]:
    """A learner that needs no training."""
    from continual import SimpleCILLearner

    return SimpleCILLearner(tiny_backbone())


def learned(images: Any, labels: Any = None, **options: Any) -> IncrementalLearner[Any]:
    """A learner of these images."""
    learner = fresh()
    learner.learn(images, labels, **options)
    return learner


def _of_table(container: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Check that a shuffled column is read by position: each image keeps its own label."""

    def check(folder: Path) -> None:
        import pandas as pd

        paths, names = pictures(folder)
        table = pd.DataFrame({"path": paths, "label": names}).sample(frac=1, random_state=3)
        images = container(table["path"])
        learner = learned(images, table["label"])
        assert learner.predict(images).labels == table["label"].tolist()
        assert learner.evaluate(paths, names) == 1

    return check


def _mapping(folder: Path) -> None:
    paths, names = pictures(folder)
    for images, labels in (
        (dict(enumerate(paths)), names),
        (paths, dict(zip(paths, names, strict=True))),
        ({"images": paths, "labels": names}, None),
    ):
        with pytest.raises(InputError, match="are a mapping with the keys"):
            learned(images, labels)
    with pytest.raises(InputError, match="are a mapping with the keys"):
        learned(paths, names).predict({5: paths[0]})


def _set(folder: Path) -> None:
    paths, names = pictures(folder)
    for images, labels in ((set(paths), names), (paths, frozenset(names))):
        with pytest.raises(InputError, match="are a set, which has no order"):
            learned(images, labels)


def _wide_table(folder: Path) -> None:
    import pandas as pd

    paths, names = pictures(folder)
    with pytest.raises(InputError, match="a table with the columns path, label: give one of them"):
        learned(pd.DataFrame({"path": paths, "label": names}), names)


def _encoded(folder: Path) -> None:
    paths, names = pictures(folder)
    encoded = [Path(path).read_bytes() for path in paths]
    learner = learned(encoded, names)
    for images in (encoded, [{"bytes": content, "path": None} for content in encoded]):
        assert torch.equal(learner.predict(images).scores, learner.predict(paths).scores)
    with pytest.raises(InputError, match="image 1 is not a readable image"):
        learner.predict([encoded[0], b"no image"])


def _single(folder: Path) -> None:
    paths, names = pictures(folder)
    learner = learned(paths, names)
    for one in (paths[5], Path(paths[5]), Image.open(paths[5])):
        assert learner.predict(one).labels == [names[5]]
    assert learner.predict(paths[5]).paths == [Path(paths[5])]
    with pytest.raises(InputError, match=r"no image at .*gone\.png"):
        learner.predict(folder / "gone.png")


def _folder(folder: Path) -> None:
    paths, names = pictures(folder)
    learner = learned(folder)
    flat = folder / "cat"
    answer = learner.predict(str(flat))
    assert answer.paths == sorted(flat.iterdir())
    assert answer.labels == ["cat"] * len(answer.paths)
    Image.open(paths[-1]).save(folder / "stray.png")
    answer = learner.predict(folder)
    assert answer.paths is not None
    assert len(answer.paths) == len(paths) + 1
    truth = [path.parent.name if path.parent != folder else names[-1] for path in answer.paths]
    assert answer.labels == truth
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no images"):
        learner.predict(folder / "empty")


def _no_images(folder: Path) -> None:
    images, labels = coloured_squares([0, 1], 4)
    learner = learned(images, labels)
    for empty in ([], images[:0], np.zeros((0, 16, 16, 3), np.uint8), torch.zeros(0, 3, 16, 16)):
        with pytest.raises(InputError, match="at least one"):
            learner.predict(empty)
        with pytest.raises(InputError, match="at least one"):
            learner.learn(empty, [])
    with pytest.raises(InputError, match=r"image 0 is a Tensor of shape \(3, 0, 16\)"):
        learner.predict([torch.zeros(3, 0, 16, dtype=torch.uint8)])


def _stream(folder: Path) -> None:
    _, names = pictures(folder)
    with pytest.raises(InputError, match=r"must be a sequence.*list\(\.\.\.\) is"):
        learned(Path(folder).glob("*/*.png"), names)

    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([])

    for images in (Endless(), torch.utils.data.DataLoader(Endless())):
        with pytest.raises(InputError, match="a Endless is a stream"):
            learned(images)


def _scikit_learn(folder: Path) -> None:
    import pandas as pd
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
    from sklearn.pipeline import Pipeline

    from continual.sklearn import ContinualClassifier

    paths, names = pictures(folder, 8)
    table = pd.DataFrame({"path": paths, "label": names}).sample(frac=1, random_state=3)
    model = ContinualClassifier(tiny_backbone(), method="simple_cil")
    truth = dict(zip(paths, names, strict=True))
    for images in (table["path"], table[["path"]], table["path"].tolist(), table["path"].to_numpy()):
        x, test, y, wanted = train_test_split(images, table["label"], stratify=table["label"], random_state=1)
        assert model.fit(x, y).score(test, wanted) == 1
        assert [truth[path] for path in np.ravel(test)] == model.predict(test).tolist()
        assert (cross_val_score(model, images, table["label"], cv=2) == 1).all()
        assert Pipeline([("model", model)]).fit(x, y).score(test, wanted) == 1
        assert GridSearchCV(model, {"method": ["simple_cil", "ridge"]}, cv=2).fit(x, y).score(test, wanted) == 1
        assert CalibratedClassifierCV(model, cv=2).fit(x, y).score(test, wanted) == 1


def _polars_like(column: Any) -> Any:
    class Column:
        """What polars' and other libraries' columns have in common."""

        def __init__(self, values: list[Any]) -> None:
            self.values = values

        def __len__(self) -> int:
            return len(self.values)

        def __getitem__(self, label: Any) -> Any:
            raise KeyError(label)

        def to_list(self) -> list[Any]:
            return self.values

    return Column(column.tolist())


def _pyarrow(column: Any) -> Any:
    import pyarrow

    return pyarrow.array(column.tolist())


def _pyarrow_table(column: Any) -> Any:
    import pyarrow

    return pyarrow.table({"path": column.tolist()})


SHUFFLED = "a column is indexed by its labels after train_test_split or a shuffle: KeyErrors, or wrong pairs in silence"

CASES = [
    Case(
        SECTION,
        "a list or tuple of paths",
        "read in order",
        SHUFFLED,
        _of_table(tuple),
        row="a list, tuple, array or column of paths: numpy, polars, pyarrow",
    ),
    Case(
        SECTION,
        "a pandas column, in any order of its index, also shuffled",
        "read by position, never by label; labels may be a column too",
        SHUFFLED,
        _of_table(lambda column: column),
    ),
    Case(
        SECTION,
        "a pandas table with a single column",
        "that column",
        "ColumnTransformer and df[['path']] give tables where a column was meant",
        _of_table(lambda column: column.to_frame()),
        row="a pandas or pyarrow table with a single column",
    ),
    Case(
        SECTION,
        "a numpy array of paths, of text or of objects",
        "read in order",
        "np.array(list_of_paths) is taken for pixels and fails on its dtype",
        _of_table(lambda column: np.array(column.tolist())),
        row="a list, tuple, array or column of paths: numpy, polars, pyarrow",
    ),
    Case(
        SECTION,
        "a numpy column of objects, (N, 1)",
        "read in order",
        SHUFFLED,
        _of_table(lambda c: c.to_frame().values),
        row="a list, tuple, array or column of paths: numpy, polars, pyarrow",
    ),
    Case(
        SECTION,
        "a polars column",
        "read in order",
        "columns of other table libraries are refused",
        _of_table(_polars_like),
        row="a list, tuple, array or column of paths: numpy, polars, pyarrow",
    ),
    Case(
        SECTION,
        "a pyarrow array",
        "read in order",
        "scalars of pyarrow are no str",
        _of_table(_pyarrow),
        row="a list, tuple, array or column of paths: numpy, polars, pyarrow",
    ),
    Case(
        SECTION,
        "a pyarrow table with a single column",
        "that column",
        "scalars of pyarrow are no str",
        _of_table(_pyarrow_table),
        row="a pandas or pyarrow table with a single column",
    ),
    Case(
        SECTION,
        "a mapping (dict, DatasetDict) of images or of labels",
        "refused: it has no order; the error names its keys",
        "a dict of index to path is iterated by key, a DatasetDict is given for one of its splits",
        _mapping,
    ),
    Case(SECTION, "a set", "refused: it has no order", "sets shuffle anew in every process", _set),
    Case(
        SECTION,
        "a table with several columns",
        "refused; the error names the columns",
        "iterating a table gives its column names, which are then taken for labels",
        _wide_table,
    ),
    Case(
        SECTION,
        "encoded pictures: bytes, or {'bytes', 'path'} as Hugging Face and parquet keep them",
        "opened as files are",
        "undecoded image columns end in 'dict is not an image'",
        _encoded,
    ),
    Case(
        SECTION,
        "`predict` of one path or one PIL image",
        "one answer; `paths` names the file",
        "people who come from ultralytics give model('a.jpg')",
        _single,
    ),
    Case(
        SECTION,
        "`predict` of a folder, flat or with folders in it",
        "all images at any depth, sorted; `paths` says which is which",
        "people who come from ultralytics give model('folder')",
        _folder,
    ),
    Case(
        SECTION, "no images, or an image without pixels", "one error", "empty selections reach the network", _no_images
    ),
    Case(
        SECTION,
        "a generator, an IterableDataset, or its loader",
        "refused: a learner reads images more than once",
        "a generator is used up by the first pass",
        _stream,
    ),
    Case(
        SECTION,
        "`ContinualClassifier` in train_test_split, cross_val_score, Pipeline, GridSearchCV, CalibratedClassifierCV",
        "works with lists, columns, tables of one column and arrays of paths",
        "estimators that index X by label break in every splitter",
        _scikit_learn,
    ),
]
