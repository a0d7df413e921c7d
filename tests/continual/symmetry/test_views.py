"""The order of an image's views: their content alone decides it, in whole numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from continual.errors import InputError
from continual.symmetry import views as views_module
from continual.symmetry.views import (
    _noise,
    best_first,
    content_keys,
    content_order,
    descending,
    group_named,
    transformed,
)
from equivariant.orbits import orbit

every_picture = given(
    st.sampled_from(["C4", "D4", "C2", "mirror_h"]),
    st.integers(0, 2**16),
    st.sampled_from(["noise", "constant", "few values", "symmetric", "grey alike"]),
)


def drawn(seed: int, how: str) -> Tensor:
    """Return an image (1, 3, 5, 5), at random or of a kind of which views tie."""
    image = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    if how == "constant":
        return image.mean().expand(1, 3, 5, 5).clone()
    if how == "few values":
        return (image > 0.8).float()
    if how == "symmetric":
        return image + image.rot90(2, (-2, -1))
    if how == "grey alike":
        return torch.cat([image[:, :1], -image[:, :1], torch.zeros(1, 1, 5, 5)], 1)
    return image


@every_picture
def test_the_order_of_views_depends_on_their_content_alone(group: str, seed: int, how: str) -> None:
    image, expected = drawn(seed, how), None
    for start in orbit(group, image):
        views = orbit(group, start).transpose(0, 1)
        found = views[0, content_order(views)[0]]
        expected = found if expected is None else expected
        assert torch.equal(found, expected)


def test_the_first_view_is_bright_at_the_top() -> None:
    sky = torch.zeros(1, 3, 8, 8)
    sky[..., :3, :] = 1
    views = orbit("C4", sky.rot90(1, (-2, -1))).transpose(0, 1)
    assert torch.equal(views[0, content_order(views)[0, 0]], sky[0])


@every_picture
def test_the_order_is_that_of_stable_sorting(group: str, seed: int, how: str) -> None:
    views = orbit(group, torch.cat([drawn(seed, how), drawn(seed + 1, "noise")])).transpose(0, 1)
    levels = (views.double() * 2**12).round().long()
    light = levels.sum(2)
    ramp = torch.arange(4, -5, -2)
    tilt = 2 * (light.sum(-1) * ramp).sum(-1) + (light.sum(-2) * ramp).sum(-1)
    ties = (levels * _noise(3, 5, 5)).sum((2, 3, 4)).argsort(dim=1, stable=True)
    expected = ties.gather(1, tilt.gather(1, ties).argsort(dim=1, descending=True, stable=True))
    assert torch.equal(content_order(views), expected)


def test_the_order_is_the_same_in_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    views = torch.randn(4, 8, 3, 96, 97, generator=torch.Generator().manual_seed(0))
    for scale in (1, 500):  # above, sums would not be exact in float64
        assert views_module._fits((scale * views * 2**12).round())
        by_product = content_keys(scale * views)
        with monkeypatch.context() as patched:
            patched.setattr(views_module, "_fits", lambda levels: False)
            assert torch.equal(content_keys(scale * views), by_product)
    assert not views_module._fits((1e4 * views * 2**12).round())


@given(st.integers(0, 2**16), st.integers(1, 8))
def test_descending_is_a_stable_sort(seed: int, count: int) -> None:
    values = torch.randint(4, (5, count), generator=torch.Generator().manual_seed(seed)) / 4
    assert torch.equal(descending(values), values.argsort(dim=1, descending=True, stable=True))


def test_the_views_of_most_weight_come_first() -> None:
    views = torch.arange(8.0).reshape(2, 4, 1)
    found, weights = best_first(views, torch.tensor([[0, 0.25, 0.75, 0], [0, 0, 0, 1.0]]))
    assert weights.tolist() == [[0.75, 0.25], [1, 0]]
    assert found.flatten().tolist() == [2, 1, 7, 4]


def test_the_order_can_be_exported() -> None:
    """To a graph for a batch of any size: nothing in it depends on the images."""
    views = orbit("D4", drawn(0, "noise").repeat(2, 1, 1, 1)).transpose(0, 1)
    content_order(views)  # the noise is made before

    class Order(torch.nn.Module):
        def forward(self, views: Tensor) -> tuple[Tensor, ...]:
            return content_order(views), *best_first(views, views.mean((2, 3, 4)).softmax(1))

    program = torch.export.export(Order(), (views,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    for found, expected in zip(program.module()(views[:1]), Order()(views[:1]), strict=True):
        assert torch.equal(found, expected)
    assert not any("sort" in str(node.target) for node in program.graph.nodes)


def test_a_group_that_cannot_act_is_refused() -> None:
    with pytest.raises(InputError, match="square"):
        transformed(group_named("C4"), 1, torch.rand(3, 4, 6))
