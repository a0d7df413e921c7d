"""What the numbers of arrays and tensors mean, by dtype and range."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from continual.data.inputs import PreparedImages
from continual.data.preprocessing import Preprocessing
from continual.data.ranges import ValueRangeWarning
from continual.errors import InputError
from continual.testing import coloured_squares, tiny_backbone
from tests.field.case import Case
from tests.field.cases.b_containers import learned

SECTION = "Numbers and ranges"


def squares() -> tuple[Tensor, list[int]]:
    """A few uint8 images (B, 3, 16, 16) and their labels."""
    return coloured_squares([0, 1, 2], 4)


def normalised(images: Tensor) -> Tensor:
    """What the backbone's own evaluation makes of them."""
    return torch.stack([tiny_backbone().preprocessing.evaluation()(image) for image in images])


def same_answers(images: Any, reference: Tensor, **options: Any) -> None:
    """Learning and answering give the bits that they give for `reference`."""
    labels = squares()[1]
    given, expected = learned(images, labels, **options), learned(reference, labels)
    assert torch.equal(given.predict(images, **options).scores, expected.predict(reference).scores)


def _unit(folder: Path) -> None:
    images, labels = squares()
    unit = images / 255
    same_answers(unit, images, value_range="unit")
    same_answers(list(unit), images, value_range=(0, 1))
    with pytest.warns(ValueRangeWarning, match="within 0 and 1.*not as normalised.*value_range='unit'"):
        learner = learned(unit, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = learner.predict(unit)  # it remembers
        assert learner.evaluate(unit, labels) == 1
    assert torch.equal(found.scores, learned(images, labels).predict(images).scores)


def _remembered(folder: Path) -> None:
    import continual

    images, labels = squares()
    learner = learned(images / 255, labels, value_range="unit")
    learner.learn(images, labels)  # pictures change nothing in it
    learner.save(folder / "model", embed_backbone=True)
    read = continual.load(folder / "model")
    batch = read.predict(images / 255).scores
    assert torch.equal(batch, learner.predict(images / 255).scores)
    for row, image in enumerate(images / 255):
        torch.testing.assert_close(read.predict(image[None]).scores[0], batch[row])
    with pytest.raises(InputError, match=r"between -1 and .* but were 'unit' when learned: pass value_range="):
        read.predict(normalised(images))
    assert read.predict(normalised(images), value_range="normalised").labels == labels
    read.correct(images[:2] / 255, 1)
    bright = normalised(images).abs().clamp(0.1, 0.9)  # a normalised image with no negative number
    taken = learned(normalised(images), labels)
    with pytest.warns(ValueRangeWarning, match="taken as normalised, as when learned.*value_range='unit'"):
        found = taken.predict(bright)
    assert torch.equal(found.scores, taken.predict(bright, value_range="normalised").scores)


def _normalised(folder: Path) -> None:
    images, labels = squares()
    finished = normalised(images)
    same_answers(finished, images)
    same_answers(finished.permute(0, 2, 3, 1).numpy(), images)
    with pytest.raises(InputError, match=r"takes \(B, 3, 16, 16\)"):
        learned(finished[..., :12], labels)
    bright = finished.clamp(0.5) * 1.5
    with pytest.warns(ValueRangeWarning, match="no negative number, yet some above 1, and are taken as normalised"):
        learned(bright, labels)


def _bytes(folder: Path) -> None:
    images, labels = squares()
    with pytest.warns(ValueRangeWarning, match="within 0 and 255 and are taken as bytes"):
        learned(images.float(), labels)
    same_answers(images.double(), images, value_range="bytes")
    same_answers(
        images.permute(0, 2, 3, 1).numpy().astype(np.float32), images.permute(0, 2, 3, 1).numpy(), value_range="bytes"
    )  # type: ignore[arg-type]


def _no_range(folder: Path) -> None:
    images, labels = squares()
    for odd in (images.float() / 16, images.float() * 100, images.float() - 128):
        with pytest.raises(InputError, match=r"lie between .*no common range: pass value_range='normalised', 'unit'"):
            learned(odd, labels)
    with pytest.raises(InputError, match="value_range must be 'normalised'.*got 'imagenet'"):
        learned(images, labels, value_range="imagenet")
    with pytest.raises(InputError, match="image 0 has numbers from .* which is not the range 'unit'"):
        learned(normalised(images), labels, value_range="unit")


def _stated(folder: Path) -> None:
    images, labels = squares()
    twelve_bits = (images.int() * 16).numpy().astype(np.uint16)
    learner = learned(twelve_bits, labels, value_range=(0, 4080))
    assert learner.state.value_range == "0..4080"
    torch.testing.assert_close(
        learner.predict(twelve_bits).scores, learned(images, labels).predict(images).scores, atol=0.02, rtol=0
    )
    assert learner.predict(twelve_bits.astype(np.float64)).labels == labels
    assert learner.predict(np.asfortranarray(twelve_bits.astype(">u2")[..., ::-1])[..., ::-1]).labels == labels


def _integers(folder: Path) -> None:
    images, labels = squares()
    for dtype in (torch.int16, torch.int32, torch.int64):
        with pytest.raises(InputError, match="whole numbers that are not uint8: pass value_range='bytes'"):
            learned(images.to(dtype), labels)
        same_answers(images.to(dtype), images, value_range="bytes")


def _wide_floats(folder: Path) -> None:
    images, labels = squares()
    finished = normalised(images)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        given = finished.to(dtype)
        learner = learned(given, labels)
        assert torch.equal(learner.predict(given).scores, learned(given.float(), labels).predict(given.float()).scores)
    assert learned(finished.numpy().astype(np.float64), labels).predict(finished).labels == labels


def _infinite(folder: Path) -> None:
    images, labels = squares()
    finished = normalised(images)
    for value in (np.nan, np.inf):
        spoiled = finished.clone()
        spoiled[-1, 0, 0, 0] = value
        for given in (spoiled, list(spoiled), spoiled.numpy()):
            with pytest.raises(InputError, match="NaN or infinite"):
                learned(given, labels)


def _grey(folder: Path) -> None:
    images, labels = squares()
    grey = images[:, :1]
    expected = grey.expand(-1, 3, -1, -1)
    same_answers(grey, expected)
    same_answers(list(grey[:, 0]), expected)
    same_answers(grey / 255, expected, value_range="unit")
    arrays = grey.permute(0, 2, 3, 1).numpy()
    reference: Any = np.repeat(arrays, 3, 3)
    for given in (arrays, arrays[..., 0], grey.numpy()):
        same_answers(given, reference)
    with pytest.raises(InputError, match=r"images\[:, None\] for grey ones"):
        learned(grey[:, 0], labels)


def _layouts(folder: Path) -> None:
    images, _ = squares()
    arrays: Any = images.permute(0, 2, 3, 1).numpy()
    same_answers(images.numpy(), arrays)  # channels first, as numpy
    same_answers(torch.from_numpy(arrays), images)  # channels last, as a tensor
    same_answers(arrays[:, :, :, ::-1][..., ::-1], arrays)  # strides below 0, as BGR to RGB gives
    with_alpha = torch.cat([images, torch.full_like(images[:, :1], 255)], 1)
    same_answers(with_alpha, arrays)
    for one in (images[0], images[0].numpy(), arrays[0]):
        with pytest.raises(InputError, match=r"image\[None\] for a single one"):
            learned(one, [0])


def _truth_values(folder: Path) -> None:
    images, _ = squares()
    marks = images > 127
    same_answers(marks, marks.to(torch.uint8) * 255)
    arrays: Any = marks.permute(0, 2, 3, 1).numpy()
    same_answers(arrays, arrays.astype(np.uint8) * 255)


def _part_of_a_data_set(folder: Path) -> None:
    images, labels = squares()
    floats = images / 255
    floats[5] = floats[5] * 2 - 1
    data = torch.utils.data.TensorDataset(floats[[0, 1, 2, 3, 4, *[6] * 60, 5]], torch.tensor([0] * 66))
    with pytest.warns(ValueRangeWarning), pytest.raises(InputError, match=r"image 65 has numbers from -.*'unit'"):
        learned(data)
    mixed = [images[0], floats[1]]
    with pytest.warns(ValueRangeWarning, match="within 0 and 1"):
        assert learned(mixed, labels[:2]).state.value_range == "unit"


def _other_channels(folder: Path) -> None:
    five = Preprocessing((16, 16), mean=(0.5,) * 5, std=(0.25,) * 5)
    images, _ = squares()
    given = torch.cat([images, images[:, :2]], 1)

    def prepared(raw: Any, value_range: str | None = None) -> Tensor:
        every = PreparedImages(raw, [0] * len(raw), five, augment=False, value_range=value_range)
        return torch.stack([image for image, _ in every])  # type: ignore[attr-defined]

    expected = torch.stack([five.evaluation()(image) for image in given])
    assert torch.equal(prepared(given), expected)
    assert torch.equal(prepared(given.permute(0, 2, 3, 1).numpy()), expected)
    assert torch.equal(prepared(given / 255, "unit"), expected)
    assert torch.equal(prepared(expected), expected)
    wide = given.numpy().astype(np.uint16) * 257
    # Bytes are rounded and cut off twice when they are resized.
    assert (prepared(wide, "0..65535") - expected).abs().mean() < 0.01
    with pytest.raises(InputError, match="the 5 channels that the backbone takes"):
        prepared(images)
    with pytest.raises(InputError, match=r"the backbone takes 5 channels, and pictures have three"):
        prepared([Image.new("RGB", (16, 16))])


def _one_channel(folder: Path) -> None:
    one = Preprocessing((16, 16), mean=(0.5,), std=(0.5,))
    images, _ = squares()
    grey = images.float().mean(1, keepdim=True).to(torch.uint8)
    given: list[Any] = [grey[0], grey[0, 0].numpy(), images[0], images[0].permute(1, 2, 0).numpy()]
    found = PreparedImages(given, [0] * 4, one, augment=False)
    assert [found[i][0].shape for i in range(4)] == [(1, 16, 16)] * 4
    assert all((found[i][0] - found[0][0]).abs().mean() < 0.2 for i in range(4))


def _scikit_learn(folder: Path) -> None:
    from continual.sklearn import ContinualClassifier

    images, labels = squares()
    model = ContinualClassifier(tiny_backbone(), method="simple_cil", value_range="unit")
    unit = (images / 255).numpy()
    assert model.fit(unit, labels).score(unit, labels) == 1
    plain = ContinualClassifier(tiny_backbone(), method="simple_cil").fit(images.numpy(), labels)
    assert np.array_equal(model.predict_proba(unit), plain.predict_proba(images.numpy()))


TO_TENSOR = "ToTensor without Normalize is the commonest pipeline of torch, and was read as normalised"

CASES = [
    Case(
        SECTION,
        "uint8 and bool, any layout: (H, W, 3), (3, H, W), with alpha, as tensor or array, any strides",
        "0 to 255, and black or white; resized, cropped and normalised. The channels are last in numpy's images if "
        "they can be, first in torch's; the other order is seen where it is the only one",
        "BGR to RGB gives strides below 0, read_image four channels, .numpy() channels first",
        lambda folder: (_layouts(folder), _truth_values(folder))[0],
    ),
    Case(
        SECTION,
        "grey arrays and tensors: (H, W), (1, H, W), (H, W, 1)",
        "repeated to three channels. A tensor (B, H, W) is refused: it might be one image",
        "MNIST's .data is (B, 28, 28)",
        _grey,
    ),
    Case(
        SECTION,
        "floats from 0 to 1 (`ToTensor`)",
        "with `value_range='unit'` the same bits as uint8; without, the same, and one warning that says so",
        TO_TENSOR,
        _unit,
    ),
    Case(
        SECTION,
        "floats with numbers below 0",
        "normalised: the backbone's inputs as they are, of its size. Without negative numbers, but some above 1: the "
        "same, with a warning; `value_range='normalised'` says it",
        TO_TENSOR,
        _normalised,
    ),
    Case(
        SECTION,
        "floats from 0 to 255",
        "with `value_range='bytes'` the same bits as uint8; without, the same and one warning",
        "np.float32(image) without a division",
        _bytes,
    ),
    Case(
        SECTION,
        "floats from 0 to 16, to 25500, or from -128 to 127",
        "refused until `value_range` says what they are; so are numbers outside the range stated",
        "scikit-learn's digits go from 0 to 16, Caffe's inputs from -128",
        _no_range,
    ),
    Case(
        SECTION,
        "the range that was stated or guessed when learning",
        "is remembered, in the model file too, for every later `learn`, `predict`, `evaluate` and `correct`: a single "
        "image is read as its batch is. Numbers that cannot be of it are refused; `value_range` overrules it once",
        "a bright image alone is guessed otherwise than in its batch",
        _remembered,
    ),
    Case(
        SECTION,
        "uint16 and other integers with `value_range=(black, white)`",
        "read in full precision, what lies outside is cut off; so are floats of such a range",
        "12-bit sensors and reflectances up to 10,000 in uint16",
        _stated,
    ),
    Case(
        SECTION,
        "integers other than uint8 without a range",
        "refused; the error names `value_range='bytes'` and a pair",
        "np.array of lists is int64",
        _integers,
    ),
    Case(
        SECTION,
        "float64, float16 and bfloat16",
        "the same as float32 of these numbers",
        "expected Float but found Double, in the first layer",
        _wide_floats,
    ),
    Case(
        SECTION,
        "NaN or infinity in one image of many",
        "one error before anything is learned",
        "a division by a zero standard deviation",
        _infinite,
    ),
    Case(
        SECTION,
        "a data set whose images are floats",
        "32 of its images say the range; another that does not fit is refused with its number",
        "one augmentation that normalises, among others that do not",
        _part_of_a_data_set,
    ),
    Case(
        SECTION,
        "images of 5 channels, for a backbone that takes 5",
        "arrays (B, C, H, W) and (B, H, W, C) of every dtype above; pictures and other numbers of channels are refused",
        "multispectral images and in_chans",
        _other_channels,
    ),
    Case(
        SECTION,
        "a backbone that takes one channel",
        "pictures of three become grey",
        "X-rays and in_chans=1",
        _one_channel,
    ),
    Case(
        SECTION,
        "`ContinualClassifier(value_range=...)`",
        "the same rules for fit, predict and score",
        TO_TENSOR,
        _scikit_learn,
    ),
]
