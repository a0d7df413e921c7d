"""The sub-command `equimos equivariance`: its options alone; the work is loaded when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from continual.cli.options import Csv, Device, Images, Json, ModelArg

app = typer.Typer(
    help="Check, tune and evaluate models on turned and mirrored images.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="timm's full tag, torchvision/NAME.WEIGHTS, clip/NAME.WEIGHTS, or a .safetensors file: weights that "
        "name their model, a model of `equimos learn`, or of `equivariance tune`.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        "-g",
        help="By which to move the images: C4, D4, mirror_h, C8, ... For a model of `tune` it may be another than "
        "its own.",
        show_default="the file's, or C4",
    ),
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Local weights for the model.")]
Size = Annotated[int | None, typer.Option(min=1, help="Side of the input, for networks that take any.")]


@app.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Show the help where no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def check(
    model: Model,
    group: Group = None,
    images: Annotated[
        Path | None, typer.Option("--images", "-i", metavar="DIR", help="Real images; random input without.")
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="How many images.")] = 8,
    wrapper: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="plain, equitune, lambda, equizero, canonicaliser, max, pruned; e.g. equizero,proxy=similarity.",
            show_default="plain",
        ),
    ] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    size: Size = None,
    float64: Annotated[bool, typer.Option("--float64", help="Compute in double precision.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a report here: by element, layer and image size.")
    ] = None,
    json: Json = None,
    device: Device = "auto",
) -> None:
    """Say whether a model's answer ignores the motions of a group, element by element.

    Exit code 0 if it is equivariant, 1 if it is not, 2 for a mistake.
    """
    from continual.experiments.equivariance.check import check

    good = check(
        model,
        group,
        images,
        weights=weights,
        model_args=model_arg or (),
        size=size,
        wrapper=wrapper,
        number=number,
        float64=float64,
        report=report,
        json_file=json,
        device=device,
    )
    if not good:
        raise typer.Exit(1)


@app.command()
def tune(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file, as in configs/equivariance.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Change the config, e.g. data.per_class=20 group=D4."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The study's folder.", show_default="runs/NAME-OF-CONFIG")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything on random weights; download, train and write nothing.")
    ] = False,
) -> None:
    """Tune and compare wrappers on upright and turned images. The same command goes on with an interrupted study."""
    from continual.experiments.equivariance.tune import tune

    tune(config, changes or (), out, dry_run)


@app.command()
def evaluate(
    model: Model,
    images: Images,
    group: Group = None,
    wrapper: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="A row of the table: plain, equitune, lambda, equizero, canonicaliser, max, pruned.",
            show_default="plain, equitune, equizero, max",
        ),
    ] = None,
    fit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Fit a linear head to these upright images first.")
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A prompt for CLIP: 'a photo of a {}.'")
    ] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    size: Size = None,
    per_class: Annotated[int | None, typer.Option(min=1, help="Use only so many images a class.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write results.json, .csv, .md and .png here.")
    ] = None,
    json: Json = None,
    csv: Csv = None,
    device: Device = "auto",
) -> None:
    """Measure accuracy upright and turned, and how stable the answers are over the orbit, for several wrappers."""
    from continual.experiments.equivariance.evaluate import evaluate

    evaluate(
        model,
        images,
        group,
        wrappers=wrapper or (),
        fit=fit,
        templates=template or (),
        weights=weights,
        model_args=model_arg or (),
        size=size,
        per_class=per_class,
        batch_size=batch_size,
        out=out,
        json_file=json,
        csv_file=csv,
        device=device,
    )
