"""The commands that share models: push, pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from continual.cli.loading import loading_pytorch
from continual.cli.options import Device, Method, Model, Weights, check_there
from continual.console import check_target, confirmed, console, count, size
from continual.errors import InputError
from continual.lifecycle import contents

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository on the Hugging Face hub.")]


@app.command()
def push(
    name: Name,
    model: Model,
    images: Annotated[
        Path | None,
        typer.Option("--images", "-i", metavar="DIR", help="Measure the card on these: one folder per class."),
    ] = None,
    license_: Annotated[str | None, typer.Option("--license", help="Of what was learned: apache-2.0.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make the repository public.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Upload without asking.")] = False,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Upload a model to the hub, with a card: accuracy, calibration, flips, consistency, licences."""
    check_there([images] if images is not None else [])
    found = contents.read(model)
    where = "a public" if public else "a private"
    about = f"{count(len(found.classes), 'class')}, {size(model.stat().st_size)}"
    if not (yes or confirmed(f"Upload {model} ({about}) to {where} repository {name}?")):
        console().print("nothing uploaded")
        return
    with loading_pytorch():
        from continual.cli import opening
        from continual.cli.progress import waiting
        from continual.lifecycle.hub import push_to_hub

    with waiting("measuring the card, and uploading"):
        learner = opening.load_learner(found, weights, device, method) if images is not None else None
        push_to_hub(model, name, images=images, learner=learner, license=license_, private=not public)
    console().print(f"{model}: {about}, at {name}")


@app.command()
def pull(
    name: Name, model: Model, revision: Annotated[str | None, typer.Option(help="A commit, or a tag.")] = None
) -> None:
    """Download a model from the hub; a file that is there already is not replaced."""
    check_target(model)
    if model.exists():
        raise InputError(f"{model} is there already: name a new file with --model")
    from continual import files
    from continual.cli.progress import waiting
    from continual.lifecycle.hub import fetched

    with waiting("downloading"), files.written(model) as temporary:
        temporary.write_bytes(fetched(name, revision=revision).read_bytes())
    found = contents.read(model)
    console().print(f"{model}: {found.method}, {count(len(found.classes), 'class')}, {size(model.stat().st_size)}")
