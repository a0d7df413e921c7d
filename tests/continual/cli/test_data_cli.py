"""`equimos data`: what it shows, what it writes, and a hundred ways to be wrong."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continual.datasets.catalogue import catalogue
from continual.datasets.config import DataConfig, load_collection
from tests.support import dataset_fakes as fakes
from tests.support.refusals import refused

Equimos = Callable[..., Any]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EQUIMOS_DATA", str(tmp_path / "home"))


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash."""
    found = (p for p in folder.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def test_list(equimos: Equimos, tmp_path: Path) -> None:
    fakes.release(tmp_path / "home" / "vtab", 2)
    result = equimos("data", "list")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in catalogue())
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "(not there)" in lines["objectnet"]
    assert "(not there)" not in lines["vtab"]
    rows = json.loads(equimos("data", "list", "--json", "-").stdout)
    assert rows["imagenet_r"]["layouts"][0]["train"] == 24000
    assert rows["vtab"]["root"] == str(tmp_path / "home" / "vtab")


def test_the_table_says_what_is_published() -> None:
    """The class counts of the protocol; a second list, so that a slip of the pen is seen."""
    classes = {"cifar10": 10, "cifar100": 100, "cub200": 200, "imagenet_r": 200, "imagenet_a": 200, "objectnet": 200}
    classes |= {"omnibenchmark": 300, "vtab": 50, "tiny_imagenet": 200}
    assert {name: about.classes for name, about in catalogue().items()} == classes
    total = {name: {x.train + x.test for x in about.layouts} for name, about in catalogue().items()}
    assert total["imagenet_r"] == {30000}
    assert total["imagenet_a"] == {7500}
    assert total["cub200"] == {11788}


def test_help_loads_neither_torch_nor_the_commands() -> None:
    code = "import sys, continual.cli.app; sys.exit(bool({'torch', 'numpy', 'PIL', 'pydantic'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_check_a_folder(equimos: Equimos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.release(tmp_path / "photos", 3, train=4, test=2)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    result = equimos("data", "check", "photos")
    assert result.exit_code == 0, result.stderr
    assert "12 images, 4 to 4 per class" in result.stdout
    assert "test      6 images" in result.stdout
    report = json.loads(equimos("data", "check", "photos", "--json", "-").stdout)
    assert (report["classes"], report["train"], report["test"], report["errors"]) == (3, 12, 6, [])
    assert len(report["content_sha256"]) == 64
    assert files(tmp_path) == before


def test_the_content_hash_knows_the_bytes_the_list_hash_the_names(equimos: Equimos, tmp_path: Path) -> None:
    root = fakes.release(tmp_path / "photos", 2)
    first, _ = (json.loads(equimos("data", "check", root, "--json", "-").stdout) for _ in range(2))
    fakes.picture(root / "test" / "n0000" / "test0.png")
    second = json.loads(equimos("data", "check", root, "--json", "-").stdout)
    assert first["list_sha256"] == second["list_sha256"]
    assert first["content_sha256"] != second["content_sha256"]


def test_corrupt_files_are_named(equimos: Equimos, tmp_path: Path) -> None:
    root = fakes.release(tmp_path / "photos", 3)
    (root / "train" / "n0000" / "train0.png").write_bytes(b"")
    bad = root / "test" / "n0002" / "test0.png"
    bad.write_bytes(bad.read_bytes()[:40])
    refused(equimos("data", "check", root), "2 of 9 images cannot be read", "n0000/train0.png", "n0002/test0.png")


def test_an_unfit_folder_also_shows_what_was_left_out(equimos: Equimos, tmp_path: Path) -> None:
    root = fakes.release(tmp_path / "photos", 3)
    (root / "train" / "n0000" / "train0.png").write_bytes(b"")
    (root / "train" / "n0001" / "drawing.svg").write_text("<svg></svg>")
    result = equimos("data", "check", root)
    refused(result, "1 of 9 images cannot be read")
    assert "left out: pictures of kinds that are not read (1 SVG)" in result.stderr


def test_the_same_image_twice(equimos: Equimos, tmp_path: Path) -> None:
    root = fakes.release(tmp_path / "photos", 3)
    image = (root / "train" / "n0000" / "train0.png").read_bytes()
    (root / "train" / "n0000" / "train1.png").write_bytes(image)
    (root / "train" / "n0001" / "train1.png").write_bytes(image)
    result = equimos("data", "check", root)
    assert result.exit_code == 0
    assert "1 images are there under more than one label" in result.stdout
    assert "1 images are there more than once in the same part" in result.stdout
    (root / "test" / "n0002" / "test0.png").write_bytes(image)
    refused(equimos("data", "check", root), "1 images are both in training and in test")


def test_prepare_records_the_split_and_the_record_decides(equimos: Equimos, tmp_path: Path) -> None:
    root = fakes.flat(tmp_path / "photos", 3, 5)
    before = json.loads(equimos("data", "check", root, "--json", "-").stdout)
    result = equimos("data", "prepare", root)
    assert result.exit_code == 0, result.stderr
    record = root / "equimos.csv"
    assert before["list_sha256"] in result.stderr
    assert record.read_text().splitlines()[0] == "path,label,split"
    after = json.loads(equimos("data", "check", root, "--split-seed", 5, "--json", "-").stdout)
    assert after["list_sha256"] == before["list_sha256"]
    assert after["split"] == "recorded in equimos.csv"
    assert after["remarks"] == []
    fakes.picture(root / "n0000" / "later.png")
    again = json.loads(equimos("data", "check", root, "--json", "-").stdout)
    assert again["list_sha256"] == before["list_sha256"]
    (remark,) = again["remarks"]
    assert "1 images" in remark
    assert "n0000/later.png, are not in equimos.csv and are left out" in remark
    with pytest.warns(UserWarning, match="later.png, are not in equimos.csv"):
        load_collection(DataConfig(source=f"{root}/"))
    record.write_text(record.read_text().replace(",train", ",x", 1))
    refused(equimos("data", "check", root), "equimos.csv has 1 problem", "line 2: split 'x'")


def test_prepare_elsewhere_gives_a_manifest(equimos: Equimos, tmp_path: Path) -> None:
    root = fakes.flat(tmp_path / "photos", 3, 5)
    before, out = files(root), tmp_path / "list.csv"
    assert equimos("data", "prepare", root, "--out", out).exit_code == 0
    assert files(root) == before
    assert equimos("data", "check", out).exit_code == 0
    assert "photos/n0000/" in out.read_text()


@pytest.mark.parametrize(("name", "make"), [("cub200", fakes.cub), ("imagenet_r", fakes.flat)])
def test_a_record_of_a_published_set_decides(
    equimos: Equimos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[..., Path]
) -> None:
    root = make(tmp_path / "home" / name, 6)
    fakes.small_catalogue(monkeypatch)
    assert equimos("data", "prepare", name).exit_code == 0
    record = (root / "equimos.csv").read_text()
    images = [line.split(",")[0] for line in record.splitlines()]
    assert all((root / image).is_file() for image in images[1:])
    result = equimos("data", "check", name, "--json", "-")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["split"], report["remarks"]) == ("recorded in equimos.csv", [])
    # a split of one's own, with the published counts, is taken
    swapped = record.replace("train\n", "x\n", 1).replace("test\n", "train\n", 1).replace("x\n", "test\n", 1)
    (root / "equimos.csv").write_text(swapped)
    assert (
        json.loads(equimos("data", "check", name, "--json", "-").stdout)["list_sha256"]
        != json.loads(result.stdout)["list_sha256"]
    )


def test_a_record_of_images_elsewhere_says_how_it_is_read(equimos: Equimos, tmp_path: Path) -> None:
    store, root = fakes.flat(tmp_path / "store", 2, 5), tmp_path / "photos"
    root.mkdir()
    for name in ("n0000", "n0001"):
        (root / name).symlink_to(store / name)
    result = equimos("data", "prepare", root)
    assert result.exit_code == 0, result.stderr
    assert f"note: some images lie outside {root}: read it with --outside" in result.stderr
    refused(equimos("data", "check", root), "is a link that leads out", "--outside")
    assert equimos("data", "check", root, "--outside").exit_code == 0


def test_prepare_needs_a_place(equimos: Equimos, tmp_path: Path) -> None:
    root = fakes.flat(tmp_path / "photos", 3, 5)
    assert equimos("data", "prepare", root, "--out", tmp_path / "list.csv").exit_code == 0
    refused(equimos("data", "prepare", tmp_path / "list.csv"), "give --out FILE")


def test_prepare_does_not_fetch_by_itself_and_says_what_would_be(
    equimos: Equimos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", lambda *a, **k: asked.append((a, k)))
    refused(equimos("data", "prepare", "cifar100"), "fetch 169 MB", "--download")
    refused(equimos("data", "check", "cifar100"), "fetch 169 MB", "--download")
    assert asked == []
    assert not (tmp_path / "home").exists()
    result = equimos("data", "prepare", "cifar100", "--download")
    assert len(asked) == 1
    assert asked[0][1] == {"md5": "eb9058c3a382ffc7106e4002c42a8d85"}
    assert "fetching 169 MB from https://www.cs.toronto.edu" in result.stderr
    refused(result, "cifar100 is not in")  # for the archive was not really fetched
    refused(equimos("data", "prepare", "objectnet", "--download"), "cannot be fetched")


def test_a_fetch_that_fails(equimos: Equimos, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fail)
    refused(equimos("data", "prepare", "cub200", "--download"), "cannot fetch https://data.caltech", "no route")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chek"], "chek"),
        (["check"], "NAME|PATH"),
        (["check", "cifar10o"], "unknown source 'cifar10o' (did you mean 'cifar10'"),
        (["check", "./none"], "no data at"),
        (["check", "none.parquet"], "no parquet file at"),
        (["check", "none.csv"], "no manifest at"),
        (["check", "digits", "--root", "x"], "root goes with a published data set"),
        (["check", ".", "--test-share", "1"], "less than 1"),
        (["check", "vtab", "--domains"], "vtab has no domains"),
        (["prepare", "./photos", "--download"], "--download goes with a published data set"),
        (["check", "cifar10", "--json", "none/x.json"], "no folder"),
        (["prepare", ".", "--out", "none/x.csv"], "no folder"),
    ],
)
def test_wrong_words(
    equimos: Equimos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(equimos("data", *words), said)
    assert list(tmp_path.iterdir()) == []


# A hundred bad data sets, drawn from a seed


def spoil_manifest(draw: random.Random, root: Path) -> Path:
    """Write a manifest with a mistake of a random kind somewhere."""
    lines = [f"photos/train/n{c:04}/train{i}.png,n{c},train" for c in range(3) for i in range(2)]
    lines += [f"photos/test/n{c:04}/test0.png,n{c},test" for c in range(3)]
    at = draw.randrange(len(lines))
    path, label, split = lines[at].split(",")
    noise = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 60)))
    header = "path,label,split"
    data = {
        "bytes": lambda: noise,
        "header": lambda: "\n".join([header[draw.randrange(1, 12) :], *lines]).encode(),
        "not text": lambda: "\n".join([header, *lines]).encode() + b"\n\xff\xfe,a,train",
        "cut": lambda: "\n".join([header, *lines]).encode() + b'\n"' + noise[:3].replace(b'"', b"x"),
        "split": lambda: changed(f"{path},{label},{draw.choice(['vaild', 'TRIAN', '1', '', 'tset'])}"),
        "label": lambda: changed(f"{path},{draw.choice(['', ' '])},{split}"),
        "path": lambda: changed(
            f"{draw.choice(['', 'gone.png', '/', '..', 'x' * 400, path + '.bak'])},{label},{split}"
        ),
        "columns": lambda: changed(draw.choice([path, f"{path},{label}", f"{path},{label},{split},extra"])),
        "twice": lambda: "\n".join([header, *lines, lines[at]]).encode(),
        "one part": lambda: changed(f"{path},{draw.choice(['lonely', 'Ü', 'n 0'])},{split}"),
        "empty": lambda: draw.choice([b"", b"\n\n", header.encode(), b"\xef\xbb\xbf"]),
    }

    def changed(line: str) -> bytes:
        return "\n".join([header, *lines[:at], line, *lines[at + 1 :]]).encode()

    (root / "list.csv").write_bytes(data[draw.choice(sorted(data))]())
    return root / "list.csv"


def spoil_folder(draw: random.Random, root: Path) -> Path:
    """Spoil the folder in a random way."""
    photos = root / "photos"
    image = draw.choice(sorted(photos.rglob("*.png")))
    kind = draw.choice(["empty class", "corrupt", "cut", "loop", "bytes", "test gone", "leak", "class gone", "link"])
    if kind == "empty class":
        (photos / draw.choice(["train", "test"]) / "hollow").mkdir()
    elif kind == "corrupt":
        image.write_bytes(bytes(draw.randrange(256) for _ in range(draw.randrange(200))))
    elif kind == "cut":
        image.write_bytes(image.read_bytes()[: draw.randrange(1, 60)])
    elif kind == "loop":
        (image.parent / "loop").symlink_to(draw.choice([photos, image.parent, photos / "train", photos / "test"]))
        if not image.is_relative_to((image.parent / "loop").resolve()):
            (image.parent / "loop").unlink()
            (image.parent / "loop").symlink_to(photos)
    elif kind == "bytes":
        fakes.picture(image.parent / f"{draw.choice('abc')}\udcff.png")
    elif kind == "test gone":
        for part in (photos / "test").rglob("*.png"):
            part.unlink()
    elif kind == "leak":
        other = photos / "train" / "n0000" / "train0.png"
        (photos / "test" / "n0001" / "test0.png").write_bytes(other.read_bytes())
    elif kind == "class gone":
        for part in sorted((photos / "test" / "n0002").iterdir()):
            part.unlink()
        (photos / "test" / "n0002").rmdir()
    elif kind == "link":
        image.unlink()
        image.symlink_to(image.name)
    return photos


@pytest.mark.parametrize("number", range(100))
def test_a_spoiled_data_set_gives_one_line_and_changes_nothing(equimos: Equimos, tmp_path: Path, number: int) -> None:
    draw = random.Random(number)
    fakes.release(tmp_path / "photos", 3)
    source = (spoil_manifest if number % 2 else spoil_folder)(draw, tmp_path)
    before = files(tmp_path)
    refused(equimos("data", draw.choice(["check", "prepare"]), source))
    assert files(tmp_path) == before
