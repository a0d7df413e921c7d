"""The command that moves a model to another backbone: port."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.cli.changes import show_review, stop
from continual.cli.loading import loading_pytorch
from continual.cli.options import Device, Method, Model, ModelArg, Weights, Workers, check_shares, check_there
from continual.console import can_ask, check_target, confirmed, console, count, size
from continual.errors import InputError
from continual.lifecycle import contents, locks, versions

if TYPE_CHECKING:
    from continual.data.inputs import Label
    from continual.learning.porting import PortReport
    from continual.lifecycle.seen_images import SeenImages

app = typer.Typer()


@app.command()
def port(
    images: Annotated[
        Path,
        typer.Option(
            "--images", "-i", metavar="DIR", help="Some 200 images of anything, at any depth; no labels are read."
        ),
    ],
    model: Model,
    to: Annotated[
        str | None, typer.Option(metavar="TAG|FILE", help="The new backbone: timm's full tag, or a backbone file.")
    ] = None,
    to_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Its weights; of the model's own architecture unless they or --to say another."
        ),
    ] = None,
    model_arg: ModelArg = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A new model file; without, the model's next version.")
    ] = None,
    keep_answers: Annotated[
        float,
        typer.Option(
            min=0, metavar="WEIGHT", help="Hold an aligned head (mos, tuna, slca) to its old answers: 1, say."
        ),
    ] = 0.0,
    max_flips: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Keep nothing if more than this share of answers was right and is not now."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be kept and lost; change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Keep it without being asked.")] = False,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Move a model to another backbone without the images it has learned.

    A map of old features to new ones is fitted on a few unlabelled images; what is remembered of classes follows it,
    adapters are copied. Says how much of the new features the old ones explain, and which answers are expected to
    break, and asks before it keeps the result. Below 30 % explained it is refused. Exit code 1: the answer was no, or
    --max-flips was passed.
    """
    check_shares(max_flips=max_flips)
    check_there([images])
    target = out or model
    check_target(target)
    if out is not None and out.exists():
        raise InputError(f"{out} is there already: name a new file with --out")
    if not (yes or dry_run or can_ask()):
        raise InputError("there is no terminal to ask on: --yes keeps it without asking, --dry-run shows what is lost")
    with loading_pytorch():
        from continual import options
        from continual.cli import opening
        from continual.cli.progress import ProgressBars, waiting
        from continual.learning.porting import LEAST_IMAGES
        from continual.lifecycle.review import review

    remarks = console(stderr=True)
    with locks.claimed(target):
        found = contents.read(model)
        left = f"{model} is as it was"
        try:
            with waiting("loading the model"):
                learner = opening.load_learner(found, weights, device, method)
            with waiting("loading the new backbone"):
                arguments = options.assignments("--model-arg", model_arg or ())
                backbone = opening.successor(found, to, to_weights, arguments)
            before = learner.variant()
            with ProgressBars(remarks) as bars:
                paths = opening.readable([images], bars, found.channels)
                held_out, rest = _known(paths, found.seen)
                # A map is not judged by images that it was fitted to.
                judging = held_out if len(rest) >= LEAST_IMAGES else []
                given: dict[str, Any] = {"progress": bars, "workers": workers}
                report = learner.port(backbone, rest if judging else paths, keep_answers=keep_answers, **given)
                if report.same and out is None:
                    console().print(f"{model}: its backbone is this one already; nothing to port")
                    return
                outcome = review(before, learner, judging, simulation=report.simulation, **given)
            for line in _lines(report, before.backbone.name, backbone.name):
                remarks.print(line)
            if held_out and not (judging or report.same):
                remarks.print(
                    f"note: all of --images were mapped by, so those held out do not judge it: without them there are "
                    f"{len(rest)}, and {LEAST_IMAGES} are needed"
                )
            kept: dict[str, Any] = {}
            if report.same:
                kept = {"held_out": found.held_out, "thumbnails": found.thumbnails}
            elif found.held_out.digests or found.thumbnails.digests:
                remarks.print(
                    "note: what was kept of images (features, thumbnails) is the old backbone's, and left out"
                )
            show_review(outcome, "Held-out images of them among --images would tell")
            if dry_run:
                return
            keeping = "--keep-answers 1" if learner.heeds_keep_answers and not keep_answers else None
            if broken := outcome.too_much(max_flips, keeping):
                stop(f"not kept, {broken}; {left}")
            if not (yes or confirmed("Keep it?")):
                stop(f"not kept; {left}")
            event = f"ported from {_described(found.header['backbone'])} to {_described(backbone.describe())}"
            kept |= {"embed_backbone": found.embedded, "seen": found.seen, "figures": outcome.figures()}
            versions.save(learner, target, event, **kept)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(left) from None
    console().print(f"{target}: {event}; {count(len(learner.classes), 'class')}, {size(target.stat().st_size)}")


def _known(paths: list[Path], seen: SeenImages) -> tuple[list[tuple[Path, Label]], list[Path]]:
    """Return held-out images of the model's that are among the images, with their classes, and the other images."""
    from continual.lifecycle.entries import lookup

    entries = [(path, lookup(path, seen)) for path in paths] if seen.images else []
    held_out = [(path, one.label) for path, one in entries if not isinstance(one, int) and one.held_out]
    rest = [path for path in paths if path not in {path for path, _ in held_out}]
    return held_out, rest


def _lines(report: PortReport, old: str, new: str) -> list[str]:
    """Say how well features were mapped."""
    if report.same:
        return []
    least, most = min(report.explained), max(report.explained)
    share = f"{least:.1%}" if len(report.explained) == 1 else f"{least:.1%} to {most:.1%} under its adapters"
    return [
        f"{old} to {new}, by {count(report.images, 'image')}",
        f"variance of the new features that the old ones explain, of images left out: {share}",
    ]


def _described(about: dict[str, Any]) -> str:
    """Return a backbone's name with the beginning of its digest: two of one name differ."""
    return f"{about['name']} ({about['sha256'][:8]})"
