"""Options that several scripts have, written once: for typer's signatures, and for argparse where lists need spaces."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Any

import typer

Images = Annotated[Path, typer.Option(help="A folder with train/CLASS and test/CLASS.")]
Weights = Annotated[Path, typer.Option(help="The network's weights.")]
AnyWeights = Annotated[Path | None, typer.Option(help="The network's weights; random ones without.")]
Learners = Annotated[Path, typer.Option(help="What real_streams.py wrote.")]
Out = Annotated[Path, typer.Option(help="Where results go.")]
Figures = Annotated[Path, typer.Option("--out", help="The file of figures; what it holds is not measured again.")]
Name = Annotated[str, typer.Option(help="Of the files written.")]
Size = Annotated[int, typer.Option(help="Side of the images in pixels.")]
PerClass = Annotated[int, typer.Option(help="Training images of each class.")]
Seeds = Annotated[list[int], typer.Option(help="Of the order of classes.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]

SEEDS = [1993, 1994, 1995]
_WITH_SPACES: dict[str, dict[str, Any]] = {
    "images": {"type": Path, "required": True, "help": "a folder with train/CLASS and test/CLASS"},
    "weights": {"type": Path, "required": True, "help": "of a DINOv2 ViT, say"},
    "out": {"type": Path, "required": True},
    "pixels": {"type": int, "default": 98},
    "size": {"type": int, "default": 98, "help": "pixels"},
    "half": {"choices": ("tune", "report", "all"), "default": "report"},
    "per_class": {"type": int, "default": 20, "help": "training images per class"},
    "test": {"type": int, "default": 25, "help": "test images per class"},
    "remember": {"type": Path, "help": "a file that keeps what the ViT says of images"},
    "adapters": {"action": "store_true", "help": "train adapters instead of summing"},
    "seeds": {"type": int, "nargs": "+", "default": SEEDS},
}


def parser(text: str | None, *names: str, **changed: dict[str, Any]) -> argparse.ArgumentParser:
    """Return a parser with some of the shared options, and those that a script has otherwise."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in (*names, *changed):
        option = f"--{name.replace('_', '-')}"
        made.add_argument(option, **{**_WITH_SPACES.get(name, {}), **changed.get(name, {})})
    return made
