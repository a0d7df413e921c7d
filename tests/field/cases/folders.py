"""Folders and manifests as people have them: parts of a split, what systems leave behind, names, and wrong places."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from continual.datasets.collection import Collection
from continual.datasets.config import DataConfig, find
from continual.errors import InputError
from continual.lifecycle.new_images import Plan, plan
from continual.lifecycle.seen_images import SeenImages
from tests.field.case import Case
from tests.support.dataset_fakes import picture


def _tree(root: Path, *folders: str, each: int = 2) -> Path:
    for folder in folders:
        for number in range(each):
            picture(root / folder / f"{number}.png")
    return root


def _found(root: Path, **more: object) -> Collection:
    return find(DataConfig(source=f"{root}/", **more))


def _counts(found: Collection) -> tuple[int, int]:
    return len(found.train.labels), len(found.test.labels)


def _planned(root: Path, hold_out: float = 0.2) -> Plan:
    return plan(root, SeenImages(), [], hold_out=hold_out)


def _other_names(folder: Path) -> None:
    for number, (train, test) in enumerate(
        [
            ("train", "valid"), ("Train", "Test"), ("training", "testing"), ("train", "eval"), ("TRAIN", "dev"),
            ("training_set", "test_set"), ("train-images", "Test Images"), ("trainset", "valset"),
            ("train2017", "val2017"),
        ]
    ):  # fmt: skip
        root = _tree(folder / str(number), f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog")
        found = _found(root)
        assert found.classes == ["cat", "dog"]
        assert _counts(found) == (4, 4)
        assert f"{train}/" in found.origin
        assert f"{test}/" in found.origin


def _three_parts(folder: Path) -> None:
    root = _tree(folder, *[f"{part}/{kind}" for part in ("train", "valid", "test") for kind in ("cat", "dog")])
    found = _found(root)
    assert _counts(found) == (4, 4)
    assert all(path.parent.parent.name == "test" for path in found.test.images)
    assert "4 validation images" in found.remarks[0]
    assert _counts(_found(root, validation_as="train")) == (8, 4)
    assert _counts(_found(root, validation_as="test")) == (4, 8)


def _test_heap(folder: Path) -> None:
    root = _tree(folder, "train/cat", "train/dog", "val/cat", "val/dog", "test")
    found = _found(root)
    assert {path.parent.parent.name for path in found.test.images} == {"val"}
    assert "test/ holds no class folders and is left out" in found.remarks


def _train_alone(folder: Path) -> None:
    found = _found(_tree(folder, "train/cat", "train/dog", each=5))
    assert found.classes == ["cat", "dog"]
    assert _counts(found) == (8, 2)


def _twice_the_same_part(folder: Path) -> None:
    root = _tree(folder, "train/cat", "training/cat", "test/cat")
    for read in (_found, _planned):
        with pytest.raises(InputError, match="both for train: merge or rename one"):
            read(root)


def _learn_a_split(folder: Path) -> None:
    found = _planned(_tree(folder, "Train/cat", "Train/dog", "Test/cat", "Test/dog", each=6))
    assert {picture.entry.label for picture in found.learn} == {"cat", "dog"}
    assert len(found.learn) + len(found.hold_out) == 12
    assert any("Train is learned; Test/ is left alone" in line for line in found.lines([]))


def _learn_a_split_in_python(folder: Path) -> None:
    from continual import StrataLearner
    from continual.testing import tiny_backbone

    root = _tree(folder, "train/cat", "train/dog", "val/cat", "val/dog")
    with pytest.raises(InputError, match=f"the parts of a split and no classes: give {root / 'train'}"):
        StrataLearner(tiny_backbone()).learn(root)


def _split_one_level_down(folder: Path) -> None:
    from continual import StrataLearner
    from continual.testing import tiny_backbone

    root = _tree(folder, "data/train/cat", "data/train/dog", "data/test/cat", "data/test/dog")
    for read in (_found, _planned, StrataLearner(tiny_backbone()).learn):
        with pytest.raises(InputError, match=f"{root / 'data'} holds test/ and train/, the parts of a split, where im"):
            read(root)


def _split_of_other_names(folder: Path) -> None:
    from continual import StrataLearner
    from continual.testing import tiny_backbone

    root = _tree(folder, "trn/cat", "trn/dog", "holdout/cat", "holdout/dog", each=5)
    said = f"holdout and trn are taken for classes, and hold the same folders, cat, dog: .* give {root / 'holdout'}"
    assert any(re.search(said, remark) for remark in _found(root).remarks)
    assert any(re.search(said, note) for note in _planned(root).notes)
    with pytest.warns(UserWarning, match=said):
        StrataLearner(tiny_backbone()).learn(root)
    other = _planned(_tree(folder / "other", "cat/day", "cat/night", "dog/day", each=5))
    assert not any("same folders" in note for note in other.notes)


def _vehicles(folder: Path) -> None:
    root = _tree(folder, "bus", "train", "tram", each=5)
    assert _found(root).classes == ["bus", "train", "tram"]
    assert {picture.entry.label for picture in _planned(root).learn} == {"bus", "train", "tram"}


def _litter(folder: Path) -> None:
    root = _tree(folder, "cat", "dog", each=5)
    _tree(root, "__MACOSX", "@eaDir/cat", ".ipynb_checkpoints", "cat/.thumbnails", "dog/@eaDir/0.png", "$RECYCLE.BIN")
    _tree(root, "Network Trash Folder", "Temporary Items", "@SynoEAStream", "cat/@__thumb", "dog/_gsdata_")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.png", "0.png:Zone.Identifier", "0.png@SynoResource",
                 "Picasa.ini", "Icon\r", "ehthumbs_vista.db"):  # fmt: skip
        (root / "cat" / name).write_bytes(b"no picture")
    found, planned = _found(root), _planned(root)
    assert found.classes == ["cat", "dog"]
    assert sum(_counts(found)) == len(planned.learn) + len(planned.hold_out) == 10
    assert not [note for note in planned.notes if "no images in" in note or "outside" in note]
    from continual.cli.opening import images_in

    assert len(images_in(root)) == 10


def _names_alike(folder: Path) -> None:
    root = _tree(folder / "a", "Cat", "cat", each=3)
    lines = [f"a/{name}/{i}.png,{name}" for name in ("Cat", "cat") for i in range(3)]
    (folder / "list.csv").write_text("\n".join(["path,label", *lines]))
    for source in (f"{root}/", str(folder / "list.csv")):
        with pytest.raises(InputError, match="'Cat' and 'cat' are one name for people"):
            find(DataConfig(source=source))
    assert "'Cat' and 'cat' are one name for people" in _planned(root).problems[0]
    _names_alike_in_python(folder)
    letters = _tree(folder / "letters", "A", "a", each=3)
    assert _found(letters).classes == ["A", "a"]
    assert _planned(letters).problems == []


def _names_alike_in_python(folder: Path) -> None:
    from continual import SimpleCILLearner
    from continual.testing import tiny_backbone

    learner = SimpleCILLearner(tiny_backbone())
    with pytest.raises(InputError, match="'Cat' and 'cat' are one name for people"):
        learner.learn(folder / "a")
    learner.learn(_tree(folder / "now", "cat", "dog"))
    with pytest.raises(InputError, match="'dog' and 'Dog' are one name for people"):
        learner.learn(_tree(folder / "later", "Dog", "owl"))
    assert learner.classes == ("cat", "dog")


def _burst(folder: Path, exif: bool) -> Path:
    """Eighty pictures of one belt, a level lighter each."""
    (folder / "belt").mkdir(parents=True)
    ground = np.random.default_rng(0).uniform(20, 150, (6, 8, 3))
    for number in range(80):
        shot = Image.fromarray((ground + number).astype(np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
        data = shot.getexif()
        # The name says the reverse of the time.
        data[0x0132] = f"2026:03:01 10:{number // 60:02}:{number % 60:02}"
        name = f"belt_{99 - number:04}.jpg"
        shot.save(folder / "belt" / name, quality=95, exif=data if exif else Image.Exif())
    return folder


def _belt(folder: Path) -> None:
    for exif, how in ((True, "the time in their EXIF"), (False, "the numbers in their names (a guess)")):
        found = _planned(_burst(folder / str(exif), exif))
        assert len(found.learn) == 64
        names = sorted(picture.path.stem[-4:] for picture in found.hold_out)
        assert names == [f"{number:04}" for number in (range(20, 36) if exif else range(84, 100))]
        assert any("as of one burst" in line and how in line for line in found.lines([]))
    for number, path in enumerate(sorted((folder / "False" / "belt").iterdir())):
        path.rename(path.with_name(f"{chr(97 + number // 26)}{chr(97 + number % 26)}.jpg"))
    found = _planned(folder / "False")
    assert (len(found.learn), len(found.hold_out)) == (80, 0)
    assert any("nothing is held out of belt: the pictures are nearly the same" in line for line in found.lines([]))


def _few(folder: Path) -> None:
    found = _planned(_tree(folder, "cat", "dog", each=4))
    assert found.hold_out == []
    assert "note: nothing is held out of cat, dog: how well that is learned is not known" in found.lines([])


def _pipe(folder: Path) -> None:
    root = _tree(folder, "cat", "dog", each=3)
    os.mkfifo(root / "cat" / "live.png")
    for read in (_found, _planned):
        with pytest.raises(InputError, match=r"live\.png is a pipe or a device"):
            read(root)


def _manifest(folder: Path, *lines: str) -> Path:
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def _manifest_parts(folder: Path) -> None:
    _tree(folder, "a", each=6)
    names = ("Training", "train", "VALID", "dev", "test", "Testing")
    lines = [f"a/{number}.png,cat,{name}" for number, name in enumerate(names)]
    found = find(DataConfig(source=str(_manifest(folder, "path,label,split", *lines))))
    assert _counts(found) == (2, 2)
    assert "2 validation images" in found.remarks[0]
    found = find(DataConfig(source=str(_manifest(folder, "path,label,split", *lines[:4]))))
    assert _counts(found) == (2, 2), "without test images, the validation images are for testing"


def _manifest_places(folder: Path) -> None:
    own = _tree(folder / "own", "a", each=2)
    secret = picture(folder / "secret.png")
    (own / "a" / "link.png").symlink_to(secret)
    for place in ("../secret.png", str(secret), "a/link.png", "/dev/zero", "a"):
        table = _manifest(own, "path,label,split", "a/0.png,cat,train", f"{place},cat,test")
        with pytest.raises(InputError, match="line 3: .*(lies outside|is no regular file)"):
            find(DataConfig(source=str(table)))
        if place not in ("/dev/zero", "a"):
            assert _counts(find(DataConfig(source=str(table), outside=True))) == (1, 1)
    os.mkfifo(own / "pipe.csv")
    with pytest.raises(InputError, match="no regular file"):
        find(DataConfig(source=str(own / "pipe.csv")))


def _manifest_suffix(folder: Path) -> None:
    _tree(folder, "a", each=4)
    path = folder / "LIST.CSV"
    path.write_text("\n".join(["path,label", *(f"a/{i}.png,cat" for i in range(4))]))
    assert sum(_counts(find(DataConfig(source=str(path))))) == 4
    assert len(_planned(path).learn) == 4


def _manifest_litter(folder: Path) -> None:
    _tree(folder, "a", "__MACOSX/a", each=2)
    lines = [f"{place}/{i}.png,cat,{part}" for place in ("a", "__MACOSX/a") for i, part in enumerate(("train", "test"))]
    found = find(DataConfig(source=str(_manifest(folder, "path,label,split", *lines))))
    assert _counts(found) == (1, 1)
    assert "2 images in hidden folders or those of a system, such as __MACOSX/a/0.png, are left out" in found.remarks


def _parquet_places(folder: Path) -> None:
    pytest.importorskip("datasets")
    import pyarrow
    import pyarrow.parquet

    from continual.data.images import open_image

    own = _tree(folder / "own", "a", each=2)
    secret = picture(folder / "secret.png")
    (own / "a" / "link.png").symlink_to(secret)
    places = ["a/0.png", "a/1.png", str(secret), "../secret.png", "a/link.png", "/dev/zero"]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array([{"bytes": None, "path": place} for place in places], kind)
    rows = pyarrow.table({"image": images, "label": ["cat"] * len(places)})
    pyarrow.parquet.write_table(rows, own / "list.parquet")

    refusals: list[str] = []

    def read(**more: bool) -> list[bool]:
        found = find(DataConfig(source=str(own / "list.parquet"), **more))
        opened = {}
        for part in (found.train, found.test):
            for name, image in zip(part.names or [], part.images, strict=True):
                try:
                    opened[name] = open_image(image) is not None
                except InputError as error:
                    opened[name] = False
                    refusals.append(str(error))
        return [opened[name] for name in sorted(opened)]

    assert read() == [True, True, False, False, False, False]
    allowed = read(outside=True)
    assert (allowed[2], allowed[5]) == (True, False)
    assert all("lies outside" in said or "is no regular file" in said for said in refusals)


def _parquet_parts(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "png")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    for place in ("default/train/0000.parquet", "default/Validation/0000.parquet", ".cache/train.parquet"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        rows = [{"image": {"bytes": data.getvalue(), "path": None}, "label": "cat"}] * 3
        datasets.Dataset.from_list(rows, features=kinds).to_parquet(folder / place)
    assert _counts(_found(folder)) == (3, 3)


CASES = [
    Case(
        "Folders",
        "`train/` beside `valid/`, `Train/` + `Test/`, `training/` + `testing/`, `train/` + `eval/` or `dev/`, "
        "`training_set/` + `test_set/`, `train-images/` + `Test Images/`, `train2017/` + `val2017/`",
        "the training and the test part, whatever they are called and in any case; never classes of these names",
        "exports of Roboflow, Kaggle and Keras name the parts differently; loaders then learn a class called valid",
        _other_names,
    ),
    Case(
        "Folders",
        "`train/`, `valid/` and `test/`",
        "`test/` is for testing; `valid/` is left out, which is said, unless `data.validation_as` takes it in",
        "people who find that one of two evaluation parts was silently not used",
        _three_parts,
    ),
    Case(
        "Folders",
        "`train/CLASS`, `val/CLASS`, and a `test/` of images without labels",
        "`val/` is for testing; that `test/` is left out is said",
        "ImageNet and many competitions hand out their test images in one heap",
        _test_heap,
    ),
    Case(
        "Folders",
        "nothing but `train/CLASS`",
        "its classes are read, and test images are drawn from them",
        "the other parts of a download are often missing",
        _train_alone,
    ),
    Case(
        "Folders",
        "`train/` and `training/` side by side",
        "one error that names both",
        "two downloads unpacked into one folder",
        _twice_the_same_part,
    ),
    Case(
        "Folders",
        "`equimos learn --images` on a folder with `Train/` and `Test/`",
        "what is new in the training part is learned, and the plan says so",
        "a classifier of the classes train and test, the commonest wrong first run with folder loaders",
        _learn_a_split,
    ),
    Case(
        "Folders",
        "`learner.learn(folder)` on such a folder",
        "one error that says which folder to give",
        "the same, from Python",
        _learn_a_split_in_python,
    ),
    Case(
        "Folders",
        "`data/train/CLASS` and `data/test/CLASS`, or `CLASS/train` and `CLASS/test`, where the folder around is given",
        "one error that names the folder to give: its test images are not learned as a class called `data`",
        "archives that unpack into a folder of their own",
        _split_one_level_down,
    ),
    Case(
        "Folders",
        "folders of a split with names that nobody foresaw, `trn/CLASS` and `holdout/CLASS`",
        "they are classes, and the plan, `data check` and a warning in Python say that they hold the same folders",
        "the same, with names of one's own",
        _split_of_other_names,
    ),
    Case(
        "Folders",
        "a class that is really called `train`, beside `bus` and `tram`",
        "a class: a folder holds a split if it has two parts, or nothing but one with class folders in it",
        "vehicles of COCO and of ImageNet-like sets",
        _vehicles,
    ),
    Case(
        "Folders",
        "`__MACOSX`, `@eaDir`, `.ipynb_checkpoints`, `$RECYCLE.BIN`, `Thumbs.db`, `.DS_Store`, `._1.jpg`",
        "left aside alike by every reader and command",
        "thumbnails and notebook checkpoints learned as a class, reported of every loader of class folders",
        _litter,
    ),
    Case(
        "Folders",
        "the classes `Cat` and `cat`, in folders or in a manifest, or in a later folder of a model that knows `cat`",
        "one error, on the command line and in Python; single letters, `A` and `a`, are two classes",
        "data sets made on Linux and copied through macOS or Windows, where both are one folder",
        _names_alike,
    ),
    Case(
        "Folders",
        "80 pictures of one burst, nearly the same",
        "the last fifth by EXIF time, else by the numbers in their names, is held out, and the plan says that this "
        "judges too kindly; where neither tells an order, that nothing is held out. File times are not asked: "
        "copying sets them",
        "frames of one video in training and test, a common finding in reviews of industrial data sets",
        _belt,
    ),
    Case(
        "Folders",
        "four pictures of each class",
        "all are learned; the plan and the result say that nothing is held out",
        "people who ask where the figure is",
        _few,
    ),
    Case(
        "Folders",
        "a pipe or a device that is called `live.png`",
        "one error that names it; it is not opened",
        "loaders that hang on a named pipe",
        _pipe,
        row="",
    ),
    Case(
        "Manifests",
        "a column `split` of Training, train, VALID, dev, test, Testing",
        "the same table of names as for folders; without test images the validation images are for testing",
        "CSV files written by several people",
        _manifest_parts,
    ),
    Case(
        "Manifests",
        "images at `../x.png`, at an absolute path elsewhere, a link that leads out, a device, a folder",
        "refused with the line's number; `data.outside=true` (`--outside`) allows regular files elsewhere",
        "archives with paths that lead out of them, in every archive and data loader's security list",
        _manifest_places,
    ),
    Case(
        "Manifests",
        "`LIST.CSV`",
        "read as `list.csv` is",
        "exports of spreadsheets on Windows",
        _manifest_suffix,
        row="",
    ),
    Case(
        "Manifests",
        "rows of `__MACOSX/` or of hidden folders, as `find . -name '*.png'` lists them",
        "left out, and counted in a remark",
        "lists made on a Mac",
        _manifest_litter,
    ),
    Case(
        "Manifests",
        "parquet rows with a path in place of bytes",
        "read if the file lies below the parquet file's folder; others as in a CSV manifest",
        "tables written with the paths of another machine, or with those of its private files",
        _parquet_places,
    ),
    Case(
        "Manifests",
        "parquet files in `train/` and `Validation/`, and a cache in a hidden folder",
        "parts by file name or folder name, from the same table; hidden folders are not looked at",
        "the layout into which the hub converts data sets",
        _parquet_parts,
    ),
]
