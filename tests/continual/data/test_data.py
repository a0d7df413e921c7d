"""Images and labels in the forms people have them, and loading that workers cannot change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from continual.data.inputs import as_experience, as_images, list_folder, open_image, plain_labels
from continual.data.loaders import evaluation_loader, label_indices, training_loader
from continual.data.preprocessing import Preprocessing
from continual.errors import InputError

PLAIN = Preprocessing((16, 16), crop_scale=(0.3, 1.0))
BYTES = torch.arange(3 * 16 * 16, dtype=torch.uint8).reshape(3, 16, 16)


class Pairs(Dataset[Any]):
    """A data set of (image, label) pairs, as users write them."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.labels[index]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / name / "deep").mkdir(parents=True)
        for file in ("b.png", "a.JPG", "deep/c.webp", ".hidden.png"):
            Image.new("RGB", (20, 20), colour).save(tmp_path / name / file)
        (tmp_path / name / "notes.txt").touch()
    Image.new("RGB", (2, 2)).save(tmp_path / "stray.png")
    return tmp_path


# One image ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
def test_pictures_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (6, 4), "red").convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    picture.save(path)
    for raw in (picture, path, str(path)):
        opened = open_image(raw)
        assert isinstance(opened, Image.Image)
        assert (opened.mode, opened.size) == ("RGB", (6, 4))


def test_arrays_and_tensors_are_the_same_image() -> None:
    array = BYTES.permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(open_image(array)), array)
    assert open_image(BYTES) is not None
    views = [as_experience([raw], [0], PLAIN).evaluation[0][0] for raw in (BYTES, array, Image.fromarray(array))]
    assert all((view - views[0]).abs().max() < 0.02 for view in views)  # PIL and torch round otherwise


def test_grey_images_are_repeated() -> None:
    grey = open_image(BYTES[:1])
    assert isinstance(grey, Tensor)
    assert torch.equal(grey, BYTES[:1].expand(3, 16, 16))
    for array in (BYTES[0].numpy(), BYTES[0, :, :, None].numpy()):
        opened = open_image(array)
        assert isinstance(opened, Image.Image)
        assert opened.mode == "RGB"


@pytest.mark.parametrize(
    "raw",
    [
        None,
        3,
        b"bytes",
        np.zeros((4, 4)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        torch.zeros(2, 4, 4, dtype=torch.uint8),
        torch.zeros(3, 4, 4, dtype=torch.int64),
    ],
)
def test_things_that_are_not_images_are_refused(raw: Any) -> None:
    with pytest.raises(InputError, match=r"image 7 is an? .*give paths, PIL images"):
        open_image(raw, 7)


def test_files_that_are_not_images_are_named(tmp_path: Path, folder: Path) -> None:
    whole = (folder / "cat" / "b.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_bytes(b"no image")
    (tmp_path / "empty.png").touch()
    for name in ("cut.png", "text.png", "empty.png"):
        with pytest.raises(InputError, match=f"{name} is not a readable image"):
            open_image(tmp_path / name)
    with pytest.raises(InputError, match="no image at .*gone.png"):
        open_image(tmp_path / "gone.png")


def test_a_photo_is_seen_as_people_see_it(tmp_path: Path) -> None:
    """A camera held upright writes its picture lying, and says so beside it; opened once or twice it stands."""
    left_red = np.zeros((8, 16, 3), np.uint8)
    left_red[:, :8, 0] = 255
    about = Image.Exif()
    about[ExifTags.Base.Orientation] = 6  # to be turned clockwise by a quarter
    Image.fromarray(left_red).save(tmp_path / "turned.png", exif=about)
    seen = open_image(tmp_path / "turned.png")
    np.testing.assert_array_equal(np.asarray(seen), np.rot90(left_red, -1))
    np.testing.assert_array_equal(np.asarray(open_image(seen)), np.asarray(seen))
    with Image.open(tmp_path / "turned.png") as opened:
        np.testing.assert_array_equal(np.asarray(open_image(opened)), np.asarray(seen))


def test_exif_that_is_damaged_turns_nothing(tmp_path: Path) -> None:
    pixels = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)
    Image.fromarray(pixels).save(tmp_path / "odd.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "odd.png")), pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_of_16_bits_the_upper_8_are_seen(tmp_path: Path, suffix: str) -> None:
    wide = np.arange(0, 2**16, 512, dtype=np.uint16).reshape(8, 16)
    Image.fromarray(wide).save(tmp_path / f"grey{suffix}", **({"format": "PPM"} if suffix == ".pgm" else {}))
    seen = np.asarray(open_image(tmp_path / f"grey{suffix}"))
    np.testing.assert_array_equal(seen, np.repeat((wide // 256)[..., None], 3, axis=2))


def test_pixels_of_unknown_brightness_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "floats.tif")
    with pytest.raises(InputError, match=r"floats.tif .*32-bit numbers \(mode F\): save it with 8 or 16 bits"):
        open_image(tmp_path / "floats.tif")
    with pytest.raises(InputError, match="image 3 cannot be used: .*mode I"):
        open_image(Image.fromarray(np.full((4, 4), 70_000, np.int32)), 3)


def test_a_name_does_not_choose_the_decoder(tmp_path: Path) -> None:
    """What is opened is one of a few formats; one that Pillow hands to another program is not among them."""
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.jpg", format="EPS")
    with pytest.raises(InputError, match=r"photo.jpg is not a readable image \(JPEG, PNG, .*TIFF"):
        open_image(tmp_path / "photo.jpg")


# Folders -----------------------------------------------------------------------------------------------


def test_a_folder_names_its_classes(folder: Path) -> None:
    paths, labels = list_folder(folder)
    assert labels == ["cat"] * 3 + ["dog"] * 3
    assert [p.name for p in paths[:3]] == ["a.JPG", "b.png", "c.webp"]
    data = as_experience(folder, None, PLAIN)
    assert data.labels == labels
    assert data.training[5][0].shape == (3, 16, 16)


def test_every_unreadable_file_of_a_folder_is_named_before_anything_is_done(folder: Path) -> None:
    for name in ("cat/x.png", "dog/y.jpg"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"(?s)2 of 8 images cannot be read.*cat/x\.png.*dog/y\.jpg"):
        as_experience(folder, None, PLAIN)
    for i in range(12):
        (folder / "cat" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"(?s)14 of 20.*\(and 4 more\)"):
        as_experience(folder, None, PLAIN)


def test_folders_without_classes_or_images_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="no folder at"):
        list_folder(tmp_path / "gone")
    with pytest.raises(InputError, match="holds no images"):
        list_folder(folder / "cat" / "deep")
    with pytest.raises(InputError, match="leave labels out"):
        as_experience(folder, ["cat"], PLAIN)


# Labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        [1, 2],
        (1, 2),
        range(1, 3),
        np.array([1, 2], np.int8),
        torch.tensor([1, 2]),
        [np.int64(1), np.int32(2)],
        [torch.tensor(1), torch.tensor(2)],
    ],
)
def test_whole_numbers_of_every_kind_become_int(labels: Any) -> None:
    found = plain_labels(labels)
    assert found == [1, 2]
    assert {type(label) for label in found} == {int}


@pytest.mark.parametrize("labels", [["a", "b"], np.array(["a", "b"]), [np.str_("a"), "b"]])
def test_text_of_every_kind_becomes_str(labels: Any) -> None:
    found = plain_labels(labels)
    assert found == ["a", "b"]
    assert {type(label) for label in found} == {str}


@pytest.mark.parametrize("labels", [[1.0], [None], [True], [(1,)], [1, "a"], np.array([0.5]), torch.zeros(2, 2), 3])
def test_other_labels_are_refused(labels: Any) -> None:
    with pytest.raises(InputError, match="labels must be"):
        plain_labels(labels)


def test_label_indices_follow_the_classes() -> None:
    assert label_indices(["b", "a"], {"a": 0, "b": 1}).tolist() == [1, 0]
    with pytest.raises(InputError, match="class 9 was never learned; known: 0, 1, 2, 3, 4, 5, 6, 7, …"):
        label_indices([0, 9], {i: i for i in range(9)})
    with pytest.raises(InputError, match=r"class \[0\] was never learned; known: 0"):
        label_indices([[0]], {0: 0})  # type: ignore[list-item]


# Experiences -------------------------------------------------------------------------------------------


def test_a_data_set_of_pairs_is_an_experience() -> None:
    images = torch.stack([BYTES, BYTES])
    for data_set in (Pairs(images, ["x", "y"]), TensorDataset(images, torch.tensor([4, 5])), [(BYTES, 4), (BYTES, 5)]):
        data = as_experience(data_set, None, PLAIN)
        assert list(data.labels) in (["x", "y"], [4, 5])
        assert data.evaluation[1][1] in ("y", 5)
        assert data.evaluation[1][0].shape == (3, 16, 16)
        assert as_experience(data, None, PLAIN) is data


def test_finished_inputs_are_taken_as_they_are() -> None:
    floats = torch.rand(2, 3, 16, 16) - 0.5
    for given in (floats, list(floats), TensorDataset(floats, torch.tensor([0, 1]))):
        labels = None if isinstance(given, Dataset) else [0, 1]
        data = as_experience(given, labels, PLAIN)
        assert torch.equal(data.training[1][0], floats[1])
        assert torch.equal(data.evaluation[1][0], floats[1])


def test_finished_inputs_that_are_wrong_are_refused_wherever_they_come_from() -> None:
    wrong = torch.zeros(2, 3, 16, 17) - 1
    for given in (wrong, list(wrong)):
        with pytest.raises(InputError, match=r"takes \(B, 3, 16, 16\)"):
            as_experience(given, [0, 1], PLAIN)
    for lazy in (wrong, torch.full((2, 3, 16, 16), torch.nan)):
        data = as_experience(TensorDataset(lazy, torch.tensor([0, 1])), None, PLAIN, value_range="normalised")
        with pytest.raises(InputError, match=r"image 1: .*(takes \(B, 3, 16, 16\)|NaN)"):
            data.training[1]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (BYTES[None], [0, 1], "1 images but 2 labels"),
        (BYTES[None], None, "give labels, a folder of class folders, or a data set"),
        ([BYTES], None, r"\(image, label\) pairs: an item is a Tensor"),
        (["cat.png", "dog.png"], None, r"\(image, label\) pairs: an item is a str"),
        ([Image.new("RGB", (4, 4))], None, r"\(image, label\) pairs"),
        ({"image": BYTES}, None, "a mapping with the keys 'image'"),
        ([], [], "at least one image"),
        (BYTES, [0], r"image\[None\] for a single one"),
        (np.zeros((4, 4, 3), np.uint8), [0] * 4, "for a single one"),
        (torch.zeros(4), [0] * 4, r"give a batch"),
        (Image.new("RGB", (4, 4)), [0], r"\[image\] for a single one"),
        (7, [0], "must be a sequence"),
        (iter([BYTES]), [0], "must be a sequence"),
    ],
)
def test_input_that_is_no_experience_is_refused(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_experience(images, labels, PLAIN)


def test_a_path_alone_is_no_sequence_of_images() -> None:
    with pytest.raises(InputError, match=r"\[image\] for a single one"):
        as_images("cat.png")


# Loading -----------------------------------------------------------------------------------------------


def loaded(workers: int, epoch: int = 0, seed: int = 0, experience: int = 0) -> tuple[Tensor, list[Any]]:
    data = as_experience([BYTES.roll(i, 2) for i in range(6)], list("abcdef"), PLAIN)
    loader, sampler = training_loader(data.training, 4, seed, experience, num_workers=workers)
    sampler.epoch = epoch
    assert len(sampler) == 6
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), [label for batch in labels for label in batch]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_an_epoch_is_decided_by_seed_experience_and_number() -> None:
    images, labels = loaded(0)
    assert sorted(labels) == list("abcdef")
    for again in (loaded(0), loaded(1)):
        assert again[1] == labels
        assert torch.equal(again[0], images)
    orders = [loaded(0, **change)[1] for change in ({"epoch": 1}, {"seed": 1}, {"experience": 1})]
    assert len({tuple(order) for order in [labels, *orders]}) == 4


def test_augmentation_belongs_to_the_image_and_the_epoch() -> None:
    def of_a(epoch: int) -> Tensor:
        images, labels = loaded(0, epoch)
        return images[labels.index("a")]

    assert not torch.equal(of_a(0), of_a(1))


def test_the_evaluation_loader_keeps_the_order() -> None:
    data = as_experience([BYTES] * 5, list("badce"), PLAIN)
    assert [label for _, labels in evaluation_loader(data.evaluation, 2) for label in labels] == list("badce")


def test_pictures_that_are_left_out_are_warned_of(folder: Path) -> None:
    (folder / "cat" / "x.jxl").write_bytes(b"\xff\x0a")
    with pytest.warns(UserWarning, match=r"left out of .*1 JPEG XL"):
        data = as_experience(folder, None, PLAIN)
    assert len(data.labels) == 6
