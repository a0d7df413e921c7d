"""The command that makes one model of several: merge."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.backbones import described
from continual.cli.loading import loading_pytorch
from continual.cli.options import Device, Method, Weights, Workers, check_there
from continual.console import check_target, console, count, size
from continual.errors import InputError
from continual.lifecycle import contents, versions
from continual.lifecycle.seen_images import SeenImage, SeenImages

if TYPE_CHECKING:
    from continual.lifecycle.contents import ModelFile

#: combinations of labels shown
SHOWN = 5

app = typer.Typer()


@app.command()
def merge(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="Two or more model files.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The new model file.")],
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", "-i", metavar="DIR", help="For methods that train: some 200 images of anything, without labels."
        ),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            metavar="RULE", help="How slca, aper, ranpac merge what they trained: mean, or of `equimos list merging`."
        ),
    ] = None,
    args: Annotated[
        list[str] | None, typer.Option("--arg", metavar="KEY=VALUE", help="A setting of that rule: ratio=0.1.")
    ] = None,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Make one model of several that were learned at different places; no image that was learned is moved.

    For strata, ridge, simple_cil, and ranpac with epochs=0, it is the model that learning all images in one place
    gives. mos and ease keep the adapters of all models, slca, aper and ranpac merge what they trained by a rule; what
    they remember is mapped by images of anything, and a head is aligned again.
    """
    with loading_pytorch():
        from continual.cli.opening import load_learner, readable
        from continual.cli.progress import ProgressBars
        from continual.learning.merged import merged
        from continual.options import assignments

    if len(models) < 2:
        raise InputError("merge takes two model files at least: equimos merge A.safetensors B.safetensors --out M")
    places = [model.resolve() for model in models]
    if again := [model for number, model in enumerate(models) if places[number] in places[:number]]:
        raise InputError(f"{again[0]} is named twice, and its images would count twice: name each model once")
    if args and rule is None:
        raise InputError(f"--arg {args[0]} is a setting of a rule: name it with --rule")
    check_there([images] if images is not None else ())
    check_target(out)
    if out.exists():
        raise InputError(f"{out} is there already: name a new file with --out")
    found = [contents.read(model) for model in models]
    _check_backbones(found)
    with ProgressBars(console(stderr=True)) as bars:
        paths = readable([images], bars, found[0].channels) if images is not None else None
        with bars.waiting("loading the models"):
            learners = [load_learner(found[0], weights, device, method)]
            for file in found[1:]:
                backbone = learners[0].backbone if _network(file) == _network(found[0]) else None
                learners.append(load_learner(file, weights, device, method, backbone=backbone))
        settings = assignments("--arg", args or ())
        joint = merged(learners, paths, rule=rule, rule_args=settings, progress=bars, workers=workers)
    seen, twice = joint_images([file.seen for file in found])
    event = f"merged {', '.join(model.name for model in models)}"
    kept: dict[str, Any] = {"thumbnails": _together([file.thumbnails for file in found])}
    same = all(learner.common_weights() is None for learner in learners)
    if same:
        kept["held_out"] = _together([file.held_out for file in found])
    versions.save(joint, out, event, embed_backbone=any(file.embedded for file in found), seen=seen, **kept)
    if not same and any(file.held_out.digests for file in found):
        console(stderr=True).print(
            "note: features that were kept of held-out images are of other trained weights, and left out"
        )
    say = console().print
    for model, learner in zip(models, learners, strict=True):
        say(f"{model}: {count(len(learner.classes), 'class')}")
    say(f"{out}: {count(len(joint.classes), 'class')}, {size(out.stat().st_size)}")
    if shared := sorted(map(str, _shared([file.classes for file in found]))):
        say(f"known to more than one: {', '.join(shared)}")
    if twice:
        say(f"{count(twice, 'image')} learned by more than one, which count as often")
    if pairs := contradictions([file.seen for file in found]):
        shown = "; ".join(f"{' and '.join(labels)}: {times}" for labels, times in pairs.most_common(SHOWN))
        console(stderr=True).print(
            f"note: {count(pairs.total(), 'image')} with other labels in one model than in another ({shown}"
            f"{'; …' * (len(pairs) > SHOWN)}): set wrong ones right where they were learned, and merge again"
        )


def _network(file: ModelFile) -> list[dict[str, Any]]:
    """Return what decides a model's features, wherever its weights lie."""
    return [part | {"weights_file": None, "weights_fit": None} for part in described(file.header["backbone"])]


def _check_backbones(found: list[ModelFile]) -> None:
    """Raise InputError, with the command that brings it there, for a model of another backbone than the first."""

    def named(about: dict[str, Any]) -> str:
        return f"{' and '.join(part['name'] for part in described(about))} ({about['sha256'][:8]})"

    first = found[0].header["backbone"]
    given, *others = described(first)
    target = f"--to-weights {shlex.quote(given['weights_file'])}" if given["weights_file"] else f"--to {given['name']}"
    for file in found[1:]:
        its = file.header["backbone"]
        if its["sha256"] != first["sha256"]:
            why = f"its backbone is {named(its)}, not {named(first)}"
        elif other := _prepared_otherwise(its, first):
            why = f"it prepares images in another way ({', '.join(other)})"
        else:
            continue
        if others or len(described(its)) > 1:
            cure = "Learn one of them again on the other's"
        else:
            port = f"equimos port --model {shlex.quote(str(file.path))} {target}{_arguments(its, given)} --images DIR"
            cure = f"Bring it there: {port}"
        raise InputError(f"{file.path} cannot be merged with {found[0].path}: {why}. {cure}")


def _prepared_otherwise(its: dict[str, Any], first: dict[str, Any]) -> list[str]:
    """Return what of the preprocessing of one backbone's weights differs."""
    ways = [(_prepared(own), _prepared(other)) for own, other in zip(described(its), described(first), strict=True)]
    return [f"{key} is {own[key]}, not {other[key]}" for own, other in ways for key in own if own[key] != other[key]]


def _prepared(backbone: dict[str, Any]) -> dict[str, Any]:
    """Return how a backbone prepares images, also where an old file does not say all of it."""
    from continual.data.preprocessing import Preprocessing

    return vars(Preprocessing.from_json(backbone["preprocessing"]))


def _arguments(its: dict[str, Any], first: dict[str, Any]) -> str:
    """Return the --model-arg with which `port` makes the first model's backbone, whatever the other's is."""
    own, wanted = _prepared(its), _prepared(first)
    asked = {**first["model_args"], **{key: value for key, value in wanted.items() if value != own[key]}}
    if size := asked.pop("size", None):
        asked.setdefault("img_size", size)
    return "".join(f" --model-arg {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in asked.items())


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


def contradictions(seen: list[SeenImages]) -> Counter[tuple[str, ...]]:
    """Return how many images have several labels, by those labels."""
    labels: dict[int, set[str]] = {}
    for image in (image for one in seen for image in one.images):
        labels.setdefault(image.digest, set()).add(str(image.label))
    return Counter(tuple(sorted(own)) for own in labels.values() if len(own) > 1)


def _together(kept: list[Any]) -> Any:
    """Return the features of held-out images, or the thumbnails, of all files; of one image, those of the first."""
    there, *others = kept
    for other in others:
        there = there.plus(other.only(set(other.digests).difference(there.digests)))
    return there


def _shared(lists: list[list[str | int]]) -> set[str | int]:
    every = [label for one in lists for label in one]
    return {label for label in every if every.count(label) > 1}
