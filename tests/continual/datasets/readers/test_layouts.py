"""Published data sets: every layout is read, counted, and split as its table says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continual.datasets.config import DataConfig, find, load_collection, load_data
from continual.errors import InputError
from tests.support import dataset_fakes as fakes


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fakes.small_catalogue(monkeypatch)
    monkeypatch.setenv("EQUIMOS_DATA", str(tmp_path / "home"))


def config(name: str, root: Path | None = None, **more: Any) -> DataConfig:
    return DataConfig(source=name, root=root, **more)


LAYOUTS = [
    ("imagenet_r", fakes.release, "."),
    ("imagenet_r", fakes.release, "imagenet-r"),
    ("imagenet_r", fakes.flat, "."),
    ("imagenet_r", fakes.flat, "imagenet-r"),
    ("imagenet_a", fakes.flat, "imagenet-a"),
    ("cub200", fakes.cub, "CUB_200_2011"),
    ("cub200", fakes.release, "cub"),
    ("objectnet", fakes.release, "objectnet"),
    ("omnibenchmark", fakes.release, "."),
    ("vtab", fakes.release, "vtab-cil/vtab"),
    ("tiny_imagenet", fakes.tiny_imagenet, "tiny-imagenet-200"),
    ("tiny_imagenet", fakes.release, "."),
    ("cifar100", fakes.release, "."),
]


@pytest.mark.parametrize(("name", "make", "inside"), LAYOUTS)
def test_a_layout_is_found_and_read(tmp_path: Path, name: str, make: Callable[..., Path], inside: str) -> None:
    make(tmp_path / inside, 6)
    found = load_collection(config(name, tmp_path))
    assert len(found.classes) == 6
    assert (len(found.train.labels), len(found.test.labels)) == (12, 6)
    for part in (found.train, found.test):
        assert all((path.is_file() and str(label) in str(path)) or "val" in str(path)
                   for path, label in zip(part.images, part.labels, strict=True))  # fmt: skip
    assert not {*found.train.images} & {*found.test.images}


def test_the_default_folder_is_the_users(tmp_path: Path) -> None:
    fakes.release(tmp_path / "home" / "vtab", 6)
    assert len(load_data(config("vtab"))[0].labels) == 12


def test_val_annotations_decide_the_label(tmp_path: Path) -> None:
    root = fakes.tiny_imagenet(tmp_path, 6)
    notes = root / "val" / "val_annotations.txt"
    notes.write_text(notes.read_text().replace("n0000", "x").replace("n0001", "n0000").replace("x", "n0001"))
    found = find(config("tiny_imagenet", root)).test
    test = dict(zip(found.names or [], found.labels, strict=True))
    assert test["val/images/val_0.JPEG"] == "n0001"
    assert test["val/images/val_1.JPEG"] == "n0000"


def test_cubs_own_list_decides_the_split(tmp_path: Path) -> None:
    root = fakes.cub(tmp_path, 6)
    text = (root / "train_test_split.txt").read_text()
    (root / "train_test_split.txt").write_text(text.replace("1 1\n", "1 0\n", 1).replace("3 0\n", "3 1\n", 1))
    found = find(config("cub200", root))
    assert "001.n0000/n0000_0.jpg" in (found.test.names or [])
    assert "001.n0000/n0000_2.jpg" in (found.train.names or [])


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifars_batches(tmp_path: Path, name: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.cifar(tmp_path, classes, monkeypatch)
    found = find(config(name, tmp_path))
    assert found.classes == fakes.names(classes)
    assert found.train.images[0].shape == (32, 32, 3)
    assert (len(found.train.labels), len(found.test.labels)) == (2 * classes, classes)
    assert find(config(name, next(tmp_path.iterdir()))).fingerprint() == found.fingerprint()


def test_a_drawn_split_is_the_same_everywhere_and_changes_with_the_seed(tmp_path: Path) -> None:
    one, two = fakes.flat(tmp_path / "a", 6, 10), fakes.flat(tmp_path / "elsewhere" / "b", 6, 10)
    first, second = (find(DataConfig(source=f"{folder}/")) for folder in (one, two))
    assert first.fingerprint() == second.fingerprint()
    # By hand: the smallest of `printf 1993/n0000/4.png | sha256sum` and so on.
    assert sorted(first.test.names or [])[:4] == ["n0000/4.png", "n0000/7.png", "n0001/1.png", "n0001/4.png"]
    assert len(first.test.labels) == 12
    assert find(DataConfig(source=f"{one}/", split_seed=1)).fingerprint() != first.fingerprint()
    assert len(find(DataConfig(source=f"{one}/", test_share=0.5)).test.labels) == 30


def test_shares_that_are_not_whole_add_up(tmp_path: Path) -> None:
    for name, count in (("a", 2), ("b", 6), ("c", 9), ("d", 21)):
        for i in range(count):
            fakes.picture(tmp_path / name / f"{i}.png")
    found = find(DataConfig(source=f"{tmp_path}/"))
    counts = {name: found.test.labels.count(name) for name in "abcd"}
    # Of 0.4, 1.2, 1.8 and 4.2, eight in all, 0.8 and 0.4 are rounded up.
    assert counts == {"a": 1, "b": 1, "c": 2, "d": 4}


# What is refused


def test_a_data_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"cub200 is not in .*: get it from .*--root DIR.*1151 MB.*prepare cub200 --download"
    ):
        load_data(config("cub200", tmp_path))
    with pytest.raises(InputError, match="objectnet is not in") as error:
        load_data(config("objectnet", tmp_path))
    assert "--download" not in str(error.value)


def test_other_counts_than_the_published(tmp_path: Path) -> None:
    root = fakes.release(tmp_path, 6)
    (root / "train" / "n0000" / "train0.png").unlink()
    with pytest.raises(InputError, match=r"not .* as published: 11 training images, published 12"):
        load_data(config("vtab", root))
    assert len(load_data(config("vtab", root, exact=False))[0].labels) == 11
    fakes.picture(root / "train" / "more" / "a.png")
    fakes.picture(root / "test" / "more" / "b.png")
    with pytest.raises(InputError, match="7 classes, published 6"):
        load_data(config("vtab", root, exact=False))


def test_a_class_in_one_part_only(tmp_path: Path) -> None:
    root = fakes.release(tmp_path, 6)
    fakes.picture(root / "train" / "more" / "a.png")
    with pytest.raises(InputError, match=r"'more' \(training only\)"):
        load_data(DataConfig(source=f"{root}/"))


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    root = fakes.release(tmp_path, 6)
    (root / "test" / "hollow").mkdir()
    with pytest.raises(InputError, match="1 class folders hold no images: .*\n.*hollow"):
        load_data(config("vtab", root))


def test_a_class_with_one_image_cannot_be_split(tmp_path: Path) -> None:
    root = fakes.flat(tmp_path, 6)
    fakes.picture(root / "lonely" / "a.png")
    with pytest.raises(InputError, match="1 classes have a single image.*'lonely'"):
        load_data(DataConfig(source=f"{root}/"))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("images.txt", "1 001", "1 1 001", "line 1: 3 words instead of 2"),
        ("images.txt", "2 001", "1 001", "line 2: 1 is listed twice"),
        ("images.txt", "n0000_1.jpg", "gone.jpg", "lists 1 images that are not there"),
        ("images.txt", "001.n0000/n0000_1.jpg", "../../x/y.jpg", "lists 1 images outside its folder"),
        ("train_test_split.txt", "1 1\n", "1 5\n", "neither 1 .training. nor 0 .test."),
        ("train_test_split.txt", "1 1\n", "", "list different images, such as 1"),
    ],
)
def test_a_damaged_list_of_cub(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    root = fakes.cub(tmp_path, 6)
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        load_data(config("cub200", root))


def test_damaged_cifar_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.cifar(tmp_path, 100, monkeypatch)
    (tmp_path / "cifar-100-python" / "test").write_bytes(b"no pickle")
    with pytest.raises(InputError, match="is damaged .*unpack the archive again"):
        load_data(config("cifar100", tmp_path))


def test_links_in_a_circle_and_names_that_are_not_text(tmp_path: Path) -> None:
    root = fakes.flat(tmp_path / "a", 2)
    (root / "n0000" / "around").symlink_to(root)
    with pytest.raises(InputError, match="around links to a folder that it is in"):
        load_data(DataConfig(source=f"{root}/"))
    (root / "n0000" / "around").unlink()
    (root / "self").symlink_to(root)
    with pytest.raises(InputError, match="self links to a folder that it is in"):
        load_data(DataConfig(source=f"{root}/"))
    (root / "self").unlink()
    fakes.picture(root / "n0000" / "caf\udce9.png")
    with pytest.raises(InputError, match=r"1 file names are not UTF-8: rename .*caf\\xe9.png"):
        load_data(DataConfig(source=f"{root}/"))


def test_links_to_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    elsewhere = fakes.flat(tmp_path / "store", 2)
    (tmp_path / "set").mkdir()
    for folder in ("n0000", "n0001"):
        (tmp_path / "set" / folder).symlink_to(elsewhere / folder)
    (tmp_path / "set" / "n0000" / "deep").mkdir()
    (tmp_path / "set" / "n0000" / "deep" / "link").symlink_to(elsewhere / "n0001")
    found = find(DataConfig(source=f"{tmp_path / 'set'}/"))
    assert [*found.train.labels, *found.test.labels].count("n0000") == 6
