"""The images that `learn` is given: folders of classes, a list, or the good images of a single class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.console import console, count
from continual.data.folders import parts_in, subfolders
from continual.errors import InputError, nearest

if TYPE_CHECKING:
    from continual.data.inputs import Label
    from continual.learning.learner import IncrementalLearner
    from continual.lifecycle.new_images import Plan

OneClass = Annotated[
    bool,
    typer.Option(
        "--one-class", help="All images are good ones: learn these, to say of others how unusual they are. The folder "
        "may hold them as they are."
    ),
]  # fmt: skip

#: of the images of a folder without class folders
GOOD = "good"
#: good images of a class that a new model takes to say what is usual
FEWEST = 8
#: of false alarms, where a model of a single class is asked without a rate
UNUSUAL = 0.05


def check_given(images: Path, only: Collection[str], outside: bool, one_class: bool) -> bool:
    """Tell whether a folder holds the good images of a single class, without class folders.

    Raises InputError for a folder, or a list, without images of classes, and for class folders that are not there.
    """
    if images.is_file() and images.suffix.lower() != ".csv":
        raise InputError(f"{images} is a file: give a folder with one folder per class, or a list of images, .csv")
    if images.is_file():
        from continual.lifecycle import listing  # it loads torch

        inside = {*listing.listed(images, outside)[1]}
    else:
        folder = parts_in(images).get("train", images)
        inside = {place.name for place in subfolders(folder)}
        if not inside and (loose := _images_in(folder)):
            if one_class:
                return True
            raise InputError(
                f"{folder} holds {count(loose, 'image')} and no class folders: put those of each class into a folder "
                "of its own; or, if all are good ones and others are to be found unusual, add --one-class"
            )
    if not inside:
        raise InputError(f"{images} holds no images: it needs one sub-folder of images per class")
    if unknown := sorted({*only} - inside):
        raise InputError(f"{images} has no class folder {unknown[0]!r}: {nearest(unknown[0], inside)}")
    return False


def _images_in(folder: Path) -> int:
    from continual.data.images import image_files  # it loads torch

    return len(image_files(folder))


def only_class(images: Path, known: Collection[Label], only: Collection[str]) -> str:
    """Return the class that good images are of: the only one that a model knows, or a new one.

    It may be named, which learns all images of a class without records. Raises InputError for the name of another.
    """
    found = str(next(iter(known))) if len(known) == 1 else GOOD
    if {*only} - {found}:
        raise InputError(f"{images} has no class folders, so all images are of {found!r}: leave --class out")
    return found


def check_one_class(learner: IncrementalLearner[Any], plan: Plan) -> None:
    """Raise InputError for a model that could not say what is unusual, and for too few images to say it by."""
    symmetry = learner.symmetry
    if not learner.one_class or (symmetry is not None and symmetry.averages_scores):
        raise InputError(
            f"--one-class goes with strata and ridge, and a symmetry of one answer to all views: {learner.method}"
            f"{f' with symmetry={learner.settings.symmetry}' if learner.one_class else ''} cannot say how unusual an "
            "image of a single class is"
        )
    few = {name: n for name, n in Counter(p.entry.label for p in plan.learn).items() if name not in learner.classes}
    if few and min(few.values()) < FEWEST:
        name = min(few, key=lambda label: few[label])
        raise InputError(
            f"{count(few[name], 'good image')} of {name} to learn: what is usual takes {FEWEST} at least, better 50 "
            "(--hold-out 0 learns all there are)"
        )


def usual_images(learner: Any) -> int:
    """Return how many images, each left out, have said what is usual of a single class."""
    return round(float(learner.current.certainty.images))


def single_class_lines(learner: IncrementalLearner[Any], plan: Plan, one_class: bool) -> list[str]:
    """Say what a model can that will know a single class, and how well it will know what is usual."""
    known = {*learner.classes, *(picture.entry.label for picture in plan.learn)}
    images = len(plan.learn) + sum(not image.held_out for image in plan.seen.images)
    if len(known) > 1 and not one_class:
        return []
    if one_class:
        return [f"by {count(images, 'good image')}, false-alarm rates are known down to {1 / images:.1%}"]
    hint = "`predict` says how unusual an image is (--one-class, if that is meant)"
    if not learner.one_class:
        hint = "with strata or ridge, --one-class learns to say how unusual an image is"
    return [f"note: {next(iter(known))} is the only class, and so every answer; {hint}"]


def false_alarms(learner: IncrementalLearner[Any], images: Sequence[Any], workers: int) -> str:
    """Say how many good images that were not learned would be called unusual."""
    found = learner.predict(images, false_alarm_rate=UNUSUAL, workers=workers).unknown
    assert found is not None
    return (
        f"held-out images of the only class: {int(found.sum())} of {len(found)} would be called unusual, "
        f"{UNUSUAL:.0%} are to be expected"
    )


def say_right(
    given: Sequence[Path], learner: IncrementalLearner[Any], before: Sequence[Label], after: Sequence[Label]
) -> list[int]:
    """Print how many images are answered right by both, and return their rows: those in the folder of a class."""
    from continual.cli.opening import images_in

    names = [path.relative_to(place).parts[0] if place.is_dir() else "" for place in given for path in images_in(place)]
    known = {str(label) for label in learner.classes}
    rows = [row for row, name in enumerate(names) if name in known]
    if rows:
        right = [sum(str(answers[row]) == names[row] for row in rows) / len(rows) for answers in (before, after)]
        console().print(f"{count(len(rows), 'image')} answered right: {right[0]:.1%} -> {right[1]:.1%}")
    return rows
