"""The commands that make a backbone of another one: compress and grow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.cli.loading import loading_pytorch
from continual.cli.options import Device, ModelArg, Workers, check_there
from continual.console import check_target, console, size
from continual.errors import InputError
from continual.lifecycle import locks

if TYPE_CHECKING:
    from continual.backbones.loading import Backbone

app = typer.Typer()

From = Annotated[
    str | None,
    typer.Option("--backbone", metavar="TAG|FILE", help="The backbone: timm's full tag, or a backbone file."),
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Its weights, where they are a file.")]
Out = Annotated[Path, typer.Option(metavar="FILE", help="The backbone file to write: .safetensors.")]
Seed = Annotated[int, typer.Option(help="Decides every random number.")]
Batch = Annotated[int, typer.Option(min=1, help="Images in a step.")]
Rate = Annotated[float, typer.Option(help="AdamW's rate.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")]


@app.command()
def compress(
    images: Annotated[
        Path,
        typer.Option(
            "--images", "-i", metavar="DIR", help="Some hundreds of images of anything, better thousands; no labels."
        ),
    ],
    out: Out,
    backbone: From = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    ratio: Annotated[float, typer.Option(help="How many times fewer numbers the blocks' layers hold.")] = 1.5,
    epochs: Annotated[int, typer.Option(min=0, help="Of distillation from the original; 0 leaves it out.")] = 3,
    lr: Rate = 3e-4,
    batch_size: Batch = 16,
    half: Annotated[bool, typer.Option("--half", help="Round all numbers to 16 bits: half the bytes.")] = False,
    seed: Seed = 1993,
    dry_run: DryRun = False,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Make a smaller backbone: its linear layers as two low-rank factors each.

    Factors are chosen by what enters the layers for your images, and then taught by the original what it makes of them.
    Use the file as --weights, or `port --to-weights` for a model that has learned. For files alone, `export --int8`
    stores all of a backbone in a quarter.
    """
    with _making(out, [images]):
        with loading_pytorch():
            from continual.cli import opening
            from continual.cli.progress import ProgressBars
            from continual.resizing.compressing import compressed, likeness, sizes
            from continual.resizing.images import Unlabelled

        remarks = console(stderr=True)
        with ProgressBars(remarks) as bars:
            original = _original(bars, "compress", backbone, weights, model_arg, device)
            found = sizes(original, ratio)
            paths = opening.readable([images], bars, original.preprocessing.channels)
            Unlabelled(paths, original)
            remarks.print(
                f"linear layers: {found.layers_before:,} numbers now, {found.layers_after:,} then; the whole backbone "
                f"{found.before:,} and {found.after:,}"
            )
            if dry_run:
                return
            given: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "workers": workers}
            seen, kept = _apart(paths, seed)
            made = compressed(original, seen, ratio=ratio, epochs=epochs, lr=lr, half=half, progress=bars, **given)
            if kept:
                few = list(Unlabelled(kept, original, least=1).batches(len(kept), batch_size, seed, workers))
                place = next(original.frozen.parameters()).device
                alike = likeness(made.frozen, original.frozen, [batch.to(place) for batch in few])
                remarks.print(f"of {len(kept)} images left out, it gives {alike:.0%} of the variance of features")
        _write(made, out, original, "" if half else " (with --half the new one takes half)")


@app.command()
def grow(
    out: Out,
    backbone: From = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    width: Annotated[int | None, typer.Option(min=1, help="Numbers a token; its own unless given.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks; its own unless given.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads; follows from the width.")] = None,
    how: Annotated[
        str, typer.Option(metavar="lossless|duplicate|mango", help="The same function, copies, or a trained operator.")
    ] = "lossless",
    steps: Annotated[int, typer.Option(min=0, help="Of training by duplicate or mango, on --images.")] = 0,
    rank: Annotated[int, typer.Option(min=1, help="Of mango's operator.")] = 1,
    images: Annotated[
        Path | None, typer.Option("--images", "-i", metavar="DIR", help="Images of anything; no labels are read.")
    ] = None,
    lr: Rate = 3e-4,
    batch_size: Batch = 16,
    seed: Seed = 1993,
    dry_run: DryRun = False,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Make a wider and deeper backbone of a small ViT of your own, to be pretrained further.

    For a larger backbone of general use, take a pretrained one, and move to it with `port`.
    """
    with _making(out, [] if images is None else [images]):
        with loading_pytorch():
            from continual.cli import opening
            from continual.cli.progress import ProgressBars
            from continual.resizing.growing import check, check_training, grown

        remarks = console(stderr=True)
        with ProgressBars(remarks) as bars:
            original = _original(bars, "grow", backbone, weights, model_arg, device)
            wide, deep = width or original.width, depth or original.depth
            check(original, wide, deep, heads, how)
            check_training(how, steps, rank, images is not None)
            remarks.print(f"{original.depth} blocks of width {original.width} now, {deep} of {wide} then")
            paths = None if images is None else opening.readable([images], bars, original.preprocessing.channels)
            if dry_run:
                return
            made = grown(
                original, paths, width=wide, depth=deep, heads=heads, how=how, steps=steps, rank=rank, lr=lr,  # type: ignore[arg-type]
                batch_size=batch_size, seed=seed, workers=workers, progress=bars,
            )  # fmt: skip
        _write(made, out, original)


@contextmanager
def _making(out: Path, images: list[Path]) -> Iterator[None]:
    """Refuse what is there already or cannot be written, and say what an interruption leaves: nothing."""
    check_there(images)
    check_target(out)
    if out.exists():
        raise InputError(f"{out} is there already: name a new file with --out")
    with locks.claimed(out):
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{out} was not written") from None


def _original(
    bars: Any, asks: str, name: str | None, weights: Path | None, model_arg: list[str] | None, device: str
) -> Backbone:
    """Load the backbone that a file or a tag names."""
    from continual import options
    from continual.backbones.loading import load_backbone
    from continual.cli import opening

    arguments = options.assignments("--model-arg", model_arg or ())
    if weights is None and name is not None and (file := opening.file_named(name)):
        name, weights = None, file
    if name is None and weights is None:
        name, arguments = opening.proposed_backbone(f"equimos {asks}", arguments, ask=False)
    with bars.waiting("loading the backbone"):
        return load_backbone(name, weights=weights, **arguments).on(options.device(device))


def _apart(paths: list[Path], seed: int) -> tuple[list[Path], list[Path]]:
    """Return images to work with, and up to a tenth, 100 at most, to see what came of it; none of fewer than 50."""
    import torch

    from continual.seeding import generator

    order = torch.randperm(len(paths), generator=generator(seed, "images left out")).tolist()
    count = min(len(paths) // 10, 100) if len(paths) >= 50 else 0
    return [paths[i] for i in order[count:]], [paths[i] for i in order[:count]]


def _write(made: Backbone, out: Path, original: Backbone, advice: str = "") -> None:
    """Write a backbone and say its size; `advice` is for where the original's file is no larger."""
    from continual.backbones.loading import save_backbone

    save_backbone(made, out)
    said = console()
    said.print(f"{out}: {made.recipe.words if made.recipe else made.name}, {size(out.stat().st_size)}")
    if original.weights_file is not None and Path(original.weights_file).is_file():
        before = Path(original.weights_file).stat().st_size
        hint = advice if out.stat().st_size >= before else ""
        said.print(f"the original's file takes {size(before)}{hint}")
