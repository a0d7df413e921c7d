"""Data readers: what holds for each of them, and one from outside in a config, from its source to the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field, ValidationError

from continual.avalanche.streams import benchmark
from continual.datasets.catalogue import catalogue
from continual.datasets.collection import Collection, Images, check_classes
from continual.datasets.config import DataConfig, _read, data_places, find, load_collection
from continual.datasets.readers import READERS
from continual.datasets.readers.base import DataTable, Layout, Reader
from continual.documents import Strict
from continual.errors import InputError
from tests.support import dataset_fakes as fakes
from tests.support.small_runs import PRETRAINED

Equimos = Callable[..., Any]


def record(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    fakes.flat(root / "set", 3)
    files = sorted((root / "set").rglob("*.png"))
    lines = [f"{f.relative_to(root / 'set')},{f.parent.name},{'train' if int(f.stem) else 'test'}" for f in files]
    (root / "set" / "equimos.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    return {"source": f"{root / 'set'}/"}


def listed(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    folder = Path(record(root, patch)["source"])
    (folder / "equimos.csv").rename(folder / "list.csv")
    return {"source": str(folder / "list.csv")}


def table() -> Any:
    datasets = pytest.importorskip("datasets")
    rows = [{"image": {"bytes": fakes._png(i), "path": None}, "label": i % 2} for i in range(10)]
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    return datasets.Dataset.from_list(rows, features=datasets.Features(kinds))


def parquet(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    table().to_parquet(root / "pets.parquet")
    return {"source": str(root / "pets.parquet")}


def hub(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    made = {"train": table(), "test": table()}
    patch.setattr("datasets.load_dataset", lambda name: made)
    return {"source": "hub:owner/pets"}


#: a data set in small for each reader, as the keys of `[data]`
FAKES: dict[str, Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]] = {
    "folder": lambda root, _: {"source": "folder", **dict.fromkeys(("train", "test"), fakes.flat(root / "a", 3))},
    "folders": lambda root, _: {"source": f"{fakes.release(root / 'a', 3)}/"},
    "flat": lambda root, _: {"source": f"{fakes.flat(root / 'a', 3)}/"},
    "record": record,
    "manifest": listed,
    "parquet": parquet,
    "hub": hub,
    "digits": lambda *_: {"source": "digits"},
    "published": lambda root, _: {"source": "vtab", "root": fakes.release(root, 6)},
    "cub": lambda root, _: {"source": "cub200", "root": fakes.cub(root, 6)},
    "tiny_imagenet": lambda root, _: {"source": "tiny_imagenet", "root": fakes.tiny_imagenet(root, 6)},
    "cifar10": lambda root, patch: {"source": "cifar10", "root": fakes.cifar(root, 10, patch), "exact": False},
    "cifar100": lambda root, patch: {"source": "cifar100", "root": fakes.cifar(root, 100, patch), "exact": False},
}


@pytest.mark.parametrize("name", READERS.all())
def test_a_reader_says_what_it_is(name: str) -> None:
    kind = READERS.get(name)
    assert kind.name == name
    assert kind.__doc__
    assert kind.keys <= {"train", "test", "root", "domains"}
    assert not kind.options.model_fields.keys() & DataTable.model_fields.keys(), "these keys mean something already"
    assert all(kind().takes(source) for source in kind().sources())


@pytest.mark.parametrize("name", READERS.all())
def test_a_reader_finds_its_images_the_same_each_time_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name not in FAKES:
        pytest.skip("no data set in small of this kind")
    if not name.startswith("cifar"):
        fakes.small_catalogue(monkeypatch)
    config = DataConfig(**FAKES[name](tmp_path, monkeypatch))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    reader, found = _read(config, download=False)
    layout = issubclass(READERS.get(name), Layout) and not READERS.get(name).by_path
    assert reader.name == ("published" if layout else name)
    if not name.startswith("cifar"):  # whose fakes have other counts than the published
        assert load_collection(config).fingerprint() == found.fingerprint()
    assert find(config).fingerprint() == found.fingerprint()
    check_classes(found)
    for part in (found.train, found.test):
        assert len(part.images) == len(part.labels) == len(part.names or part.labels)
        assert {type(label) for label in part.labels} == {str}
    assert found.origin
    assert found.split
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_every_layout_of_the_catalogue_has_a_reader() -> None:
    kinds = {row.kind for about in catalogue().values() for row in about.layouts}
    assert all(issubclass(READERS.get(kind), Layout) for kind in kinds)


class StripeOptions(Strict):
    stripes: int = Field(ge=2, description="classes")
    notes: Path | None = None


class Stripes(Reader):
    """Images of one bright row each, whose place is the class."""

    name = "toy"
    options = StripeOptions

    def read(self, config: DataTable, *, download: bool = False) -> Collection:
        count = self.options(**(config.model_extra or {})).stripes
        images = torch.zeros(4 * count, 3, 16, 16, dtype=torch.uint8)
        images[range(4 * count), :, [i // 4 for i in range(4 * count)]] = 255
        part = Images(images, [f"row {i // 4}" for i in range(4 * count)])
        return Collection("toy", part, part, "made up", "both parts are the same")

    def check(self, found: Collection, config: DataTable) -> None:
        pass


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(READERS, "_added", {})
    READERS.add(Stripes)


@pytest.mark.usefixtures("_toy")
def test_a_reader_from_outside_runs_from_the_config_to_the_report(equimos: Equimos, tmp_path: Path) -> None:
    config = tmp_path / "toy.toml"
    text = 'title = "Toy"\n[data]\nsource = "toy"\nstripes = 4\n[stream]\nclasses = 2\n'
    config.write_text(text + PRETRAINED + "[methods.simple_cil]\n")
    assert len(benchmark(config, preprocessing=16).train_stream) == 2
    result = equimos("run", config, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    kept = json.loads((tmp_path / "out" / "run.json").read_text())["config"]["data"]
    assert (kept["source"], kept["stripes"]) == ("toy", 4)
    assert "simple_cil" in equimos("report", tmp_path / "out").stdout
    assert "stripes = 4" in equimos("show", config).stdout
    other = equimos("run", config, "data.stripes=6", "--out", tmp_path / "out")
    assert "data.stripes is 4 there, 6 now" in other.stderr


@pytest.mark.usefixtures("_toy")
def test_a_reader_s_own_keys_are_as_strict_as_all_others() -> None:
    for keys, place, kind in (
        ({}, "stripes", "missing"),
        ({"stripes": 1}, "stripes", "greater_than_equal"),
        ({"stripes": 4, "strips": 4}, "strips", "extra_forbidden"),
    ):
        with pytest.raises(ValidationError) as error:
            DataConfig(source="toy", **keys)
        assert [(e["loc"], e["type"]) for e in error.value.errors()] == [((place,), kind)]
    with pytest.raises(ValidationError, match="toy has no domains"):
        DataConfig(source="toy", stripes=4, domains=True)
    with pytest.raises(ValidationError, match="stripes"):
        DataConfig(source="digits", stripes=4)
    with pytest.raises(ValidationError, match=r"unknown source 'toyy' \(did you mean 'toy'"):
        DataConfig(source="toyy")
    assert "data.notes" in data_places()


def test_what_is_no_reader_is_refused() -> None:
    with pytest.raises(InputError, match="is no data reader: it needs a name of its own"):
        READERS.add(StripeOptions)  # type: ignore[arg-type]
