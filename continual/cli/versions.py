"""The commands on the versions of a model file: history, rollback."""

from __future__ import annotations

from typing import Annotated

import typer

from continual.cli.options import Json, Model
from continual.console import check_outputs, check_target, console, count, show_rows, size, write_json
from continual.lifecycle import locks, versions

app = typer.Typer()


@app.command()
def history(model: Model, json: Json = None) -> None:
    """List the versions of a model file: the last ten before the one in use are kept."""
    check_outputs(json)
    found = [version.about() for version in versions.versions(model)]
    if json is not None:
        write_json(json, found)
        return
    rows: list[tuple[object, ...]] = []
    for row in found:
        about = row["version"], row["date"], row["event"], len(row["classes"]), size(row["bytes"])
        figures = (f"{held['accuracy']:.1%}", held["negative_flips"]) if (held := row["held_out"]) else (None, None)
        rows.append((*about, *figures, "in use" if row["current"] else ""))
    show_rows(rows, "version", "date", "what was done", "classes", "size", "held-out right", "broke", "")


@app.command()
def rollback(
    model: Model,
    number: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", help="See `equimos history`.", show_default="the one before")
    ] = None,
) -> None:
    """Go back to an earlier version of a model file; the one left is kept among the others."""
    check_target(model)
    with locks.claimed(model):
        about = versions.rollback(model, number).about()
    console().print(f"{model}: version {about['version']} of {about['date']}, {count(len(about['classes']), 'class')}")
