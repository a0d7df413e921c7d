"""Actions: act(g, act(h, x)) = act(gh, x) for every pair, on every kind of tensor."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equivariant.actions import Action, Images, Maps, Masks, Regular, Tokens, Trivial, VectorField, act
from equivariant.coordinates import Boxes, Keypoints
from equivariant.errors import InputError
from equivariant.groups import FiniteGroup, as_group, from_generators
from equivariant.motions import Motion
from tests.support.zoo import GROUPS

EXACT = [*GROUPS, "C2 x channels3"]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def boxes() -> Tensor:
    low = random(2, 5, 2).abs()
    return torch.cat([low, low + random(2, 5, 2, seed=1).abs()], dim=-1)


def cases(group: FiniteGroup) -> dict[str, tuple[Action, Tensor]]:
    return {
        "images": (Images(), random(2, 3, 6, 6)),
        "odd images": (Images(), random(2, 3, 5, 5)),
        "maps": (Maps(), random(2, 7, 4, 4)),
        "masks": (Masks(), random(2, 6, 6).mul(9).to(torch.uint8)),
        "tokens": (Tokens(), random(2, 9, 4)),
        "tokens with a class token and registers": (Tokens(prefix=5), random(2, 5 + 16, 3)),
        "scores": (Trivial(), random(2, 10)),
        "regular": (Regular(), random(2, 3 * group.order)),
        "regular field": (Regular(spatial=True), random(2, 2 * group.order, 4, 4)),
        "vector field": (VectorField(), random(2, 4, 4, 4)),
        "points": (Keypoints(8, 8), random(2, 17, 2)),
        "boxes": (Boxes(8, 8), boxes()),
    }


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", cases(as_group("C1")))
def test_composition_over_every_pair(name: str, kind: str) -> None:
    group = as_group(name)
    action, x = cases(group)[kind]
    assert_same = torch.testing.assert_close if kind in ("points", "boxes") else _assert_equal
    assert_same(action(group, group.identity, x), x)
    for g, h in product(range(group.order), repeat=2):
        assert_same(action(group, g, action(group, h, x)), action(group, group.product(g, h), x))
    for g in range(group.order):
        assert_same(action(group, group.inverse(g), action(group, g, x)), x)


def _assert_equal(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype
    assert torch.equal(a, b)


def test_turns_are_counter_clockwise_and_mirrors_are_what_they_say() -> None:
    x = torch.tensor([[[[1, 2], [3, 4]]]])
    expected = {
        "e": [[1, 2], [3, 4]],
        "r90": [[2, 4], [1, 3]],
        "r180": [[4, 3], [2, 1]],
        "r270": [[3, 1], [4, 2]],
        "mirror_h": [[2, 1], [4, 3]],
        "mirror_v": [[3, 4], [1, 2]],
        "mirror_d": [[1, 3], [2, 4]],
        "mirror_a": [[4, 2], [3, 1]],
    }
    for element, rows in expected.items():
        assert act("D4", element, x)[0, 0].tolist() == rows, element


def test_channels_go_where_the_permutation_says() -> None:
    group = as_group("channel_cycle3")
    x = torch.arange(3.0).reshape(1, 3, 1, 1)
    assert act(group, 1, x).flatten().tolist() == [2.0, 0.0, 1.0]


def test_points_boxes_and_vectors_follow_the_pixels() -> None:
    """The one bright pixel, a point on its centre, a box around it and an arrow towards it move together."""
    group = as_group("D4")
    picture, row, column = torch.zeros(1, 1, 6, 6), 1, 4
    picture[0, 0, row, column] = 1
    point = torch.tensor([[[column + 0.5, row + 0.5]]])
    box = torch.tensor([[[column, row, column + 1.0, row + 1.0]]])
    field = (point - 3).reshape(1, 2, 1, 1).expand(1, 2, 6, 6)
    for g in range(group.order):
        (new_row, new_column) = (act(group, g, picture)[0, 0] == 1).nonzero()[0].tolist()
        centre = Keypoints(6, 6)(group, g, point)[0, 0]
        assert centre.tolist() == [new_column + 0.5, new_row + 0.5]
        assert Boxes(6, 6)(group, g, box)[0, 0].tolist() == [new_column, new_row, new_column + 1, new_row + 1]
        assert torch.equal(VectorField()(group, g, field)[0, :, 0, 0], centre - 3)


def test_points_and_interpolated_pictures_agree_on_the_angle() -> None:
    group, size = as_group("C8"), 33
    picture = torch.zeros(1, 1, size, size)
    picture[0, 0, 6:9, 20:23] = 1
    points = torch.tensor([[[21.5, 7.5]]])
    columns, rows = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="xy")
    for g in range(group.order):
        turned = act(group, g, picture)[0, 0]
        centre = torch.stack([(turned * columns).sum(), (turned * rows).sum()]) / turned.sum()
        torch.testing.assert_close(centre, Keypoints(size, size)(group, g, points)[0, 0], atol=0.05, rtol=0)


def test_interpolated_turns_are_close_to_an_action_and_a_circle_helps() -> None:
    x = torch.nn.functional.interpolate(random(1, 3, 4, 4), size=(48, 48), mode="bicubic")
    group = as_group("C8")

    def worst(action: Maps) -> float:
        return max(
            float((action(group, g, action(group, h, x)) - action(group, group.product(g, h), x)).abs().mean())
            for g, h in product(range(group.order), repeat=2)
        )

    scale = float(x.abs().mean())
    assert worst(Images(crop="circle")) < 0.05 * scale < worst(Images())


def test_interpolation_never_makes_new_labels() -> None:
    mask = random(1, 9, 9).mul(4).to(torch.int64)
    mask[mask != 0] *= 100
    for action in (Masks(), Maps()):
        turned = act("C8", "r45", mask, action)
        assert turned.dtype == torch.int64
        assert set(turned.unique().tolist()) <= set(mask.unique().tolist()) | {0}
    assert set(act("C8", "r45", mask.float(), Masks()).unique().tolist()) <= set(mask.unique().tolist()) | {0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_interpolation_keeps_the_dtype(dtype: torch.dtype) -> None:
    x = random(1, 2, 9, 9)
    turned = act("C8", "r45", x.to(dtype))
    assert turned.dtype == dtype
    torch.testing.assert_close(turned.float(), act("C8", "r45", x), atol=2e-2, rtol=2e-2)


def test_non_square_images_are_refused_by_quarter_turns_alone() -> None:
    x = random(1, 3, 4, 6)
    for name in ("C2", "mirror_h", "mirror_v", "D2"):
        assert act(name, 1, x).shape == x.shape
    for name, element in (("C4", "r90"), ("D4", "mirror_d"), ("C8", "r45")):
        with pytest.raises(InputError, match=f"{element} needs a square, not 4 x 6"):
            act(name, element, x)
    with pytest.raises(InputError, match="needs a square, not 4 x 6"):
        act("C4", "r90", random(1, 2, 2), Keypoints(4, 6))


@pytest.mark.parametrize(
    ("action", "shape", "message"),
    [
        (Images(), (3, 4, 4), r"\(B, C, H, W\), but this tensor has shape \(3, 4, 4\)"),
        (Maps(), (2, 10), r"output=Trivial\(\)"),
        (Tokens(), (2, 10, 4), r"prefix=…"),
        (Tokens(prefix=1, grid=(2, 2)), (2, 10, 4), "2 x 2"),
        (Tokens(), (2, 4), r"\(B, N, D\)"),
        (Regular(), (2, 7), r"C·8"),
        (VectorField(), (2, 3, 4, 4), r"2·C"),
        (Keypoints(4, 4), (2, 3), r"\(…, 2\)"),
        (Boxes(4, 4), (2, 2), r"\(…, 4\)"),
    ],
)
def test_wrong_shapes_say_what_is_right(action: Action, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        act("D4", "r90", random(*shape), action)


def test_other_refusals() -> None:
    with pytest.raises(InputError, match="permutes 3 channels, but the images have 4"):
        act("channels3", 1, random(1, 4, 2, 2))
    with pytest.raises(InputError, match="slanted"):
        act("C8", "r45", boxes(), Boxes(8, 8))
    with pytest.raises(InputError, match="interpolation='cubic' is unknown"):
        Images(interpolation="cubic")  # type: ignore[arg-type]
    abstract = FiniteGroup("swap", ("e", "s"), ((0, 1), (1, 0)))
    with pytest.raises(InputError, match="element s of swap is 's'"):
        act(abstract, "s", random(1, 3, 4, 4))


def test_an_action_of_your_own_for_a_group_of_your_own() -> None:
    class Negate(Action):
        def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
            return -x if group.names[g] == "s" else x

    swap = FiniteGroup("swap", ("e", "s"), ((0, 1), (1, 0)))
    assert torch.equal(act(swap, "s", random(2, 3), Negate()), -random(2, 3))


def test_motion_names_are_unique_in_large_groups() -> None:
    motions = [Motion(Fraction(k, 360), mirror) for mirror in (False, True) for k in range(360)]
    assert len({motion.name for motion in motions}) == 720


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.builds(
            Motion,
            st.sampled_from([Fraction(k, 4) for k in range(4)]),
            st.booleans(),
            st.permutations(range(3)).map(tuple),
        ),
        min_size=1,
        max_size=2,
    )
)
def test_whatever_motions_generate_is_a_group_that_acts(motions: list[Motion]) -> None:
    group = from_generators("generated", motions)
    x = torch.arange(48).reshape(1, 3, 4, 4)
    assert 48 % group.order == 0
    for g in [group.elements.index(motion) for motion in motions]:
        for h in range(group.order):
            _assert_equal(act(group, g, act(group, h, x)), act(group, group.product(g, h), x))
