"""Folders that grow: what is found in them, what is held out, and what is kept of images to know them again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from continual.data.images import open_image
from continual.errors import InputError
from continual.lifecycle.fingerprints import NEAR, compare, digest, fingerprint, near
from continual.lifecycle.new_images import Plan, plan
from continual.lifecycle.seen_images import SeenImage, SeenImages
from continual.lifecycle.split import split

Pictures = Callable[..., Path]


def after(done: Plan, seen: SeenImages | None = None) -> SeenImages:
    """The seen once a plan was carried out."""
    return (seen or SeenImages()).with_images(picture.entry for picture in [*done.learn, *done.hold_out])


def unpacked(seen: SeenImages) -> SeenImages:
    """What a file gives back."""
    tensors, values = seen.pack()
    return SeenImages.unpack({name: tensor.tolist() for name, tensor in tensors.items()}, values)


def test_old_names_still_lead_there() -> None:
    with pytest.warns(DeprecationWarning, match="SeenImages"):
        from continual.lifecycle.seen_images import Ledger
    assert Ledger is SeenImages


def names(plan_: Plan) -> dict[str, list[str]]:
    """What is learned: file names by class."""
    found: dict[str, list[str]] = {}
    for picture in plan_.learn:
        found.setdefault(str(picture.entry.label), []).append(picture.path.name)
    return found


def photo(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A smooth random picture, as scenes are."""
    draw = np.random.default_rng(seed).uniform(0, 255, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(draw).resize(size, Image.Resampling.BICUBIC)


# Fingerprints


def test_fingerprints_survive_what_does_not_change_the_picture(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "a.jpg", quality=60)
    for other in (Image.open(tmp_path / "a.jpg"), photo(1).resize((64, 48)), photo(1).point(lambda v: v * 0.8)):
        assert list(near([fingerprint(photo(1))], [fingerprint(other)])) == [(0, 0)]
    others = [fingerprint(photo(seed)) for seed in range(2, 200)]
    assert list(near([fingerprint(photo(1))], others)) == []


def test_near_counts_bits() -> None:
    draw = random.Random(0)
    some = [draw.getrandbits(64) - 2**63 for _ in range(50)]
    more = [value ^ sum(1 << bit for bit in draw.sample(range(63), draw.randrange(9))) for value in some]
    apart = {(i, j): ((a ^ b) & (2**64 - 1)).bit_count() for i, a in enumerate(some) for j, b in enumerate(more)}
    expected = [pair for pair, bits in apart.items() if bits <= NEAR]
    assert list(near(some, more)) == expected
    assert 10 < len(expected) < 50
    assert list(near([], some)) == list(near(some, [])) == []


def quadratic_split(
    new: list[SeenImage], before: list[SeenImage], share: float
) -> tuple[list[bool], int, list[object]]:
    """What `split` does, by comparing all with all: held out, pairs, and the first of them."""

    def near(a: SeenImage, b: SeenImage) -> bool:
        return ((a.fingerprint ^ b.fingerprint) & (2**64 - 1)).bit_count() <= NEAR

    pairs: list[object] = [(a, b) for a, b in combinations(range(len(new)), 2) if near(new[a], new[b])]
    met = [(a, k) for a in range(len(new)) for k in range(len(before)) if near(new[a], before[k])]
    pairs += [(a, f"one of {before[k].label} seen before") for a, k in met]
    group = list(range(len(new)))
    for _ in new:
        for a, b in combinations(range(len(new)), 2):
            if new[a].label == new[b].label and near(new[a], new[b]):
                group[a] = group[b] = min(group[a], group[b])
    held, left = (
        [False] * len(new),
        {image.label: int(share * sum(o.label == image.label for o in new)) for image in new},
    )
    for number in sorted(set(group), key=lambda g: min(new[p].digest for p in range(len(new)) if group[p] == g)):
        own = [place for place in range(len(new)) if group[place] == number]
        label = new[own[0]].label
        sides = {
            all(before[k].held_out for b, k in met if b == a and before[k].label == label)
            for a in own
            if any(b == a and before[k].label == label for b, k in met)
        }
        out = sides == {True} or (not sides and len(own) <= left[label])
        left[label] -= len(own) if out and not sides else 0
        for place in own:
            held[place] = out
    return held, len(pairs), pairs[:5]


@pytest.mark.parametrize("seed", range(20))
def test_the_search_finds_what_comparing_all_with_all_finds(seed: int) -> None:
    """Prints of few bits, so that chains, bursts and copies come about; some differ in the sign bit."""
    draw = random.Random(seed)

    def image(number: int, held_out: bool) -> SeenImage:
        print_ = sum(1 << bit for bit in draw.sample(range(0, 64, 1 + seed % 4), draw.randrange(7)))
        print_ = -(print_ >> 1) if draw.random() < 0.2 else (print_ if print_ < 2**63 else print_ - 2**64)
        return SeenImage(draw.getrandbits(63), print_, draw.choice(["a", "b"]), held_out)

    new = [image(number, False) for number in range(30)]
    new += [replace(one, digest=draw.getrandbits(63)) for one in new[:5]]
    before = [image(number, draw.random() < 0.7) for number in range(seed % 10)]
    found = split(new, before, 0.4)
    held, number, examples = quadratic_split(new, before, 0.4)
    assert (found.held, found.near.number, found.near.examples) == (held, number, examples)
    assert number > 10


def test_parts_on_one_ground_do_not_make_the_search_quadratic() -> None:
    """Half of the bits are the same for all pictures: no band may consist of those."""
    draw = np.random.default_rng(0).integers(0, 2**32, 20_000)
    compared = list(compare([int(value) for value in draw]))
    assert compared[-1].done == compared[-1].total < len(draw) ** 2 / 20


def test_digests_are_of_the_bytes() -> None:
    assert digest(b"a") == digest(b"a") != digest(b"b")
    assert digest(b"a") == 3405396810240292928, "other numbers would make every image of a model file a new one"


# What is new


def test_only_what_is_new_is_learned(pictures: Pictures) -> None:
    folder = pictures("all", ["rose", "tulip"])
    first = plan(folder, SeenImages(), [])
    assert {name: len(found) for name, found in names(first).items()} == {"rose": 4, "tulip": 4}
    seen, known = after(first), ["rose", "tulip"]
    again = plan(folder, seen, known)
    assert (again.learn, again.learned, again.notes, again.problems) == ([], 8, [], [])
    pictures("all", ["iris"])
    shutil.copy(pictures("later", ["rose"], 5) / "rose" / "4.png", folder / "rose" / "new.png")
    (folder / "tulip" / "0.png").rename(folder / "tulip" / "another name.png")
    grown = plan(folder, seen, known)
    assert names(grown) == {"iris": ["0.png", "1.png", "2.png", "3.png"], "rose": ["new.png"]}
    assert "1 new class: iris (4)" in grown.lines(known)
    assert "1 known class with new images: rose (1)" in grown.lines(known)
    assert "note: few images to learn from: iris (4)" in grown.lines(known)
    assert names(plan(folder, seen, known, only=["rose"])) == {"rose": ["new.png"]}
    with pytest.raises(InputError, match="no class folder 'ros' with images: did you mean 'rose'"):
        plan(folder, seen, known, only=["ros"])


def test_files_that_cannot_be_read_and_copies_are_left_out_and_named(pictures: Pictures) -> None:
    folder = pictures("all", ["rose"])
    (folder / "rose" / "1.png").write_text("no picture")
    shutil.copy(folder / "rose" / "2.png", folder / "rose" / "copy.png")
    found = plan(folder, SeenImages(), [])
    assert names(found) == {"rose": ["0.png", "2.png", "3.png"]}
    bad, copies = found.notes
    assert "1 file left out, not readable" in bad
    assert str(folder / "rose" / "1.png") in bad
    assert copies == "1 image left out, identical to another of the class"
    (folder / "rose" / "IMG_1.jp2").write_bytes(b"from a telephone")
    assert (
        plan(folder, SeenImages(), [])
        .notes[-1]
        .startswith("left out: pictures of kinds that are not read (1 JPEG 2000)")
    )


@pytest.mark.parametrize("other", ["Rose", "rose ", "ro\u0308se", "ｒｏｓｅ"])
def test_names_that_people_take_for_one(pictures: Pictures, other: str) -> None:
    known = "r\u00f6se" if "\u0308" in other else "rose"
    folder = pictures("all", [other])
    (problem,) = plan(folder, SeenImages(), [known]).problems
    assert "one name for people" in problem
    pictures("all", [known])
    assert len(plan(folder, SeenImages(), []).problems) == 1
    assert plan(pictures("fine", ["a b", "ab"]), SeenImages(), []).problems == []


def test_one_image_in_two_classes(pictures: Pictures) -> None:
    folder = pictures("all", ["rose", "tulip"])
    shutil.copy(folder / "rose" / "0.png", folder / "tulip" / "9.png")
    (problem,) = plan(folder, SeenImages(), []).problems
    assert str(folder / "rose" / "0.png") in problem
    assert str(folder / "tulip" / "9.png") in problem


def test_a_folder_that_may_be_no_class_is_remarked_on_until_it_is_known(pictures: Pictures) -> None:
    folder = pictures("all", ["rose", "New", "unsorted", "news"])
    asked = "note: {!r} is learned as a class: is it one?"
    said = plan(folder, SeenImages(), []).lines([])
    assert [line for line in said if "is it one" in line] == [asked.format("New"), asked.format("unsorted")]
    said = plan(folder, SeenImages(), ["New"], only=["New", "rose"]).lines(["New"])
    assert [line for line in said if "is it one" in line] == []


def test_images_that_moved_and_folders_of_renamed_classes(pictures: Pictures) -> None:
    folder = pictures("all", ["rose", "tulip"])
    seen = after(plan(folder, SeenImages(), []))
    (folder / "rose" / "0.png").rename(folder / "tulip" / "9.png")
    moved = plan(folder, seen, ["rose", "tulip"])
    assert moved.notes == ["1 image of tulip left out, learned as rose: if they moved, use `equimos correct`"]
    names = {"rose": "wild rose", "tulip": "tulip"}
    renamed = SeenImages(tuple(replace(image, label=names[image.label]) for image in seen.images))
    known = ["wild rose", "tulip"]
    assert (plan(folder, renamed, known).learn, plan(folder, renamed, known).problems) == ([], [])
    shutil.copy(pictures("later", ["rose"], 5) / "rose" / "4.png", folder / "rose" / "new.png")
    (problem,) = plan(folder, renamed, known).problems
    assert f"most images of {folder / 'rose'} were learned as 'wild rose'" in problem


def test_forgotten_and_unrecorded_classes_are_learned_only_when_named(pictures: Pictures) -> None:
    folder = pictures("all", ["rose", "tulip", "iris"])
    seen = after(plan(folder, SeenImages(), [])).without("rose", remember=True)
    seen = SeenImages(tuple(met for met in seen.images if met.label != "iris"), seen.forgotten)
    found = plan(folder, seen, ["tulip", "iris"])
    assert found.learn == []
    assert ["forgotten: rose" in note or "not recorded: iris" in note for note in found.notes] == [True, True]
    assert set(names(plan(folder, seen, ["tulip", "iris"], only=["rose", "iris"]))) == {"rose", "iris"}
    assert seen.with_images([SeenImage(1, 2, "rose")]).forgotten == ()
    assert after(plan(folder, SeenImages(), [])).without("rose", remember=False).forgotten == ()


def test_classes_that_are_numbers(pictures: Pictures) -> None:
    found = plan(pictures("all", ["7", "8"]), SeenImages(), [7])
    assert names(found) == {"8": ["0.png", "1.png", "2.png", "3.png"]}, "which images of 7 were learned is not known"
    assert {picture.entry.label for picture in found.learn} == {8}
    assert "folder 'rose'" in plan(pictures("odd", ["rose"]), SeenImages(), [7]).problems[0]


# What is held out


def test_the_same_images_are_held_out_whatever_they_are_called(pictures: Pictures, tmp_path: Path) -> None:
    folder = pictures("all", ["rose", "tulip"], 20)
    first = plan(folder, SeenImages(), [], hold_out=0.2)
    held = {picture.entry.digest for picture in first.hold_out}
    assert [p.entry.held_out for p in first.hold_out] == [True] * 8
    assert [p.entry.held_out for p in first.learn] == [False] * 32
    for number, path in enumerate(sorted(folder.rglob("*.png"), key=lambda path: path.stem)):
        path.rename(path.with_name(f"other{99 - number}.png"))
    assert {picture.entry.digest for picture in plan(folder, SeenImages(), [], hold_out=0.2).hold_out} == held
    seen = after(first)
    again = plan(folder, seen, ["rose", "tulip"], hold_out=0.5)
    assert {picture.entry.digest for picture in again.held_out} == held
    assert again.learn == again.hold_out == []
    pictures("all", ["iris"])
    named = plan(folder, seen, ["rose", "tulip"], only=["iris"])
    assert {picture.entry.digest for picture in named.held_out} == held, "also where a single class is asked for"
    assert (named.learned, list(names(named))) == (0, ["iris"])


@pytest.mark.parametrize(("images", "held"), [(1, 0), (4, 0), (5, 1), (9, 1), (10, 2)])
def test_small_classes_keep_their_images(pictures: Pictures, images: int, held: int) -> None:
    assert len(plan(pictures("all", ["rose"], images), SeenImages(), [], hold_out=0.2).hold_out) == held


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    """Eight scenes, each photographed three times; some were there last month."""
    for scene in range(8):
        (tmp_path / "rose").mkdir(exist_ok=True)
        for take in range(3):
            photo(scene).point(lambda v, take=take: v * (1 - take / 20)).save(tmp_path / "rose" / f"{scene}-{take}.png")
    found = plan(tmp_path, SeenImages(), [], hold_out=0.25)
    held, learned = ({p.path.name[0] for p in side} for side in (found.hold_out, found.learn))
    assert len(found.hold_out) == 6
    assert not held & learned
    assert any("24 pairs of images nearly the same" in note for note in found.notes)

    before = plan(tmp_path, SeenImages(), [], hold_out=0.25)
    seen = SeenImages(tuple(p.entry for p in [*before.learn, *before.hold_out] if p.path.name.endswith("-0.png")))
    later = plan(tmp_path, seen, ["rose"], hold_out=0.25)
    assert {p.path.name[0] for p in later.hold_out} == held, "near one held out: held out; near one learned: learned"
    assert not held & {p.path.name[0] for p in later.learn}
    assert len(later.learn) + len(later.hold_out) == 16


def test_a_burst_that_goes_on_stays_where_it_was(tmp_path: Path) -> None:
    """Pictures near some that were learned are learned, whatever their time says."""
    (tmp_path / "rose").mkdir()
    for take in range(20):
        photo(0).point(lambda v, take=take: v * (1 - take / 80)).save(tmp_path / "rose" / f"shot{take:02}.png")
    first = plan(tmp_path, SeenImages(), [], hold_out=0.25)
    assert sorted(picture.path.stem for picture in first.hold_out) == [f"shot{take}" for take in range(15, 20)]
    seen = SeenImages(tuple(p.entry for p in [*first.learn, *first.hold_out] if p.path.stem < "shot18"))
    later = plan(tmp_path, seen, ["rose"], hold_out=0.25)
    assert (len(later.learn), later.hold_out, len(later.held_out)) == (2, [], 3)


def test_an_image_that_changes_after_the_plan_is_named(pictures: Pictures) -> None:
    found = plan(pictures("all", ["rose"]), SeenImages(), []).learn[0]
    assert open_image(found.image) == open_image(found.path)
    photo(7).save(found.path)
    with pytest.raises(InputError, match=f"^{found.path} has changed since the plan was made"):
        open_image(found.image)
    found.path.unlink()
    with pytest.raises(InputError, match="no image at"):
        open_image(found.image)


# What is kept


def test_seen_images_survive_their_file() -> None:
    seen = SeenImages((SeenImage(-1, 2**62, "a", True), SeenImage(5, -7, "b"), SeenImage(6, 0, "a")), ("c",))
    assert unpacked(seen) == seen
    assert sum(t.numel() * t.element_size() for t in seen.pack()[0].values()) == 3 * 21
    assert SeenImages.unpack({}, None) == SeenImages() == unpacked(SeenImages())
    with pytest.raises(KeyError):
        SeenImages.unpack({}, seen.pack()[1])
