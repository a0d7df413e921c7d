"""The commands that take a model to where it is used: signatures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from continual.cli.options import Device, Model, Set, Weights

app = typer.Typer()


@app.command()
def export(
    model: Model,
    onnx: Annotated[
        Path, typer.Option(metavar="FILE|DIR", help="A file .onnx, or a folder for it and the runner to copy along.")
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", "-i", metavar="IMAGE|DIR", help="Compare with PyTorch on these, not on made-up ones."),
    ] = None,
    unknown_rate: Annotated[
        float, typer.Option(help="The share of known images that the runner may call unknown by default.")
    ] = 0.05,
    int8: Annotated[
        bool, typer.Option("--int8", help="The backbone's weights in 8 bits; says what that costs and saves.")
    ] = False,
    weights: Weights = None,
) -> None:
    """Write a model as one ONNX file, compared with PyTorch before it is done."""
    from continual.cli import deploy_commands

    deploy_commands.export(model, onnx, images=images or (), unknown_rate=unknown_rate, int8=int8, weights=weights)


@app.command()
def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for all, and then with a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="EQUIMOS_API_KEY",
            help="Answer only who sends it. Other users can read a command line: better set the variable.",
        ),
    ] = None,
    unknown_rate: Annotated[float, typer.Option(help="The share of known images that may be called unknown.")] = 0.05,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes of an image at most.")] = 10 * 2**20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image at most.")] = 25_000_000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for an upload, and for its answer.")] = 30.0,
    batch: Annotated[int, typer.Option(min=1, help="Images answered together at most.")] = 32,
    set_: Set = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Answer over HTTP, with a page to drop images on; a changed model file is taken up without a stop."""
    from continual.cli import deploy_commands

    deploy_commands.serve(
        model,
        host=host,
        port=port,
        api_key=api_key,
        unknown_rate=unknown_rate,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        timeout=timeout,
        batch=batch,
        settings=set_ or (),
        weights=weights,
        device=device,
    )


@app.command()
def consolidate(
    model: Model,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The new model file.")],
    images: Annotated[
        Path | None,
        typer.Option("--images", "-i", metavar="DIR", help="Measure the cost on these: one folder a class, or none."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write it without asking.")] = False,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Make a MOS model that answers in one pass, with a single stack; says first what that costs."""
    from continual.cli import deploy_commands

    deploy_commands.consolidate(model, out, images=images, yes=yes, weights=weights, device=device)
