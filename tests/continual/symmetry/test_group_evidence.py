"""What images say of groups: left out in closed form, against regressions that are really solved without them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from continual.statistics.ridge import GramStatistics
from continual.symmetry.group_evidence import (
    CANDIDATES,
    MARGIN,
    PENALTY,
    Evidence,
    advice,
    choice_of,
    evidence,
    left_out,
    margin,
    places_of,
    recognised,
    some_of_each,
)
from continual.symmetry.views import group_named

COUNT, VIEWS, WIDTH, CLASSES = 24, 8, 12, 3


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(COUNT) % CLASSES


@pytest.fixture
def alike(labels: Tensor) -> Tensor:
    """Features of views that differ at random, as of images that lie in any position."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, 1, WIDTH, generator=draw)
    return centres[labels] + 1.5 * torch.randn(COUNT, VIEWS, WIDTH, generator=draw)


@pytest.fixture
def upright(alike: Tensor, labels: Tensor) -> Tensor:
    """Features of images whose views say nothing of the class but the one that is given."""
    draw = torch.Generator().manual_seed(1)
    views = 3 * torch.randn(COUNT, VIEWS, WIDTH, generator=draw)
    views[:, 0] = alike.mean(1)
    return views


@pytest.mark.parametrize("views", [1, 4, 8])
def test_an_image_left_out_is_answered_as_if_its_views_had_never_been_there(
    alike: Tensor, labels: Tensor, views: int
) -> None:
    x = alike[:, :views].double()
    found = left_out(x, labels)
    mean, deviation = GramStatistics.of(x.flatten(0, 1), labels.repeat_interleave(views), CLASSES).moments()
    z = (x - mean) / deviation
    for image in range(COUNT):
        others = torch.arange(COUNT) != image
        rows = z[others].flatten(0, 1)
        targets = F.one_hot(labels[others].repeat_interleave(views), CLASSES).double()
        centred, mean_target = rows - rows.mean(0), targets.mean(0)
        gram = centred.mT @ centred + PENALTY * WIDTH * torch.eye(WIDTH, dtype=torch.float64)
        weight = torch.linalg.solve(gram, centred.mT @ (targets - mean_target))
        expected = ((z[image] - rows.mean(0)) @ weight + mean_target).mean(0)
        assert torch.allclose(found[image], expected, atol=1e-9)


def test_images_are_told_from_themselves_moved_by_maps_fitted_to_the_others(alike: Tensor) -> None:
    given, moved = alike[:, 0], alike[:, 1] + 0.3
    x = (given - moved).double()
    x = x / x.square().mean(0).sqrt()
    right = 0
    for image in range(COUNT):
        rows = x[torch.arange(COUNT) != image]
        gram = rows.mT @ rows + PENALTY * WIDTH * torch.eye(WIDTH, dtype=torch.float64)
        right += int(x[image] @ torch.linalg.solve(gram, rows.sum(0)) > 0)
    assert recognised(given, moved) == right / COUNT
    assert recognised(given, given) == 0.5


def test_places_are_those_of_the_groups_elements_with_the_identity_first() -> None:
    whole = group_named("D4")
    for name in CANDIDATES:
        places = places_of(name)
        assert places[0] == 0
        assert [whole.elements[place] for place in places] == list(group_named(name).elements)


def test_all_views_are_taken_where_they_are_alike_and_not_where_there_is_an_up(
    alike: Tensor, upright: Tensor, labels: Tensor
) -> None:
    none, has = choice_of(alike, labels), choice_of(upright, labels)
    assert (none.group, has.group) == ("D4", None)
    assert none.saved >= MARGIN > has.saved
    assert none.images == COUNT
    assert "D4, these images have no up" in none.words
    assert "seem to have an up" in has.words
    assert f"{abs(has.saved):.0%} {'less' if has.saved > 0 else 'more'}" in has.words


@pytest.mark.parametrize(("up", "least"), [(0.8, 0.06), (0.65, 0.0), (0.9, 0.1), (0.5, -0.06), (0.3, -0.06)])
def test_the_less_moved_images_are_recognised_the_less_has_to_be_saved(up: float, least: float) -> None:
    assert margin(up) == pytest.approx(least)


@pytest.mark.parametrize(("up", "taken"), [(0.5, "D4"), (0.65, "D4"), (0.85, None)])
def test_where_no_up_is_seen_a_group_need_not_save_much(up: float, taken: str | None) -> None:
    none = Evidence(None, 1, 0.5, 0.0, 0.5, up)
    assert advice([none, Evidence("D4", 8, 0.5, 0.03, up, up)]).group == taken


def test_advice_is_the_group_that_saves_most(alike: Tensor, upright: Tensor, labels: Tensor) -> None:
    draw = torch.Generator().manual_seed(2)
    mirrored = upright.clone()
    for place in places_of("mirror_h"):
        mirrored[:, place] = alike.mean(1) + torch.randn(COUNT, WIDTH, generator=draw)
    assert advice(evidence(mirrored, labels)).group == "mirror_h"
    assert advice(evidence(upright, labels)).group is None
    assert [one.views for one in evidence(alike, labels)] == [1, 2, 2, 2, 4, 8]


@pytest.mark.parametrize("labels", [[0], [0, 1, 2], [0, 0, 0], [0, 0, 1]])
def test_too_few_images_say_nothing(labels: list[int]) -> None:
    choice = choice_of(torch.randn(len(labels), 8, 5), torch.tensor(labels))
    assert (choice.group, choice.images) == (None, 0)
    assert "fewer than two classes" in choice.words


def test_a_few_images_take_no_group(alike: Tensor, labels: Tensor) -> None:
    """By chance as many moved images as not are recognised among so few, also where there is an up."""
    rows = torch.cat([(labels == c).nonzero()[:4, 0] for c in (0, 1)])
    few = choice_of(alike[rows], labels[rows])
    assert (few.group, few.images) == (None, 8)
    assert "8 images of classes with several are too few to tell by: name one" in few.words


def test_images_that_are_their_classes_only_one_do_not_count(alike: Tensor, labels: Tensor) -> None:
    more = torch.cat([alike, alike[:1] + 9])
    assert evidence(more, torch.cat([labels, torch.tensor([7])])) == evidence(alike, labels)


def test_some_images_of_each_class_are_drawn() -> None:
    labels = ["a"] * 90 + ["b"] * 5 + ["c"] * 30
    rows = some_of_each(labels, 40, torch.Generator().manual_seed(0))
    drawn = [labels[row] for row in rows]
    assert rows == sorted(set(rows))
    assert [drawn.count(label) for label in "abc"] in ([18, 5, 17], [17, 5, 18])
    assert some_of_each(labels, 1000, torch.Generator()) == [*range(125)]
