"""CSV manifests: what they mean, and every way in which they can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from continual.datasets.config import DataConfig, find
from continual.datasets.readers.manifest import manifest_text, read_manifest
from continual.errors import InputError
from tests.support import dataset_fakes as fakes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(12):
        fakes.picture(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def write(folder: Path, *lines: str) -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(labels: str = "aabb", *, split: bool = True) -> list[str]:
    return [
        f"pictures/{i}.png,{x}{',train' if split and i % 2 else ',test' if split else ''}" for i, x in enumerate(labels)
    ]


def test_paths_labels_and_split(folder: Path) -> None:
    path = write(
        folder, "label,note,path,split", "straße,x,pictures/0.png,train", "", f"straße,,{folder}/pictures/1.png,test"
    )
    found = find(DataConfig(source=str(path)))
    assert found.train.images == [folder / "pictures" / "0.png"]
    assert found.test.images == [folder / "pictures" / "1.png"]
    assert found.classes == ["straße"]
    assert found.train.domains is None


def test_labels_that_look_like_numbers_are_names(folder: Path) -> None:
    found = find(DataConfig(source=str(write(folder, "path,label,split", *rows("0077")))))
    assert found.classes == ["0", "7"]


def test_a_byte_order_mark_and_windows_lines(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_bytes("\ufeffpath,label,split\r\n".encode() + "\r\n".join(rows()).encode())
    assert find(DataConfig(source=str(path))).classes == ["a", "b"]


def test_without_a_split_one_is_drawn_in_every_class_of_every_domain(folder: Path) -> None:
    lines = [f"pictures/{i}.png,{'ab'[i % 2]},{'sun' if i < 6 else 'rain'}" for i in range(12)]
    found = find(DataConfig(source=str(write(folder, "path,label,domain", *lines)), test_share=0.34))
    assert found.test.domains is not None
    assert sorted(zip(found.test.domains, found.test.labels, strict=True)) == [
        ("rain", "a"), ("rain", "b"), ("sun", "a"), ("sun", "b")
    ]  # fmt: skip
    assert "drawn (seed 1993, 34% of each class for testing)" in found.split


def test_writing_and_reading_again_gives_the_same(folder: Path) -> None:
    lines = [f'pictures/{i}.png,"a, ""{i % 2}""",d{i % 3}' for i in range(12)]
    found = find(DataConfig(source=str(write(folder, "path,label,domain", *lines))))
    again = folder / "again.csv"
    again.write_text(manifest_text(found, folder), encoding="utf-8")
    assert find(DataConfig(source=str(again))).fingerprint() == found.fingerprint()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["path,lable", "x,y"], "line 1: no column 'label' .*did you mean 'lable'"),
        (["pictures/0.png,a"], "line 1: no column 'path'"),
        ([""], "line 1: no column 'path'.*it is empty"),
        (["path,label,path", "x,y,z"], "line 1: column 'path' is there twice"),
        (["path,label"], "it lists no images"),
        (["path,label", "pictures/0.png,a,b"], "line 2: 3 columns instead of 2"),
        (["path,label", "pictures/0.png"], "line 2: 1 columns instead of 2"),
        (["path,label", ",a"], "line 2: no path"),
        (["path,label", "pictures/0.png, "], "line 2: no label"),
        (["path,label,split", "pictures/0.png,a,trian"], "line 2: split 'trian': did you mean 'train'"),
        (["path,label,split", "pictures/0.png,a,"], "line 2: no split"),
        (["path,label", "pictures/99.png,a"], "line 2: no image at 'pictures/99.png'"),
        (["path,label", "pictures,a"], "line 2: 'pictures' is no regular file"),
        (["path,label", "pictures/0.png,a", "./pictures/0.png,b"], "line 3: .* is listed twice, first on line 2"),
        (["path,label", '"pictures/0.png,a'], "line [23]: not CSV"),
        (["path,label", '"a"b,c'], "line 2: not CSV"),
        (["path,label", "pictures/0\x00.png,a"], "line 2"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(folder: Path, lines: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_manifest(write(folder, *lines))


def test_the_first_ten_problems_are_said_at_once(folder: Path) -> None:
    with pytest.raises(InputError) as error:
        read_manifest(write(folder, "path,label", *[f"gone{i}.png,a" for i in range(13)]))
    assert all(f"line {i}:" in str(error.value) for i in range(2, 12))
    assert "line 12" not in str(error.value)
    assert str(error.value).endswith("and 3 more")


def test_files_that_are_no_text(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_bytes(b"path,label\npictures/0.png,caf\xe9\n")
    with pytest.raises(InputError, match="line 2: not UTF-8"):
        read_manifest(path)
    with pytest.raises(InputError, match="no manifest at"):
        read_manifest(folder / "none.csv")
    with pytest.raises(InputError, match="cannot read"):
        read_manifest(folder)
