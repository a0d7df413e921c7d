"""The command that makes one model of several: merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from continual.cli.options import Device, Method, Weights
from continual.console import check_target, console, count, size
from continual.errors import InputError
from continual.lifecycle import contents, versions
from continual.lifecycle.seen_images import SeenImage, SeenImages

app = typer.Typer()


@app.command()
def merge(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Two or more model files.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The new model file.")],
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Make one model of several that were learned at different places; no image is moved.

    For strata, ridge, simple_cil, and ranpac with epochs=0, it is the model that learning all images in one place
    gives.
    """
    from continual.cli.opening import load_learner
    from continual.learning.merged import merged

    if len(models) < 2:
        raise InputError("merge takes two model files at least: equimos merge A.safetensors B.safetensors --out M")
    check_target(out)
    if out.exists():
        raise InputError(f"{out} is there already: name a new file with --out")
    found = [contents.read(model) for model in models]
    learners = [load_learner(found[0], weights, device, method)]
    for file in found[1:]:
        same = file.header["backbone"]["sha256"] == found[0].header["backbone"]["sha256"]
        learners.append(load_learner(file, weights, device, method, backbone=learners[0].backbone if same else None))
    joint = merged(learners)
    seen, twice = joint_images([file.seen for file in found])
    event = f"merged {', '.join(model.name for model in models)}"
    versions.save(joint, out, event, embed_backbone=any(file.embedded for file in found), seen=seen)
    say = console().print
    for model, learner in zip(models, learners, strict=True):
        say(f"{model}: {count(len(learner.classes), 'class')}")
    say(f"{out}: {count(len(joint.classes), 'class')}, {size(out.stat().st_size)}")
    if shared := sorted(map(str, _shared([file.classes for file in found]))):
        say(f"known to more than one: {', '.join(shared)}")
    if twice:
        say(f"{count(twice, 'image')} learned by more than one, which count as often")


def joint_images(seen: list[SeenImages]) -> tuple[SeenImages, int]:
    """Return what all files say of images they have seen, and how many images more than one has learned.

    One that was learned anywhere is held out no longer.
    """
    every: dict[int, SeenImage] = {}
    learned: dict[int, int] = {}
    for image in (image for one in seen for image in one.images):
        learned[image.digest] = learned.get(image.digest, 0) + (not image.held_out)
        if image.digest not in every or not image.held_out:
            every[image.digest] = image
    known = {image.label for image in every.values()}
    forgotten = dict.fromkeys(label for one in seen for label in one.forgotten if label not in known)
    return SeenImages(tuple(every.values()), tuple(forgotten)), sum(times > 1 for times in learned.values())


def _shared(lists: list[list[str | int]]) -> set[str | int]:
    every = [label for one in lists for label in one]
    return {label for label in every if every.count(label) > 1}
