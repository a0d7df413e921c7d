"""Resizing and cutting out: with a group by even margins and in one pose; of a thread of pixels its middle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from continual import SimpleCILLearner
from continual.backbones.loading import Backbone
from continual.data.framing import MOST_RATIO, Pose, middle, pose_of, sides
from continual.data.preprocessing import Preprocessing
from continual.testing import coloured_squares, tiny_backbone
from tests.support.odd_files import LEFT_RED

ODD_SIZES = [(1, 1), (2, 3), (85, 64), (64, 85), (33, 47), (31, 31), (97, 23), (16, 16), (120, 7), (57, 56)]
D4 = [Pose(swap, rows, columns) for swap in (False, True) for rows in (False, True) for columns in (False, True)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 70), st.sampled_from([0.8, 0.875, 0.9, 1.0]))
def test_with_a_group_margins_are_even_on_both_sides(height: int, width: int, size: int, crop: float) -> None:
    found = sides((height, width), (size, size), crop, even=True)
    assert [(have - size) % 2 for have in found] == [0, 0]
    assert all(have >= size for have in found)


@pytest.mark.parametrize("pose", D4, ids=str)
def test_a_pose_is_undone_and_does_not_depend_on_how_the_picture_was_given(pose: Pose) -> None:
    for shape in ODD_SIZES:
        picture = noise(*shape)
        np.testing.assert_array_equal(pose.back().turn(pose.turn(picture)), picture)
        tensor = pose.turn(torch.from_numpy(picture)).numpy()
        np.testing.assert_array_equal(tensor, pose.turn(picture))
        for given_ in (picture, np.zeros_like(picture), picture // 128 * 255):
            turned = pose.turn(given_)
            expected = pose_of(given_, square=True).turn(given_)
            np.testing.assert_array_equal(pose_of(turned, square=True).turn(turned), expected)


@pytest.mark.parametrize(("size", "crop"), [((16, 16), 0.875), ((33, 33), 0.9), ((56, 56), 0.875), ((16, 24), 0.9)])
def test_a_rotated_picture_becomes_the_rotated_input(size: tuple[int, int], crop: float) -> None:
    view = Preprocessing(size, crop_pct=crop).for_a_group().evaluation()
    for shape in ODD_SIZES:
        upright = view(Image.fromarray(noise(*shape)))
        for pose in D4 if size[0] == size[1] else D4[:4]:
            given_ = pose.turn(noise(*shape)).copy()
            expected = pose.turn(upright.permute(1, 2, 0)).permute(2, 0, 1)
            assert torch.equal(view(Image.fromarray(given_)), expected)
            as_tensor = torch.from_numpy(given_).permute(2, 0, 1)
            both = view(torch.from_numpy(noise(*shape)).permute(2, 0, 1)), view(as_tensor)
            assert torch.equal(pose.turn(both[0].permute(1, 2, 0)).permute(2, 0, 1), both[1])


def test_without_a_group_nothing_changed() -> None:
    from torchvision.transforms import v2

    plain = Preprocessing((56, 56), mean=(0.4, 0.5, 0.6))
    before = v2.Compose([*plain.evaluation().transforms[1:]])
    for shape in ODD_SIZES:
        picture = Image.fromarray(noise(*shape))
        assert torch.equal(plain.evaluation()(picture), before(picture))
    assert asdict(plain) == asdict(plain.for_a_group())
    assert (plain.posed, plain.for_a_group().posed) == (False, True)


@pytest.mark.parametrize("kind", ["equitune", "score_averaging"])
def test_the_answer_to_a_rotated_file_is_the_same_bits(tmp_path: Path, kind: str) -> None:
    learner = SimpleCILLearner(tiny_backbone(), group="D4", symmetry=kind)
    learner.learn(*coloured_squares(range(3), 3))
    for shape in ODD_SIZES:
        files = []
        for number, pose in enumerate(D4):
            files.append(tmp_path / f"{shape[0]}_{shape[1]}_{number}.png")
            Image.fromarray(pose.turn(noise(*shape)).copy()).save(files[-1])
        scores = torch.cat([learner.predict([file]).scores for file in files])
        assert torch.equal(scores, scores[:1].expand_as(scores)), shape


def test_of_a_thread_the_middle_is_taken(backbone: Backbone) -> None:
    assert middle((1, 1_000_000)) == (0, 499_984, 1, 32)
    assert middle((3, 3 * MOST_RATIO)) == (0, 0, 3, 3 * MOST_RATIO)
    for long in (1001, 1002):
        top, left, height, width = middle((long, 3))
        assert (left, width, (long - height) % 2, top) == (0, 3, 0, (long - height) // 2)
    thread = np.zeros((1, 1_000_000, 3), np.uint8)
    thread[:, 499_900:500_100] = LEFT_RED[0, 0]
    for posed in (backbone.preprocessing, backbone.preprocessing.for_a_group()):
        for given_ in (Image.fromarray(thread), torch.from_numpy(thread).permute(2, 0, 1)):
            found = posed.evaluation()(given_)
            assert found.shape == (3, *posed.size)
            assert torch.equal(found, found[:, :1, :1].expand_as(found))
