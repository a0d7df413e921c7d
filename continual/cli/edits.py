"""The commands that change a model without learning, and those on its versions: signatures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from continual.cli.options import Device, Json, Model, Set, Weights, Workers

app = typer.Typer()


@app.command()
def correct(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Images that were answered wrong.")],
    label: Annotated[str, typer.Option("--class", "-c", metavar="CLASS", help="What they are.")],
    model: Model,
    set_: Set = None,
    weights: Weights = None,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Set answers right: what the model remembers of a class, and its head, follow; nothing is trained anew."""
    from continual.cli import edit_commands

    edit_commands.correct(model, images, label, settings=set_ or (), weights=weights, device=device, workers=workers)


@app.command()
def forget(
    label: Annotated[str, typer.Argument(metavar="CLASS")],
    model: Model,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="Delete earlier versions that know it.")] = False,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Remove a class from a model: its statistics, prototype and head row; the others stay as they are."""
    from continual.cli import edit_commands

    edit_commands.forget(model, label, everywhere=everywhere, weights=weights, device=device)


@app.command()
def rename(
    old: Annotated[str, typer.Argument(metavar="OLD")],
    new: Annotated[str, typer.Argument(metavar="NEW")],
    model: Model,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Give a class another name."""
    from continual.cli import edit_commands

    edit_commands.rename(model, old, new, weights=weights, device=device)


@app.command()
def history(model: Model, json: Json = None) -> None:
    """List the versions of a model file: the last ten before the one in use are kept."""
    from continual.cli import edit_commands

    edit_commands.history(model, json)


@app.command()
def rollback(
    model: Model,
    number: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", help="See `equimos history`.", show_default="the one before")
    ] = None,
) -> None:
    """Go back to an earlier version of a model file; the one left is kept among the others."""
    from continual.cli import edit_commands

    edit_commands.rollback(model, number)
