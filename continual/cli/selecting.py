"""The command that says which images of a pool to label: select."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.cli.loading import loading_pytorch
from continual.cli.options import Device, Method, ModelArg, ValueRange, Weights, Workers
from continual.console import STDOUT, check_outputs, console, count, show_rows, write_text
from continual.errors import InputError
from continual.files import csv_text
from continual.lifecycle import contents

if TYPE_CHECKING:
    from continual.learning.pool import Selection
    from continual.lifecycle.seen_images import SeenImages

app = typer.Typer()


@app.command()
def select(
    images: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images at any depth.")],
    budget: Annotated[int, typer.Option("--budget", "-n", min=1, metavar="N", help="How many to label.")],
    by: Annotated[
        str, typer.Option(metavar="image|patterns", help="Groups of image features, or patterns in scenes (FreeSel).")
    ] = "image",
    known: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A model file: images that it has seen are left out, known ones count less."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a list to fill in labels, which `learn --images` takes."),
    ] = None,
    copy_to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy the images there, to be sorted into class folders.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every random number.")] = 1993,
    backbone: Annotated[str | None, typer.Option(metavar="TAG", help="timm's full tag; not with --known.")] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    value_range: ValueRange = None,
    method: Method = None,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Choose which images to label: so many that stand for all the others."""
    if by not in ("image", "patterns"):
        raise InputError(f"--by is image or patterns, not {by}")
    if known is not None and (backbone is not None or model_arg):
        raise InputError("--known brings its own backbone: leave --backbone and --model-arg out")
    if not images.is_dir():
        raise InputError(f"no folder at {images}: give a folder of images")
    check_outputs(None, csv)
    if copy_to is not None and copy_to.exists():
        raise InputError(f"{copy_to} is there already: name a new folder with --copy-to")
    found = None if known is None else contents.read(known)
    with loading_pytorch():
        from continual import options
        from continual.cli import opening
        from continual.cli.progress import ProgressBars
        from continual.learning.pool import select

    place, arguments = options.device(device), options.assignments("--model-arg", model_arg or ())
    with ProgressBars(console(stderr=True)) as bars:
        pool = opening.readable([images], bars, arguments.get("in_chans", 3) if found is None else found.channels)
        everything = len(pool)
        pool = pool if found is None else _unseen(pool, found.seen)
        if budget > len(pool):
            seen = f", and {everything - len(pool)} that the model has seen" if len(pool) < everything else ""
            raise InputError(f"--budget {budget} is more than the {len(pool)} images in {images}{seen}: ask for fewer")
        if found is None and backbone is None and weights is None:
            backbone, arguments = opening.proposed_backbone("selecting images", arguments, ask=True)
        with bars.waiting("loading the model"):
            learner = None if found is None else opening.load_learner(found, weights, device, method)
            names = [backbone] if backbone else []
            made = opening.backbone_of(names, weights or [], arguments).on(place) if learner is None else None
        how: dict[str, Any] = {"by": by, "seed": seed, "workers": workers, "value_range": value_range}
        picks = select(pool, budget, made, known=learner, progress=bars, **how)
    if copy_to is not None:
        _copy(picks, images, copy_to)
    if csv is not None:
        write_text(csv, _manifest(picks, (Path() if csv == STDOUT else csv.parent).absolute()))
    if csv != STDOUT:
        sizes: Sequence[int | None] = picks.stands_for or [None] * len(picks.indices)
        show_rows(zip(picks.paths or (), sizes, strict=True), "file", "stands for")
    say = console(stderr=True).print
    say(f"{count(len(picks.indices), 'image')} of {len(pool)} chosen")
    if csv is not None and csv != STDOUT:
        inside = all(path.absolute().is_relative_to(csv.parent.absolute()) for path in picks.paths or ())
        outside = "" if inside else " --outside"
        say(f"fill in the column label of {csv}, then: equimos learn --images {csv}{outside} --model FILE")


def _unseen(pool: list[Path], seen: SeenImages) -> list[Path]:
    from continual.lifecycle.entries import lookup

    return [path for path in pool if isinstance(lookup(path, seen), int)]


def _copy(picks: Selection, images: Path, folder: Path) -> None:
    """Copy what was picked into a new folder, under names that say where it lay."""
    folder.mkdir(parents=True)
    for path in picks.paths or ():
        target = wanted = folder / "__".join(path.relative_to(images).parts)
        number = 1
        while target.exists():  # a__b/c and a/b__c
            number += 1
            target = wanted.with_stem(f"{wanted.stem}-{number}")
        shutil.copy2(path, target)


def _manifest(picks: Selection, folder: Path) -> str:
    """Return a manifest without labels; paths below `folder` are relative to it."""
    sizes: Sequence[int | None] = picks.stands_for or [None] * len(picks.indices)
    lines: list[list[object]] = [["path", "label", "stands_for"]]
    for path, size in zip(picks.paths or (), sizes, strict=True):
        whole = path.absolute()
        short = whole.relative_to(folder) if whole.is_relative_to(folder) else whole
        lines.append([short.as_posix(), "", "" if size is None else size])
    return csv_text(lines, exact=True)
