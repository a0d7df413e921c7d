"""Models as commands open them: settings for now, the learner, and what may not be asked. This loads torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from continual import distributed, options
from continual.backbones import described, loading, recommended
from continual.backbones.descriptions import rebuild, with_weights
from continual.backbones.joined import side_by_side
from continual.backbones.loading import Backbone
from continual.backbones.recipes import of_header
from continual.backbones.weights import noted, read_weights
from continual.console import can_ask, confirmed, console
from continual.data import images
from continual.data.preprocessing import Preprocessing
from continual.errors import InputError
from continual.learning.extractor import Progress
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import make
from continual.lifecycle.contents import ModelFile
from continual.methods import RECOMMENDED, load, method, methods, with_preset


def images_in(given: Path, *, say: bool = False, channels: int = 3) -> list[Path]:
    """Return the images below a folder, or the one image given; `say` on the terminal what is left out."""
    if not given.is_dir():
        return [given]
    found, others = images.image_files(given, channels), images.unread(given, channels=channels)
    if found and others and say:
        console(stderr=True).print(f"left out of {given}: {others}", markup=False)
    if not found:
        raise InputError(f"{given} holds no images{f' but {others}' if others else ''}")
    return found


def readable(given: Iterable[Path], progress: Progress, channels: int = 3) -> list[Path]:
    """Return the images below some folders, or given themselves; raises InputError that names those that are broken.

    `channels` is how many the model takes.
    """
    paths, broken = [path for place in given for path in images_in(place, say=True, channels=channels)], ""
    try:
        images.check_readable(distributed.turns(paths), progress, channels)
    except InputError as error:
        broken = str(error)
    if found := [said for said in distributed.exchange(broken) if said]:
        raise InputError("\n".join(found))
    return paths


def settings_now(found: ModelFile, pairs: Sequence[str] | None, own: str | None) -> dict[str, Any]:
    """Return settings to answer with, from `key=value`, once the method's `own` code is loaded, if there is any.

    Raises InputError for those that a model cannot change, and for a method that is not the model's.
    """
    if own is not None and (name := with_preset(own)[0]) != found.method:
        raise InputError(f"--method {own} is {name}, but {found.path} is a model of {found.method}")
    asked, kind = options.assignments("--set", pairs or ()), method(found.method).settings_type
    if refused := sorted(asked.keys() - kind.at_inference):
        able = ", ".join(sorted(kind.at_inference))
        raise InputError(f"--set {refused[0]}: of a model that exists, {able} can be set for answers")
    make(kind, **{**found.header["settings"], **asked})
    return asked


def load_learner(
    found: ModelFile,
    weights: Sequence[Path] | None,
    device: str,
    own: str | None = None,
    settings: Sequence[str] | None = None,
    backbone: Backbone | None = None,
) -> IncrementalLearner[Any]:
    """Load the model with the settings of `settings_now`, on a backbone that was loaded before, if it is given.

    `weights`, where given, are used even if the model embeds its backbone, and must be the same.
    """
    now, place = settings_now(found, settings, own), options.device(device)
    description = found.header["backbone"]
    if backbone is None and weights:
        backbone = rebuild(with_weights(description, weights))
    elif backbone is None and not found.embedded:
        files = [part["weights_file"] for part in described(description)]
        if gone := [file for file in files if file is not None and not Path(file).is_file()]:
            each = f", once for each of its {len(files)} backbones" if len(files) > 1 else ""
            raise InputError(
                f"the backbone's weights of {found.path} were at {gone[0]}: say where they are with --weights{each}"
            )
    return load(found.path, backbone, device=place).variant(**now)


def checked(name: str | None, preset: str | None, settings: dict[str, Any]) -> str:
    """Return the method of a new model; raises InputError for one, or for settings, that there are not."""
    try:
        make(method(name or RECOMMENDED).settings_type, preset, **settings)
    except InputError as error:
        if name is not None:
            raise
        raise InputError(f"{error} (the method is {RECOMMENDED} unless --method names another, such as mos)") from None
    return name or RECOMMENDED


def backbone_of(names: Sequence[str], files: Sequence[Path], arguments: dict[str, Any]) -> Backbone:
    """Load the backbones of a new model, side by side if there are several.

    Raises InputError for names and weights files that are not as many.
    """
    if names and files and len(names) != len(files):
        raise InputError(
            f"--backbone is given {len(names)} times and --weights {len(files)} times: give a file for each, in the "
            "same order, or no name for files that say theirs; one from the hub and one from a file can be in Python"
        )
    count = max(len(names), len(files))
    asked = options.for_each("--model-arg", arguments, count)
    return side_by_side(
        [loading.load_backbone(name, weights=file, **own) for name, file, own in zip_longest(names, files, asked)]
    )


def proposed_backbone(asks: str, arguments: dict[str, Any], *, ask: bool) -> tuple[str, dict[str, Any]]:
    """Return a recommended backbone and its arguments, if its weights are here or may be fetched.

    Raises InputError that says what `asks` for one, and names those there are.
    """
    choice = recommended.there()
    first = recommended.RECOMMENDED[0]
    if (
        choice is None
        and ask
        and can_ask()
        and confirmed(f"No backbone is named. Fetch {first.tag} from the Hugging Face hub ({first.megabytes} MB)?")
    ):
        choice = first
    if choice is None:
        shown = "; ".join(f"{own.tag} ({own.summary})" for own in recommended.RECOMMENDED)
        raise InputError(
            f"{asks} needs a backbone: --backbone TAG, or --weights FILE. `equimos list backbones` recommends {shown}"
        )
    made = {**choice.model_args, **arguments}
    words = "".join(f" --model-arg {key}={value}" for key, value in made.items())
    console(stderr=True).print(f"no backbone is named: --backbone {choice.tag}{words} is taken")
    return choice.tag, made


def file_named(name: str) -> Path | None:
    """Return the file that a backbone's name is, or seems to be, and None for a tag of timm's."""
    path = Path(name)
    return path if path.is_file() or path.suffix == ".safetensors" else None


def successor(found: ModelFile, name: str | None, weights: Path | None, arguments: dict[str, Any]) -> Backbone:
    """Return the backbone to which a model is to be ported, by its tag, or by a file of its weights.

    Of the same architecture, it has the model's arguments and preprocessing unless its file says others or they are
    given; of another one, how images are cropped and mirrored in training. Raises InputError for neither tag nor
    weights.
    """
    about, *others = described(found.header["backbone"])
    if others:
        raise InputError(f"{found.path} has several backbones side by side: port them in Python, or learn from scratch")
    said: dict[str, Any] = {}
    if weights is None and name is not None and (file := file_named(name)):
        name, weights = None, file
    if weights is not None and name is None:
        metadata = read_weights(weights)[1]
        named, said = noted(metadata)
        name, said = named or about["name"], {**said, **of_header(metadata)[1]}
    if name is None:
        raise InputError("port needs the new backbone: --to TAG, or --to-weights FILE")
    prepared = vars(Preprocessing.from_json(about["preprocessing"]))
    kept = {key: prepared[key] for key in ("crop_scale", "mirror", "augment")}
    if name == about["name"]:
        kept = {**about["model_args"], **{key: prepared[key] for key in Preprocessing.changeable()}}
    kept = {key: value for key, value in kept.items() if key not in said}
    return loading.load_backbone(name, weights=weights, **{**kept, **arguments})


def refuse_changes(
    found: ModelFile,
    backbones: Sequence[str],
    arguments: dict[str, Any],
    method_name: str | None,
    preset: str | None,
    settings: dict[str, Any],
) -> None:
    """Raise InputError if options say something else than the model that exists."""
    parts, kept = described(found.header["backbone"]), found.header["settings"]
    problems = []
    if method_name not in (None, found.method):
        problems.append(f"--method {method_name} (it is {found.method})")
    if backbones and [*backbones] != (names := [part["name"] for part in parts]):
        said = " ".join(f"--backbone {name}" for name in backbones)
        problems.append(f"{said} (it is {' and '.join(names)})")
    for part, own in zip(parts, options.for_each("--model-arg", arguments, len(parts)), strict=True):
        prepared = {k: part["preprocessing"].get(k) for k in Preprocessing.changeable()}
        there = {**part["model_args"], **prepared}
        problems += [f"--model-arg {k}={v} (it is {there.get(k)})" for k, v in own.items() if there.get(k) != v]
    kind = method(found.method).settings_type
    named = {*settings, *kind.presets.get(preset or "", ())}
    asked = make(kind, preset, **settings).model_dump(include=named - kind.at_inference - kind.at_training)
    problems += [f"{k}={v} (it is {kept.get(k)})" for k, v in asked.items() if kept.get(k) != v]
    if problems:
        raise InputError(
            f"{found.path} exists and keeps what it was made with, which conflicts with {', '.join(problems)}: leave "
            f"that out, or name a new file with --model"
        )


def check_keeping(learner: IncrementalLearner[Any], keep: int | None) -> None:
    """Raise InputError if features are to be kept from which answers could not be known later."""
    if keep and learner.edited is not learner:
        raise InputError(
            "--keep-held-out keeps features of the backbone as it was, and this model answers by an edited one: leave "
            "it out, or allow the concept first (equimos concept allow)"
        )
    if keep and (learner.settings.group is not None or not learner.fixed_features):
        able = ", ".join(name for name in methods() if method(name).fixed_features)
        asked = learner.method if learner.settings.group is None else f"a model with group={learner.settings.group}"
        raise InputError(
            f"--keep-held-out goes with methods whose features never change ({able}), and without a group; of {asked}, "
            "leave it out"
        )
