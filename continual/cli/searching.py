"""The command that searches for settings: search."""

from __future__ import annotations

from typing import Annotated

import typer

from continual import console, files
from continual.cli.loading import loading_pytorch
from continual.cli.options import Config, Csv, check_shares
from continual.errors import InputError

app = typer.Typer()


@app.command()
def search(
    config: Config,
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A row of the config.")],
    ranges: Annotated[
        list[str],
        typer.Argument(metavar="SETTING=RANGE", help="lr=log:1e-4..0.1 epochs=1..20 merge=ema,mean: what to try."),
    ],
    trials: Annotated[int, typer.Option(min=1, help="How many settings are tried.")] = 20,
    metric: Annotated[str, typer.Option(help="What is to be better: `equimos list metrics` names them.")] = "average",
    held_out: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of each class's training images to answer.")
    ] = 0.2,
    csv: Csv = None,
) -> None:
    """Search for a method's settings on part of a benchmark's training images: its test images are never looked at."""
    console.check_outputs(csv)
    check_shares(held_out=held_out)
    with loading_pytorch():
        from continual.experiments import shipped
        from continual.experiments.config import load_config
        from continual.experiments.searching import Range, Trial
        from continual.experiments.searching import search as searched

    asked = {}
    for text in ranges:
        name, equals, given = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is not of the form SETTING=RANGE, e.g. lr=log:1e-4..0.1")
        asked[name.strip()] = Range.parsed(given.strip())
    remarks = console.console(stderr=True)

    def done(number: int, trial: Trial) -> None:
        remarks.print(f"{number + 1} of {trials}: {console.pairs(trial.settings)}: {trial.figure:.4f}", markup=False)

    found = searched(
        load_config(shipped.find(config)),
        method,
        asked,
        trials=trials,
        metric=metric,
        held_out=held_out,
        done=done,
    )
    rows = [[*(trial.settings.get(name) for name in asked), trial.figure] for trial in found]
    if csv is not None:
        console.write_text(csv, files.csv_text([[*asked, metric], *rows]))
    if csv != console.STDOUT:
        console.show_rows([[*row[:-1], f"{row[-1]:.4f}"] for row in rows[:5]], *asked, metric)
        best = " ".join(f"methods.{method}.{name}={value}" for name, value in found[0].settings.items())
        remarks.print(f"the best, on all of the data: equimos run {config} {best}", markup=False)
