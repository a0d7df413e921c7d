"""One picture as the inputs of several backbones."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from continual.data.canvas import JoinedPreprocessing
from continual.data.preprocessing import Preprocessing
from continual.errors import BackboneError
from continual.testing import coloured_squares

SMALL = Preprocessing((14, 14), mean=(0.5, 0.5, 0.5), std=(0.2, 0.3, 0.4), crop_pct=1.0)
LARGE = Preprocessing((24, 24), interpolation="bilinear")
BOTH = JoinedPreprocessing.of([SMALL, LARGE])


def picture(height: int = 40, width: int = 31) -> Image.Image:
    draw = torch.Generator().manual_seed(0)
    return Image.fromarray(torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=draw).numpy())


def test_each_input_is_the_backbones_own_to_the_bit() -> None:
    found = BOTH.evaluation()(picture())
    assert found.shape == BOTH.shape == (6, 24, 24)
    assert BOTH.channels == 3
    small, large = BOTH.cut(found[None])
    assert torch.equal(small[0], SMALL.evaluation()(picture()))
    assert torch.equal(large[0], LARGE.evaluation()(picture()))
    BOTH.check(found[None])
    with pytest.raises(ValueError, match=r"takes \(B, 6, 24, 24\), got \(1, 3, 24, 24\)"):
        BOTH.check(large)


@pytest.mark.parametrize("group", [False, True])
def test_turning_the_canvas_turns_every_input(group: bool) -> None:
    both = BOTH.for_a_group() if group else BOTH
    assert both.posed is group
    found = both.evaluation()(picture(30, 30))[None]
    for turned in (found.rot90(1, (-2, -1)), found.flip(-1), found.rot90(3, (-2, -1)).flip(-2)):
        assert turned.shape == found.shape
    for own, each in zip(both.cut(found), both.cut(found.rot90(1, (-2, -1)).flip(-1)), strict=True):
        assert torch.equal(own.rot90(1, (-2, -1)).flip(-1), each)
    if group:  # a picture that is turned gives the input turned
        turned_picture = picture(30, 30).transpose(Image.Transpose.ROTATE_90)
        assert torch.equal(both.evaluation()(turned_picture)[None], found.rot90(1, (-2, -1)))


def test_all_see_one_crop_of_a_training_image() -> None:
    """Left and right of a picture differ: what one backbone sees of it, the other does too."""
    both = JoinedPreprocessing.of([Preprocessing((16, 16)), Preprocessing((16, 16), interpolation="bilinear")])
    image, view = coloured_squares([0], 1)[0][0], both.training()
    views = []
    for seed in range(6):
        torch.manual_seed(seed)
        views.append(view(image))
        assert (views[-1][:3] - views[-1][3:]).abs().mean() < 0.1  # but for the interpolation
    assert (views[0] - views[1]).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([(14, 14), (25, 25)], "differ by even numbers"),
        ([(14, 14), (24, 16)], "are square"),
        ([(24, 16), (16, 24)], "all of one size"),
    ],
)
def test_inputs_that_have_no_common_middle_are_refused(sizes: list[tuple[int, int]], said: str) -> None:
    with pytest.raises(BackboneError, match=said):
        JoinedPreprocessing.of([Preprocessing(size) for size in sizes])


def test_inputs_of_one_size_need_not_be_square() -> None:
    both = JoinedPreprocessing.of([Preprocessing((24, 17)), Preprocessing((24, 17), mean=(0.1, 0.1, 0.1))])
    assert both.evaluation()(picture()).shape == (6, 24, 17)


def test_pictures_of_other_channels_are_refused() -> None:
    with pytest.raises(BackboneError, match="take 3, 1 channels"):
        JoinedPreprocessing.of([SMALL, Preprocessing((14, 14), mean=(0.5,), std=(0.5,))])
