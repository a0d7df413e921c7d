"""Parquet files, and data sets of the hub as far as one can look without a network."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from continual.data.images import EncodedImage, open_image
from continual.datasets.audit import audit
from continual.datasets.config import DataConfig, find, load_collection
from continual.errors import InputError
from tests.support import dataset_fakes as fakes

datasets = pytest.importorskip("datasets")
Equimos = Callable[..., Any]


def png(number: int) -> bytes:
    data = BytesIO()
    Image.new("RGB", (4, 4), (number, 2 * number, 9)).save(data, "png")
    return data.getvalue()


def table(count: int = 10, **columns: Any) -> Any:
    """Images with class labels, as the hub has them."""
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(count)], "label": [i % 2 for i in range(count)]}
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    kinds |= {name: datasets.Value("string") for name in columns}
    return datasets.Dataset.from_dict({**rows, **columns}, features=datasets.Features(kinds))


def write(path: Path, made: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made.to_parquet(path)
    return path


def test_a_file_without_a_split(tmp_path: Path) -> None:
    path = write(tmp_path / "pets.parquet", table())
    found = load_collection(DataConfig(source=str(path)))
    assert found.classes == ["cat", "dog"]
    assert (len(found.train.labels), len(found.test.labels)) == (8, 2)
    assert "drawn (seed 1993" in found.split
    image = found.train.images[0]
    assert isinstance(image, EncodedImage)
    row = int((found.train.names or [])[0].split("/")[1])
    assert open_image(image).getpixel((0, 0)) == (row, 2 * row, 9)  # type: ignore[union-attr]


def test_a_folder_of_files_named_after_their_split(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00002.parquet", table(6))
    write(tmp_path / "data" / "train-00001-of-00002.parquet", table(4))
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", table(2))
    found = find(DataConfig(source=f"{tmp_path}/"))
    assert (len(found.train.labels), len(found.test.labels)) == (10, 2)
    assert found.split == "the files'"


def test_domains_and_other_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pets.parquet", table(8, weather=["sun", "sun", "sun", "sun", "rain", "rain", "rain", "rain"])
    )
    found = find(DataConfig(source=str(path), domain_column="weather", label_column="weather"))
    assert found.classes == ["rain", "sun"]
    assert sorted(set(found.train.domains or [])) == ["rain", "sun"]


def test_images_without_a_note_of_what_they_are(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict({"img": [png(i) for i in range(4)], "label": ["a", "a", "b", "b"]})
    found = load_collection(DataConfig(source=str(write(tmp_path / "plain.parquet", made))))
    assert found.classes == ["a", "b"]


def test_files_are_left_alone_and_nothing_is_cached(
    tmp_path: Path, equimos: Equimos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "pets.parquet", table())
    result = equimos("data", "prepare", tmp_path / "pets.parquet")
    assert result.exit_code == 0, result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["pets.parquet"]
    assert equimos("data", "prepare", tmp_path / "pets.parquet", "--out", tmp_path / "x.csv").exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["pets.parquet"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    bad = [{"bytes": b"not a picture" if i == 3 else png(i), "path": None} for i in range(6)]
    made = datasets.Dataset.from_dict({"image": bad, "label": [0, 0, 0, 1, 1, 1]}, features=table().features)
    path = write(tmp_path / "pets.parquet", made)
    with pytest.raises(InputError, match="1 of 6 images cannot be read:\n.*all/3 is not a readable image"):
        load_collection(DataConfig(source=str(path)))
    assert any("all/3" in error for error in audit(find(DataConfig(source=str(path)))).errors)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label_column": "lable"}, r"no column 'lable': did you mean 'label'\? \(data.label_column\)"),
        ({"image_column": "label"}, "column 'label' holds .* not images"),
        ({"domain_column": "weather"}, "no column 'weather'"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, options: dict[str, str], said: str) -> None:
    path = write(tmp_path / "pets.parquet", table())
    with pytest.raises(InputError, match=said):
        find(DataConfig(source=str(path), **options))


def test_labels_that_are_missing(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict({"image": [png(1), png(2)], "label": ["a", None]})
    with pytest.raises(InputError, match="row 1: no label"):
        find(DataConfig(source=str(write(tmp_path / "x.parquet", made))))


def test_files_that_are_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match="not readable parquet"):
        find(DataConfig(source=str(tmp_path / "x.parquet")))
    with pytest.raises(InputError, match="no parquet file at"):
        find(DataConfig(source=str(tmp_path / "none.parquet")))


def test_the_hub_is_asked_only_to_download(monkeypatch: pytest.MonkeyPatch, equimos: Equimos) -> None:
    import datasets.config
    import huggingface_hub.constants

    asked: list[tuple[str, bool]] = []

    def load(name: str) -> Any:
        asked.append((name, datasets.config.HF_HUB_OFFLINE and huggingface_hub.constants.HF_HUB_OFFLINE))
        return {"train": table(8), "validation": table(2)}

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    found = find(DataConfig(source="hub:owner/pets"))
    assert (len(found.train.labels), len(found.test.labels)) == (8, 2)
    find(DataConfig(source="hub:owner/pets"), download=True)
    assert asked == [("owner/pets", True), ("owner/pets", False)]
    assert not datasets.config.HF_HUB_OFFLINE
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"test": table(2)})
    with pytest.raises(InputError, match="has the splits test: one must be 'train'"):
        find(DataConfig(source="hub:owner/pets"))

    def fail(name: str) -> Any:
        raise ConnectionError("not in the cache")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match="not in the cache.*equimos data prepare hub:owner/pets --download"):
        find(DataConfig(source="hub:owner/pets"))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    fakes.picture(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"^parquet and hub data sets need .*pip install 'equimos\[hub\]'"):
        find(DataConfig(source=str(tmp_path / "x.parquet")))


def test_the_hubs_parts_go_by_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"Training": table(8), "dev": table(2), "testing": table(4), "unsupervised": table(2)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made)
    found = find(DataConfig(source="hub:owner/pets"))
    assert (len(found.train.labels), len(found.test.labels)) == (8, 4)
    assert "2 validation images" in found.remarks[1]
    assert found.remarks[0] == "splits of no known part are left out: unsupervised"
    del made["testing"]
    assert len(find(DataConfig(source="hub:owner/pets")).test.labels) == 2


def test_files_of_the_hub_are_read_where_the_hub_puts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for place in ("cache", "private"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.png").write_bytes(png(1))
    places = [str(tmp_path / place / "x.png") for place in ("cache", "private")]
    rows = [{"image": {"bytes": None, "path": path}, "label": 0} for path in places]
    made = {"train": datasets.Dataset.from_list(rows, features=table().features)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made)
    found = find(DataConfig(source="hub:owner/pets"))
    images = {str(image): image for part in (found.train, found.test) for image in part.images}
    first, second = (images[name] for name in sorted(images))
    assert open_image(first).getpixel((0, 0)) == (1, 2, 9)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="lies outside"):
        open_image(second)
