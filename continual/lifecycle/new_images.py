"""What is new in a folder of class folders since a model last learned from it: the plan of an experience."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

from continual import distributed
from continual.console import count
from continual.data.folders import alike, alike_inside, doubtful, parts_in, subfolders
from continual.data.images import EncodedImage, image_files, unread
from continual.data.inputs import Label
from continual.data.ranges import dark
from continual.errors import InputError, nearest
from continual.learning.extractor import Progress
from continual.lifecycle.capture_order import in_order
from continual.lifecycle.entries import entry, lookup, unchanged
from continual.lifecycle.listing import found_in, is_list
from continual.lifecycle.seen_images import SeenImage, SeenImages
from continual.lifecycle.split import Split, split

#: classes with fewer images are remarked on
TINY = 5
#: names shown of a long list
SHOWN = 5


@dataclass(frozen=True)
class Picture:
    """An image file and what is known of it."""

    path: Path
    entry: SeenImage

    @property
    def image(self) -> EncodedImage:
        """The image as it was when it was looked at: see `unchanged`."""
        return unchanged(self.path, self.entry.digest)


@dataclass
class Plan:
    """What is new, what was there before, and what is odd. `notes` do no harm, `problems` have to be cured first."""

    seen: SeenImages  #: the images that the model has seen,
    known: Sequence[Label]  #: and its classes
    learn: list[Picture] = field(default_factory=list)
    hold_out: list[Picture] = field(default_factory=list)  #: new, and kept for evaluation
    held_out: list[Picture] = field(default_factory=list)  #: in earlier months, and still here
    learned: int = 0  #: images that were learned before
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    dealt: Split | None = None  #: how new images were divided

    def lines(self, known: Sequence[Label]) -> list[str]:
        """Say what will be learned and held out, and what is odd, for people."""
        counts = Counter(picture.entry.label for picture in self.learn)
        said = []
        for noun, rest, wanted in (("new class", "", False), ("known class", " with new images", True)):
            found = [f"{name} ({n})" for name, n in sorted(counts.items(), key=str) if (name in known) == wanted]
            if found:
                said.append(f"{count(len(found), noun)}{rest}: {', '.join(found)}")
        if self.hold_out:
            said.append(f"held out to evaluate on: {count(len(self.hold_out), 'new image')}")
        if self.held_out:
            said.append(f"held out before, and still here: {count(len(self.held_out), 'image')}")
        said += self.not_judged()
        if self.learned:
            said.append(f"learned before, left out: {count(self.learned, 'image')}")
        tiny = [f"{name} ({n})" for name, n in counts.items() if n < TINY and name not in known]
        if tiny:
            said.append(f"note: few images to learn from: {', '.join(tiny)}")
        return said + [f"note: {note}" for note in [*doubtful(counts.keys() - {*known}), *self.notes]]

    def not_judged(self) -> list[str]:
        """Say of which new classes nothing is held out, and of which images that are as good as learned."""
        bursts, undivided = (self.dealt.bursts, self.dealt.undivided) if self.dealt else ({}, [])
        judged = {picture.entry.label for picture in self.hold_out}
        judged |= {image.label for image in self.seen.images if image.held_out}
        few = sorted({str(p.entry.label) for p in self.learn if p.entry.label not in {*judged, *undivided}})
        said = [
            f"note: the pictures of {label} are nearly the same, as of one burst: the last ones by {how} are held out, "
            "and judge too kindly"
            for label, how in bursts.items()
        ]
        if undivided:
            names = _some([*map(str, undivided)])
            said.append(f"note: nothing is held out of {names}: the pictures are nearly the same, as of one burst")
        if few:
            said.append(f"note: nothing is held out of {_some(few)}: how well that is learned is not known")
        return said


def plan(
    folder: Path,
    seen: SeenImages,
    known: Sequence[Label],
    *,
    only: Sequence[str] = (),
    hold_out: float = 0.0,
    outside: bool = False,
    progress: Progress | None = None,
    channels: int = 3,
    value_range: str | None = None,
    single: str | None = None,
) -> Plan:
    """Compare a folder, or the images that a manifest lists, with what a model has seen.

    `only` names the class folders to look at; `hold_out` is the share of each class's new images kept for evaluation,
    the same ones whenever the same images are there. Of the parts of a split, that for training is looked at; of class
    `single`, if given, are all images at any depth. A manifest names images outside its folder with `outside` alone.
    `channels` is how many the backbone takes, `value_range` the name of what numbers of 16 bits mean. Raises InputError
    for no images, or an unknown name in `only`.
    """
    whole, parts = folder, parts_in(folder)
    folder = parts.get("train", folder)
    paths, names = found_in(folder, outside, channels, single)
    if name := min(set(only) - set(names), default=""):
        raise InputError(f"{folder} has no class folder {name!r} with images: {nearest(name, set(names))}")
    made = Plan(seen, known)
    if parts:
        others = " and ".join(f"{place.name}/" for part, place in parts.items() if part != "train")
        others = f"; {others} is left alone" if others else ""
        made.notes.append(f"{whole} has the parts of a split: what is new in {folder} is learned{others}")
    label_of = {name: _label(name, made) for name in dict.fromkeys(names)}
    wanted = {name for name in label_of if name in only or not only} - _left_out(label_of, only, made)
    files = [*zip(paths, names, strict=True)]
    pictures, elsewhere = _look(files, label_of, wanted, made, progress, channels, value_range)
    _check_folders(folder, pictures, elsewhere, label_of, made)
    made.problems += alike([*map(str, made.known), *(name for name in label_of if name in wanted)])
    _divide(pictures, hold_out, made, progress)
    made.notes += [] if is_list(folder) or single is not None else _strays(folder, set(names), channels)
    return made


def _label(name: str, made: Plan) -> Label:
    """Return the class that a folder stands for: where classes are numbers, its name is one."""
    if not made.known or isinstance(made.known[0], str):
        return name
    if not name.isdecimal():
        made.problems.append(f"the classes of the model are numbers, but there is a folder {name!r}: rename it")
        return name
    return int(name)


def _look(
    files: list[tuple[Path, str]],
    label_of: dict[str, Label],
    wanted: set[str],
    made: Plan,
    progress: Progress | None,
    channels: int,
    value_range: str | None,
) -> tuple[list[Picture], dict[tuple[str, Label], int]]:
    """Return new images, and how many of a folder were seen as another class; of other folders, the held-out."""
    new: dict[int, Picture] = {}
    looked, shown = list[SeenImage | int | str](), list[tuple[bool, int | None]]()
    for done, (path, name) in enumerate(distributed.turns(files), 1):
        if progress is not None:
            progress("looking at images", min(done * distributed.count(), len(files)), len(files), {})
        try:
            own = partial(entry, label=label_of[name], channels=channels, value_range=value_range, shown=shown)
            looked.append((own if name in wanted else lookup)(path, seen=made.seen))
        except InputError as error:
            looked.append(str(error))
    shown = [*chain.from_iterable(distributed.exchange(shown))]
    elsewhere = defaultdict[tuple[str, Label], int](int)
    copies, corrupt = 0, list[str]()
    for (path, name), found in zip(files, distributed.in_turn(looked), strict=True):
        if isinstance(found, str | int):
            corrupt += [found] if name in wanted and isinstance(found, str) else []
            continue
        if found.digest in made.seen.by_digest:
            if found.held_out:
                made.held_out.append(Picture(path, found))
            elif name in wanted:
                made.learned += 1
            elsewhere[name, found.label] += found.label != label_of[name]
        elif found.digest not in new:
            new[found.digest] = Picture(path, found)
        elif new[found.digest].entry.label == found.label:
            copies += 1
        else:
            made.problems.append(f"{path} and {new[found.digest].path} are the same image in two classes: remove one")
    if corrupt:
        said = f"{count(len(corrupt), 'file')} left out, not readable: {_some(corrupt, 10, '; ')}"
        (made.notes if len(corrupt) < len(files) else made.problems).append(said)
    if through := sum(transparent for transparent, _ in shown):
        made.notes.append(f"{count(through, 'new image')} transparent in part, which is seen as white")
    depths = [most for _, most in shown if most is not None]
    if value_range is None and (dim := dark(depths)):
        made.notes.append(dim)
    if copies:
        made.notes.append(f"{count(copies, 'image')} left out, identical to another of the class")
    return list(new.values()), elsewhere


def _divide(pictures: Sequence[Picture], hold_out: float, made: Plan, progress: Progress | None) -> None:
    """Deal new images out to learning and holding out, and remark on near-duplicates."""

    def order(places: Sequence[int]) -> tuple[list[int], str] | None:
        found = in_order([pictures[place].path for place in places])
        return found and ([places[rank] for rank in found[0]], found[1])

    made.dealt = split([picture.entry for picture in pictures], made.seen.images, hold_out, order, progress)
    near = made.dealt.near
    for picture, out in zip(pictures, made.dealt.held, strict=True):
        if out:
            made.hold_out.append(replace(picture, entry=replace(picture.entry, held_out=True)))
        else:
            made.learn.append(picture)
    if near.number:
        shown = [f"{pictures[a].path} and {b if isinstance(b, str) else pictures[b].path}" for a, b in near.examples]
        more = f", and {near.number - len(shown)} more" if near.number > len(shown) else ""
        made.notes.append(f"{count(near.number, 'pair')} of images nearly the same: {', '.join(shown)}{more}")


def _left_out(label_of: dict[str, Label], only: Sequence[str], made: Plan) -> set[str]:
    """Return the folders that are not to be looked at unless they are named."""
    seen, known, recorded = made.seen, made.known, {image.label for image in made.seen.images}
    forgotten = [name for name, label in label_of.items() if label in seen.forgotten and name not in only]
    silent = [n for n, label in label_of.items() if label in known and label not in recorded and n not in only]
    if forgotten:
        made.notes.append(f"left out, for they were forgotten: {_some(forgotten)}; --class NAME learns them again")
    if silent:
        made.notes.append(
            f"left out, for which of their images were learned is not recorded: {_some(silent)}; --class NAME learns "
            "all that is there"
        )
    return {*forgotten, *silent}


def _check_folders(
    folder: Path,
    new: Sequence[Picture],
    elsewhere: dict[tuple[str, Label], int],
    label_of: dict[str, Label],
    made: Plan,
) -> None:
    """Look at images that lie in another folder than they were learned from, or whose class was renamed."""
    known, coming = made.known, Counter(picture.entry.label for picture in new)
    for (name, label), n in elsewhere.items():
        if n and label_of[name] not in known and n > coming[label_of[name]] > 0:
            made.problems.append(
                f"most images of {folder / name} were learned as {label!r}: rename the folder so, if new ones are "
                "of that class"
            )
        elif n and coming[label_of[name]] + (label_of[name] in known):
            said = f"{count(n, 'image')} of {name} left out, learned as {label}"
            made.notes.append(f"{said}: if they moved, use `equimos correct`")


def _strays(folder: Path, used: set[str], channels: int) -> list[str]:
    """Remark on images outside class folders, and on class folders without images."""
    loose = sum(path.parent == folder for path in image_files(folder, channels))
    empty = {place.name for place in subfolders(folder)} - used
    notes = [f"{count(loose, 'image')} outside class folders, not used"] if loose else []
    notes += filter(None, [alike_inside([place for place in subfolders(folder) if place.name in used])])
    notes += [f"left out: {others}"] if (others := unread(folder, channels=channels)) else []
    return notes + [f"no images in {', '.join(sorted(empty))}"] * bool(empty)


def _some(names: Sequence[str], most: int = SHOWN, between: str = ", ") -> str:
    return between.join([*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])])
