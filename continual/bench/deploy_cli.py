"""The commands that take a model to where it is used: signatures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from continual.bench.shared_options import Model

app = typer.Typer()

Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Where the backbone's weights are now.")]


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
    weights: Weights = None,
) -> None:
    """Write a model as one ONNX file, compared with PyTorch before it is done."""
    from continual.bench import deploy_commands

    deploy_commands.export(model, onnx, images=images or (), unknown_rate=unknown_rate, weights=weights)
