"""Orbits: there and back, in the documented order, whole or in parts."""

from __future__ import annotations

import pytest
import torch

from equivariant.actions import Images, Maps
from equivariant.errors import InputError
from equivariant.groups import as_group
from equivariant.orbits import act_each, align, chunks, orbit, random_elements


@pytest.mark.parametrize("name", ["C1", "C4", "D4", "mirror_v", "C4 x channels3"])
def test_align_undoes_the_orbit(name: str) -> None:
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    views = orbit(name, x)
    assert views.shape == (as_group(name).order, 2, 3, 6, 6)
    assert torch.equal(align(name, views), x.expand_as(views))


def test_orbit_of_a_moved_image_is_the_orbit_permuted() -> None:
    group = as_group("D4")
    x = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    views = orbit(group, x)
    for h in range(group.order):
        moved = orbit(group, Images()(group, h, x))
        for g in range(group.order):
            assert torch.equal(moved[g], views[group.product(g, h)])


def test_parts_of_the_orbit() -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(orbit("D4", x, elements=[5, 2]), orbit("D4", x)[[5, 2]])
    assert torch.equal(align("D4", orbit("D4", x)[[5, 2]], Maps(), elements=[5, 2]), x.expand(2, 2, 3, 4, 4))
    with pytest.raises(InputError, match="3 outputs do not fit 4 elements"):
        align("C4", orbit("C4", x)[:3])


def test_channels_last_stays() -> None:
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    views = orbit("C4", x)
    assert views[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(views, orbit("C4", x.contiguous()))


def test_act_each_moves_every_image_by_its_own_element() -> None:
    group = as_group("D4")
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    elements = random_elements(group, 5, torch.Generator().manual_seed(1))
    moved = act_each(group, elements, x)
    for i, g in enumerate(elements.tolist()):
        assert torch.equal(moved[i : i + 1], Images()(group, g, x[i : i + 1]))


def test_chunks_cover_everything_once() -> None:
    for size in (None, 1, 2, 3, 8, 99):
        assert [g for chunk in chunks(8, size) for g in chunk] == list(range(8))
