"""The commands `equimos concept ...`: check, suppress, allow, find."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.cli.changes import claimed
from continual.cli.loading import loading_pytorch
from continual.cli.options import Device, Json, Method, Model, Weights, Workers, check_there
from continual.console import STDOUT, check_outputs, console, show_rows, write_json
from continual.errors import BackboneError, InputError, nearest
from continual.lifecycle import contents, versions

if TYPE_CHECKING:
    from continual.learning.concept import Concept
    from continual.lifecycle.contents import ModelFile

app = typer.Typer(
    help="How much a model uses a watermark, a border or a background; and taking it out.", no_args_is_help=True
)

Pool = Annotated[
    Path | None, typer.Option("--images", "-i", metavar="DIR", help="Images of anything, which get the stamp.")
]
StampFile = Annotated[
    Path | None, typer.Option("--stamp", metavar="FILE", help="The picture that is put on: a logo, or a border.")
]
Size = Annotated[
    float, typer.Option(help="The stamp's larger side, as a share of an image's smaller; 1 covers the whole image.")
]
With = Annotated[Path | None, typer.Option("--with", metavar="DIR", help="Images that have it.")]
Without = Annotated[Path | None, typer.Option("--without", metavar="DIR", help="Images like them that do not.")]
Name = Annotated[str | None, typer.Option(help="What it is called.", show_default="the stamp's or the folder's name")]


@app.command()
def check(
    model: Model, images: Pool = None, stamp: StampFile = None, size: Size = 0.25, with_: With = None,
    without: Without = None, name: Name = None, json: Json = None, method: Method = None, weights: Weights = None,
    device: Device = "auto", workers: Workers = 0,
) -> None:  # fmt: skip
    """Say how much a model uses something: whether it sees it, and how many answers change with it."""
    check_outputs(json)
    _check_given(images, stamp, with_, without)
    found = contents.read(model)
    with loading_pytorch():
        from continual.cli.opening import load_learner
        from continual.cli.progress import ProgressBars

    concept = made(images, stamp, size, with_, without, name, found.channels)
    with ProgressBars(console(stderr=True)) as bars:
        with bars.waiting("loading the model"):
            learner = load_learner(found, weights, device, method)
        use = learner.concept_use(concept, progress=bars, workers=workers)
    if write_json(json, asdict(use)):
        for line in use.lines:
            console().print(line)


@app.command()
def suppress(
    model: Model, images: Pool = None, stamp: StampFile = None, size: Size = 0.25, with_: With = None,
    without: Without = None, name: Name = None,
    edit: Annotated[
        str,
        typer.Option(
            metavar="head|mlp", help="What is changed; mlp, rows of the backbone's MLPs, is experimental."
        ),
    ] = "head",
    strength: Annotated[
        float | None,
        typer.Option(
            help="How much a change of values costs; 100 was no better. Of mlp: how far rows are moved, in their mean "
            "length, of either sign.",
            show_default="10; of mlp 0.3",
        ),
    ] = None,
    method: Method = None, weights: Weights = None, device: Device = "auto", workers: Workers = 0,
) -> None:  # fmt: skip
    """Let a model use something less, from what it remembers; a new version, which later experiences keep to."""
    _check_given(images, stamp, with_, without)
    with claimed(model) as found:
        with loading_pytorch():
            from continual.cli.opening import load_learner
            from continual.cli.progress import ProgressBars

        concept = made(images, stamp, size, with_, without, name, found.channels)
        with ProgressBars(console(stderr=True)) as bars:
            with bars.waiting("loading the model"):
                learner = load_learner(found, weights, device, method)
            before = learner.concept_use(concept, progress=bars, workers=workers)
            learner.suppress(concept, strength, edit=edit, progress=bars, workers=workers)  # type: ignore[arg-type]
            after = learner.concept_use(concept, progress=bars, workers=workers)
        if edit == "mlp":
            say = console(stderr=True).print
            say("--edit mlp is experimental, and won nothing where it was measured (docs/concepts.md)")
            if found.held_out.digests:
                say("note: features that were kept of held-out images are of the backbone as it was, and left out")
        how = " by an edit of MLPs" if edit == "mlp" else ""
        _save(learner, model, found, f"suppressed {concept.name}{how}", held_out=edit != "mlp")
    what = "answers that change with it" if concept.paired else "how far answers with and without it differ"
    console().print(f"{model}: {concept.name} suppressed; {what}: {after.changed:.1%}, {before.changed:.1%} before")
    back = shlex.join(["equimos", "concept", "allow", concept.name, "--model", str(model)])
    console(stderr=True).print(f"`{back}` takes that back")


@app.command()
def allow(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of what was suppressed.")],
    model: Model, method: Method = None, weights: Weights = None, device: Device = "auto",
) -> None:  # fmt: skip
    """Take a `suppress` back: the answers are those that the model would have without it."""
    with claimed(model) as found:
        known = [str(one["name"]) for one in found.header["state"].get("ignored") or ()]
        if name not in known:
            raise InputError(f"{model} suppresses no {name!r}: {nearest(name, known) if known else 'nothing at all'}")
        with loading_pytorch():
            from continual.cli.opening import load_learner
            from continual.cli.progress import waiting

        with waiting("loading the model"):
            learner = load_learner(found, weights, device, method)
        learner.allow(name)
        _save(learner, model, found, f"allowed {name}")
    console().print(f"{model}: {name} is not suppressed any more")


@app.command()
def find(
    model: Model,
    images: Annotated[Path, typer.Option("--images", "-i", metavar="DIR", help="Images as the model gets them.")],
    words: Annotated[
        list[str], typer.Option("--word", "-w", metavar="TEXT", help="A thing that it may use; give several.")
    ],
    clip: Annotated[str, typer.Option(metavar="NAME.TAG", help="open_clip's name and weights.")] = "ViT-B-32.openai",
    clip_weights: Annotated[Path | None, typer.Option(metavar="FILE", help="CLIP's weights, not by a tag.")] = None,
    json: Json = None, method: Method = None, weights: Weights = None, device: Device = "auto", workers: Workers = 0,
) -> None:  # fmt: skip
    """Rank things by how much a model's answers go along with them, by CLIP: a report, which proves nothing."""
    check_outputs(json)
    check_there([images])
    if len(words) < 2:
        raise InputError("find ranks things against one another: give --word twice or more")
    found = contents.read(model)
    with loading_pytorch():
        from continual.cli import opening
        from continual.cli.progress import ProgressBars
        from continual.experiments.named_concepts import ranked
        from continual.learning.concept import check_pictures

    check_pictures(found.channels)
    with ProgressBars(console(stderr=True)) as bars:
        paths = opening.readable([images], bars)
        with bars.waiting("loading the model"):
            learner = opening.load_learner(found, weights, device, method)
        try:
            rows = ranked(learner, paths, words, clip, clip_weights, progress=bars, workers=workers)
        except BackboneError as error:
            raise BackboneError(str(error).replace("weights=FILE", "--clip-weights FILE")) from error
    if write_json(json, [asdict(row) for row in rows]):
        table = [(row.name, f"{row.spread:.2f}", row.most, row.least) for row in rows]
        show_rows(table, "thing", "spread", "most with", "least with")
    if json != STDOUT:
        console(stderr=True).print("a large spread is a hint, not a proof: `equimos concept check` measures")


def made(
    images: Path | None,
    stamp: Path | None,
    size: float,
    with_: Path | None,
    without: Path | None,
    name: str | None,
    channels: int,
) -> Concept:
    """Return the concept that options name, for a model of images of so many channels."""
    from continual.learning.concept import Concept, check_pictures

    check_pictures(channels)
    if stamp is not None:
        assert images is not None
        return Concept.of(images, stamp=stamp, size=size, name=name)
    return Concept.of(with_, without, name=name)


def _check_given(images: Path | None, stamp: Path | None, with_: Path | None, without: Path | None) -> None:
    pairs, folders = (stamp, images), (with_, without)
    if (None in pairs) == (None in folders) or (any(pairs) and any(folders)):
        raise InputError("name it by --stamp FILE and --images DIR, or by --with DIR and --without DIR")
    check_there(place for place in (*pairs, *folders) if place is not None)


def _save(learner: Any, model: Path, found: ModelFile, event: str, *, held_out: bool = True) -> None:
    """Make a new version; all else is as it was, except for features of held-out images if they are left out."""
    kept: Any = {"held_out": found.held_out if held_out else None, "thumbnails": found.thumbnails}
    versions.save(learner, model, event, embed_backbone=found.embedded, seen=found.seen, **kept)
