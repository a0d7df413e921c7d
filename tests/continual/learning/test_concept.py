"""Concepts: a planted stamp, how much it is used, taking it out, and training that does not read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import continual
from continual.backbones.loading import Backbone, assemble, create
from continual.errors import InputError
from continual.learning.concept import Concept, Stamped, directions, probe
from continual.seeding import generator
from continual.statistics.class_statistics import fit
from continual.statistics.head import Head
from continual.statistics.ignored import Ignored, corrected, orthonormal, penalised
from continual.statistics.ridge import GramStatistics, Standardised, solve
from continual.testing import TINY_ARGS, coloured_squares, tiny_backbone

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "bottleneck": 4, "lr": 0.05}
SUMS: list[tuple[str, dict[str, Any]]] = [("ridge", {}), ("strata", {}), ("ranpac", {"epochs": 0, "projection": 60})]
HEADS: list[tuple[str, dict[str, Any]]] = [("mos", {**QUICK, "alignment_epochs": 1}), ("slca", {"epochs": 1})]
LOGO = Image.new("RGBA", (8, 4), (255, 0, 0, 255))


def made(name: str, settings: dict[str, Any]) -> Any:
    return continual.methods.method(name)(tiny_backbone(), **settings)


def pool(each: int = 10) -> Tensor:
    """Images of classes that nobody learns."""
    return coloured_squares([5, 6, 7], each, 9)[0]


def logo(**more: Any) -> Concept:
    return Concept.of(pool(), stamp=LOGO, name="logo", **more)


def stamped(images: Tensor, which: list[bool]) -> list[Any]:
    """Images, some with the logo."""
    on = Stamped(images, LOGO, 0.5, 3)
    return [on[i] if there else image for i, (image, there) in enumerate(zip(images, which, strict=True))]


def shortcut(name: str, settings: dict[str, Any]) -> tuple[Any, list[Any], list[int]]:
    """A learner of noisy colours of which one has the logo, and test images on which that is the other way."""

    def noisy(seed: int) -> tuple[Tensor, list[int]]:
        images, labels = coloured_squares([0, 1], 24, seed)
        noise = 110 * torch.randn(images.shape, generator=generator(seed, "noise"))
        return (images.float() + noise).clamp(0, 255).to(torch.uint8), labels

    (images, labels), (test, truth) = noisy(1), noisy(2)
    learner = made(name, settings)
    learner.learn(stamped(images, [label == 0 for label in labels]), labels)
    return learner, stamped(test, [label == 1 for label in truth]), truth


# Stamps --------------------------------------------------------------------------------------------------


def test_a_stamp_lies_in_a_corner_and_keeps_its_shape() -> None:
    grey = torch.full((20, 3, 16, 32), 100, dtype=torch.uint8)
    on, corners = Stamped(grey, LOGO, 0.5, 1), set()
    for number in range(20):
        red = torch.from_numpy(np.array(on[number]))[..., 0] == 255
        rows, columns = red.any(1).nonzero()[:, 0], red.any(0).nonzero()[:, 0]
        assert (len(rows), len(columns)) == (4, 8)
        corners.add((int(rows[0]), int(columns[0])))
    assert corners == {(0, 0), (0, 24), (12, 0), (12, 24)}
    assert [a == b for a, b in zip(on, Stamped(grey, LOGO, 0.5, 1), strict=True)] == [True] * 20


def test_a_border_covers_the_whole_image(tmp_path: Path) -> None:
    border = Image.new("RGBA", (10, 10), (0, 0, 0, 255))
    border.paste((0, 0, 0, 0), (2, 2, 8, 8))
    border.save(tmp_path / "border.png")
    concept = Concept.of(torch.full((8, 3, 20, 30), 200, dtype=torch.uint8), stamp=tmp_path / "border.png", size=1)
    assert concept.name == "border"
    image = concept.present[0]
    assert max(image.getpixel((0, 10))) < 10
    assert image.getpixel((15, 10)) == (200, 200, 200)


# What is used --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "settings"), [*SUMS, *HEADS, ("simple_cil", {}), ("finetune", QUICK)])
def test_a_concept_that_changes_nothing_is_not_used(name: str, settings: dict[str, Any]) -> None:
    learner = made(name, settings)
    learner.learn(*coloured_squares([0, 1, 2], 5))
    nothing = Concept.of(pool(), stamp=lambda image: image, name="nothing")
    use = learner.concept_use(nothing)
    assert (use.changed, use.probe) == (0.0, 0.5)
    assert set(use.towards.values()) == {0.0}
    before = learner.state
    said = "changes no feature" if learner.suppresses else "does not say how a concept is taken out"
    with pytest.raises(InputError, match=said):
        learner.suppress(nothing)
    assert learner.state is before


def test_what_a_probe_finds_and_answers_follow() -> None:
    learner, _, _ = shortcut("ridge", {})
    use = learner.concept_use(logo(size=0.5))
    assert use.probe > 0.9
    assert use.changed > 0.1
    assert next(iter(use.towards)) == 0
    assert "answered more often with it: 0" in use.lines[2]
    images = pool()
    unpaired = Concept.of(stamped(images, [True] * 30), images, name="logo")
    assert not unpaired.paired
    assert learner.concept_use(unpaired).changed == pytest.approx(abs(use.towards[0]), abs=0.05)


def test_a_stamp_on_numbers_says_what_it_takes() -> None:
    concept = Concept.of(torch.rand(10, 3, 32, 32), stamp=LOGO)
    with pytest.raises(InputError, match="image 0 has numbers of type float32: give .* uint8"):
        concept.present[0]
    with pytest.raises(InputError, match="image 1 has numbers of type int64"):
        Concept.of(np.zeros((10, 32, 32, 3), np.int64), stamp=LOGO).absent[1]


@pytest.mark.parametrize("channels", [1, 4])
def test_concepts_are_looked_for_in_pictures(channels: int) -> None:
    arguments = {**TINY_ARGS, "in_chans": channels}
    learner = continual.RidgeLearner(
        assemble(create("vit_tiny_patch16_224", arguments), "vit_tiny_patch16_224", arguments)
    )
    images, labels = torch.zeros(8, channels, 16, 16, dtype=torch.uint8), [0, 1] * 4
    images[::2] = 200
    learner.learn(images, labels)
    before = learner.state
    for ask in (
        learner.concept_use,
        learner.suppress,
        lambda concept: learner.learn(images, [label + 2 for label in labels], ignoring=concept),
    ):
        if channels == 1:
            ask(logo())
            continue
        with pytest.raises(InputError, match="looked for in pictures, and the model takes images of 4 channels"):
            ask(logo())
        assert learner.state is before


def test_a_probe_of_noise_is_chance() -> None:
    draw = generator(0, "probe")
    x = torch.randn(200, 8, generator=draw)
    assert abs(probe(x, torch.randn(200, 8, generator=draw)) - 0.5) < 0.08
    assert probe(x + 6, x) > 0.95
    assert probe(x, x) == 0.5


# Taking it out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "settings"), SUMS)
def test_a_shortcut_is_taken_out_of_sums(name: str, settings: dict[str, Any]) -> None:
    """Against the correlation accuracy rises, fewer answers change, and more so the more it costs."""
    learner, test, truth = shortcut(name, settings)
    concept = logo(size=0.5)
    accuracy, changed = [learner.evaluate(test, truth)], [learner.concept_use(concept).changed]
    for strength in (1.0, 10.0, 1000.0):
        learner.suppress(concept, strength)
        accuracy.append(learner.evaluate(test, truth))
        changed.append(learner.concept_use(concept).changed)
    assert accuracy[2] > accuracy[0] + 0.05
    assert changed[2] < changed[0]
    assert changed[3] <= changed[1]


@pytest.mark.parametrize(("name", "settings"), [*SUMS, *HEADS])
def test_it_is_kept_by_files_and_later_experiences_and_can_be_taken_back(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    learner = made(name, settings)
    learner.learn(*coloured_squares([0, 1, 2], 5))
    plain = learner.predict(pool())
    learner.suppress(logo(size=0.5), 100.0)
    less = learner.predict(pool())
    assert not torch.equal(plain.scores, less.scores)
    assert less.scores.isfinite().all()
    learner.save(tmp_path / "m.safetensors")
    read: Any = continual.load(tmp_path / "m.safetensors", learner.backbone)
    assert torch.equal(read.predict(pool()).scores, less.scores)
    assert read.memory()["ignored"] > 0
    read.allow("logo")
    assert read.state.ignored is None
    again = read.predict(pool())
    assert torch.equal(again.scores, plain.scores)
    assert (again.p_value is None and plain.p_value is None) or torch.equal(again.p_value, plain.p_value)
    learner.learn(*coloured_squares([3, 4], 5))
    assert [one.name for one in learner.state.ignored] == ["logo"]
    follows = learner.variant()
    follows.allow("logo")
    assert not torch.equal(follows.predict(pool()).scores, learner.predict(pool()).scores)
    learner.forget(1)
    learner.predict(pool())
    assert [one.name for one in learner.state.ignored] == ["logo"]


def test_a_model_is_not_ported_while_it_suppresses() -> None:
    """What is ignored are directions of the old features."""
    learner = made("ridge", {})
    learner.learn(*coloured_squares([0, 1, 2], 5))
    learner.suppress(logo(size=0.5))
    before = learner.predict(pool())
    with pytest.raises(InputError, match="'logo' is suppressed .* allow it, port"):
        learner.port(tiny_backbone(seed=1), pool())
    assert torch.equal(learner.predict(pool()).scores, before.scores)


def test_a_second_concept_stands_beside_the_first_and_one_of_the_same_name_replaces_it() -> None:
    learner = made("ridge", {})
    learner.learn(*coloured_squares([0, 1, 2], 5))
    blue = Concept.of(pool(), stamp=Image.new("RGB", (4, 4), (0, 0, 255)), name="blue")
    learner.suppress(logo())
    learner.suppress(blue)
    one = learner.predict(pool()).scores
    learner.suppress(logo(), 3.0)
    assert {(own.name, own.strength) for own in learner.state.ignored} == {("logo", 3.0), ("blue", 10.0)}
    learner.suppress(logo())
    torch.testing.assert_close(learner.predict(pool()).scores, one)


def test_merged_models_ignore_what_any_of_them_does() -> None:
    learners = [made("ridge", {}) for _ in range(2)]
    for number, learner in enumerate(learners):
        learner.learn(*coloured_squares([2 * number, 2 * number + 1], 5))
    learners[1].suppress(logo())
    joint = continual.merged(learners)
    assert [one.name for one in joint.state.ignored or ()] == ["logo"]
    whole = made("ridge", {})
    whole.learn(*coloured_squares([0, 1, 2, 3], 5))
    whole.suppress(logo())
    images = coloured_squares([0, 1, 2, 3], 2, 4)[0]
    order = [joint.classes.index(label) for label in whole.classes]
    torch.testing.assert_close(joint.predict(images).scores[:, order], whole.predict(images).scores)


def linear(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = generator(seed, "linear")
    x = torch.randn(30, 5, generator=draw, dtype=torch.float64) * torch.arange(1, 6)
    return x, torch.arange(30) % 3, torch.randn(7, 5, generator=draw, dtype=torch.float64)


@given(seed=st.integers(0, 100), strength=st.sampled_from([0.1, 10.0]))
def test_the_head_of_sums_is_the_minimiser(seed: int, strength: float) -> None:
    """Of |XW - Y|^2 + penalty |W|^2 + gamma n / m |D W|^2, of standardised features: as ridge on more rows."""
    x, y, rows = linear(seed)
    sums = GramStatistics.of(x, y, 3)
    more = penalised([Ignored("a", strength, rows)], 30.0)
    system = Standardised.of(sums, 2.0, more)
    head = system.solve(sums)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    z, d = (x - mean) / deviation, rows / deviation
    own = torch.nn.functional.one_hot(y, 3).double()
    gram = z.mT @ z + 2 * torch.eye(5) + strength * 30 / 7 * d.mT @ d
    weight = torch.linalg.solve(gram, z.mT @ (own - own.mean(0)))
    torch.testing.assert_close(head.weight * deviation[:, None], weight)
    assert torch.equal(Standardised.of(sums, 2.0).solve(sums).weight, solve(sums, 2.0, standardise=True).weight)


@given(seed=st.integers(0, 100))
def test_a_corrected_head_is_the_nearest_and_without_concepts_the_same(seed: int) -> None:
    x, y, rows = linear(seed)
    draw = generator(seed, "head")
    head = Head(torch.randn(3, 5, generator=draw, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    statistics = [fit(x[y == k]) for k in range(3)]
    assert corrected(head, statistics, None) is head
    found = corrected(head, statistics, [Ignored("a", 10.0, rows)])

    def cost(weight: Tensor) -> Tensor:
        moments = torch.stack([own.covariance_matrix() + torch.outer(own.mean, own.mean) for own in statistics]).mean(0)
        moved, apart = weight - head.weight, weight - weight.mean(0)
        return (moved @ moments * moved).sum() + 10 / 7 * (apart @ rows.mT).square().sum()

    best = cost(found.weight)
    assert best < cost(head.weight)
    for _ in range(5):
        other = torch.randn(3, 5, generator=draw, dtype=torch.float64)
        assert best <= cost(found.weight + 1e-2 * (other - other.mean(0))) + 1e-6


# Training without it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mos", "finetune", "ease"])
def test_an_adapter_does_not_read_what_is_ignored(name: str) -> None:
    """down_l v_l = 0 after every step, and in what is kept; later experiences keep to it."""
    learner, concept = made(name, {**QUICK, **({"alignment_epochs": 1} if name == "mos" else {})}), logo(size=0.5)
    learner.learn(*coloured_squares([0, 1], 6), ignoring=concept)
    learner.learn(*coloured_squares([2, 3], 6))
    blocks, final = directions(concept, learner.extractor)
    torch.testing.assert_close(learner.state.ignored[0].blocks, blocks)
    torch.testing.assert_close(blocks.norm(dim=1), torch.ones(len(blocks)))
    assert final.shape == (learner.backbone.width,)
    stacks = learner.state.bank if name != "finetune" else [learner.state.stack]
    for stack in stacks:
        assert float((stack["down_weight"] @ blocks[:, :, None]).abs().max()) < 1e-6
        assert float(stack["up_weight"].abs().max()) > 0
    assert learner.predict(pool()).scores.isfinite().all()


@pytest.mark.parametrize(("name", "settings"), SUMS)
def test_sums_that_ignore_from_the_start_are_those_that_suppress(name: str, settings: dict[str, Any]) -> None:
    one, other = made(name, settings), made(name, settings)
    one.learn(*coloured_squares([0, 1], 6), ignoring=logo())
    other.learn(*coloured_squares([0, 1], 6))
    other.suppress(logo())
    assert torch.equal(one.predict(pool()).scores, other.predict(pool()).scores)


def test_directions_of_nothing_change_no_bit() -> None:
    one, other = made("finetune", QUICK), made("finetune", QUICK)
    one.learn(*coloured_squares([0, 1], 6), ignoring=Concept.of(pool(), stamp=lambda image: image, name="nothing"))
    other.learn(*coloured_squares([0, 1], 6))
    assert torch.equal(one.predict(pool()).scores, other.predict(pool()).scores)


def test_orthonormal_rows_span_the_same() -> None:
    rows = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0.6, 0.8]])
    found = orthonormal(rows)
    torch.testing.assert_close(found.mT @ found, torch.tensor([[1.0, 0, 0], [0, 0.36, 0.48], [0, 0.48, 0.64]]).double())


def test_what_cannot_be_is_one_error_and_changes_nothing(backbone: Backbone) -> None:
    images = pool(2)
    for options, said in (
        ({}, "images and a stamp, or images with it and images without"),
        ({"stamp": LOGO}, "needs 8 images of each kind, and of one there are 6"),
        ({"without": images, "stamp": LOGO}, "give one of both"),
        ({"stamp": "gone.png"}, "no picture of the stamp at gone.png"),
        ({"stamp": LOGO, "size": 1.5}, "above 0 and up to 1, got 1.5"),
    ):
        with pytest.raises(InputError, match=said):
            Concept.of(images, **options)
    learner = made("ridge", {})
    for call in (learner.concept_use, learner.suppress):
        with pytest.raises(InputError, match="nothing has been learned yet"):
            call(logo())
    learner.learn(*coloured_squares([0, 1], 6))
    with pytest.raises(InputError, match="strength is a number above 0, got nan"):
        learner.suppress(logo(), float("nan"))
    learner.suppress(logo())
    with pytest.raises(InputError, match="no concept 'logos' is suppressed: did you mean 'logo'?"):
        learner.allow("logos")
    for name, settings in (("simple_cil", {}), ("finetune", {**QUICK, "adapter": "lora"})):
        other = made(name, settings)
        with pytest.raises(InputError, match="cannot ignore a concept"):
            other.learn(*coloured_squares([0, 1], 6), ignoring=logo())
        assert other.classes == ()
    floats = Concept.of(torch.randn(8, 3, 16, 16), stamp=LOGO)
    with pytest.raises(InputError, match="give paths, PIL images, or uint8 images"):
        learner.concept_use(floats)


def test_a_file_whose_concept_does_not_fit_is_refused(tmp_path: Path) -> None:
    learner = made("ridge", {})
    learner.learn(*coloured_squares([0, 1], 6))
    learner.suppress(logo())
    tensors, values = learner.export()
    broken = {n: t[:, :-1] if n == "ignored/0/rows" else t for n, t in tensors.items()}
    with pytest.raises(ValueError, match="the concept 'logo' is of width 31, the features of 32"):
        made("ridge", {}).restore(broken, values)
