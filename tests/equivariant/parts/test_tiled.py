"""Large pictures in windows: exact for every shape, blended without a seam, and never held more than once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.actions import motion_of
from equivariant.detection.moving import moved_image
from equivariant.parts.tiled import starts
from tests.support.zoo import Micro, Several, TinyUNet, seeded


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double()


def moved(group: eq.FiniteGroup, g: int, x: Tensor) -> Tensor:
    return torch.stack([moved_image(motion_of(group, g), one) for one in x])


@pytest.mark.parametrize("shape", [(24, 24), (23, 30), (17, 8), (7, 5), (8, 8), (3, 20)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"overlap": 0, "batch": 3}, pytest.param({"overlap": 7, "padding": "zeros"}, marks=pytest.mark.slow)],
    ids=str,
)
def test_maps_of_any_picture_move_with_it(shape: tuple[int, int], options: dict[str, Any]) -> None:
    model = eq.Tiled(
        eq.Equitune(seeded(TinyUNet).double().eval(), "D4", output=eq.Maps()), 8, output=eq.Maps(), **options
    )
    group, x = eq.as_group("D4"), picture(2, 3, *shape)
    expected = model(x)
    assert expected.shape == (2, 4, *shape)
    for g in range(group.order):
        torch.testing.assert_close(model(moved(group, g, x)), moved(group, g, expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 6), (13, 20)], ids=str)
def test_scores_of_any_picture_stay(shape: tuple[int, int]) -> None:
    model = eq.Tiled(eq.Equitune(seeded(Micro).double().eval(), "D4"), 6, output=eq.Trivial())
    group, x = eq.as_group("D4"), picture(2, 3, *shape)
    for g in range(group.order):
        torch.testing.assert_close(model(moved(group, g, x)), model(x), rtol=1e-12, atol=1e-12)


def test_several_answers_come_back_as_they_are_held() -> None:
    output = {"map": eq.Maps(), "pair": (eq.Maps(), eq.Trivial())}
    found = eq.Tiled(seeded(Several).double().eval(), 8, output=output)(picture(1, 3, 9, 12))
    assert found["map"].shape == (1, 4, 9, 12)
    assert [tuple(part.shape) for part in found["pair"]] == [(1, 2, 9, 12), (1, 4)]


def test_what_each_pixel_says_alone_is_not_changed_by_windows() -> None:
    """Weights of windows sum to one at every pixel, the first and the last too."""
    for shape in ((31, 20), (5, 9)):
        for overlap in (0, 3, 7):
            x = picture(1, 3, *shape)
            model = eq.Tiled(nn.Identity(), 8, overlap=overlap, output=eq.Maps())
            torch.testing.assert_close(model(x), x, rtol=1e-12, atol=1e-12)


def test_one_window_is_the_model() -> None:
    model, x = seeded(TinyUNet).double().eval(), picture(2, 3, 8, 8)
    torch.testing.assert_close(eq.Tiled(model, 8, output=eq.Maps())(x), model(x), rtol=1e-12, atol=1e-12)


def test_windows_that_overlap_leave_no_seam() -> None:
    """Where each window says something else, what is said changes slowly, not at once."""

    class Counts(nn.Module):
        seen = 0

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return torch.full_like(x[:, :1], self.seen)

    def jump(overlap: int) -> float:
        found = eq.Tiled(Counts().eval(), 32, overlap=overlap, output=eq.Maps())(picture(1, 3, 32, 128))
        return float(found.diff(dim=-1).abs().max())

    assert jump(0) == 1
    assert jump(16) < 0.15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_many_windows_are_summed_wide(dtype: torch.dtype) -> None:
    """A sum of ones in bfloat16 ends at 256, one in float16 at 2048."""

    class Ones(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.new_ones(len(x), 1), torch.ones_like(x)

    x = torch.zeros(1, 1, 64, 64, dtype=dtype)
    output = (eq.Trivial(), eq.Maps())
    scores, _ = eq.Tiled(Ones(), 1, overlap=0, output=output, batch=64)(x)
    _, maps = eq.Tiled(Ones(), 16, overlap=12, output=output)(x)
    for found in (scores, maps):
        assert found.dtype == dtype
        assert (found == 1).all()


def test_a_picture_may_stay_in_whole_numbers() -> None:
    x = (picture(1, 3, 20, 13) * 255).to(torch.uint8)
    model = seeded(TinyUNet).double().eval()
    found = eq.Tiled(model, 8, output=eq.Maps(), prepare=lambda window: window.double() / 255)(x)
    torch.testing.assert_close(found, eq.Tiled(model, 8, output=eq.Maps())(x.double() / 255))


def test_few_windows_are_seen_at_once() -> None:
    class Sizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[int, ...]] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(tuple(x.shape))
            return x

    model = Sizes()
    eq.Tiled(model, 8, overlap=0, output=eq.Maps(), batch=3)(picture(1, 3, 16, 32))
    assert model.seen == [(3, 3, 8, 8), (3, 3, 8, 8), (2, 3, 8, 8)]


def test_places_are_symmetric_cover_everything_and_are_few() -> None:
    for tile in range(1, 8):
        for overlap in range(tile):
            for side in range(1, 50):
                places = starts(side, tile, overlap)
                assert places == [side - tile - start for start in reversed(places)]
                assert {i for start in places for i in range(start, start + tile)} >= set(range(side))
                if side >= tile:
                    assert places[0] == 0
                    assert all(0 < after - before <= tile - overlap for before, after in pairwise(places))
                fewest = 1 + max(0, -(-(side - tile) // (tile - overlap)))
                assert len(places) <= fewest + 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tile": 0}, "tile=0 must be at least 1"),
        ({"tile": 8, "overlap": 8}, "overlap=8 0 or more"),
        ({"tile": 8, "batch": 0}, "batch=0 must be"),
        ({"tile": 8, "padding": "mirror"}, "choose one of replicate, zeros"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(eq.InputError, match=said):
        eq.Tiled(nn.Identity(), **options)


def test_what_cannot_be_put_together_is_refused() -> None:
    x = picture(1, 3, 16, 16)
    with pytest.raises(eq.InputError, match=r"pictures are \(B, C, H, W\)"):
        eq.Tiled(nn.Identity(), 8)(x[0])
    with pytest.raises(eq.InputError, match="for windows of 8 pixels: interpolate it to"):
        eq.Tiled(nn.AvgPool2d(2), 8, output=eq.Maps())(x)
    with pytest.raises(eq.InputError, match="as Maps\\(\\) or Trivial\\(\\), and Tokens"):
        eq.Tiled(nn.Flatten(2), 8, output=eq.Tokens())(x)
    with pytest.raises(eq.InputError, match="answers of torch.int64 cannot be averaged"):
        eq.Tiled(nn.Identity(), 8, output=eq.Maps())(x.long())
