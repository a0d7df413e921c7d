"""The commands that change a model without learning: correct, forget, rename, rollback; and history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.cli.changes import claimed
from continual.cli.loading import loading_pytorch
from continual.cli.options import Device, Json, Method, Model, Set, Weights, Workers, check_there
from continual.console import check_outputs, check_target, console, count, show_rows, size, write_json
from continual.errors import InputError, ModelFileError, nearest
from continual.lifecycle import contents, figures, locks, versions

if TYPE_CHECKING:
    from continual.cli.progress import ProgressBars
    from continual.data.inputs import Label
    from continual.learning.learner import IncrementalLearner
    from continual.lifecycle.seen_images import SeenImages

    Change = Callable[[IncrementalLearner[Any], SeenImages], tuple[str, SeenImages]]

app = typer.Typer()


@app.command()
def correct(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR", help="Images that were answered wrong.")],
    label: Annotated[str, typer.Option("--class", "-c", metavar="CLASS", help="What they are.")],
    model: Model,
    set_: Set = None,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Set answers right: what the model remembers of a class, and its head, follow; nothing is trained again."""
    check_there(images)
    _label((there := contents.read(model)).classes, label)
    with loading_pytorch():
        from continual.cli.opening import readable
        from continual.cli.progress import ProgressBars
        from continual.lifecycle.entries import entry

    said: list[tuple[Label, Label, Label]] = []  # the truth, what it was taken for, what now
    with ProgressBars(console(stderr=True)) as bars:
        paths = readable(images, bars, there.channels)

        def change(learner: IncrementalLearner[Any], seen: SeenImages) -> tuple[str, SeenImages]:
            truth = _label(learner.classes, label)
            before = learner.predict(paths, workers=workers).labels
            learner.correct(paths, truth, progress=bars, workers=workers)
            after = learner.predict(paths, workers=workers).labels
            said.extend((truth, old, new) for old, new in zip(before, after, strict=True))
            entries = [
                replace(entry(path, truth, seen, channels=there.channels), label=truth, held_out=False)
                for path in paths
            ]
            return f"corrected {count(len(paths), 'image')} of {label}", seen.with_images(entries)

        _edit(model, change, weights, device, method, settings=set_, bars=bars)
    both = zip(paths, said, strict=True)
    show_rows([(path, old, new) for path, (truth, old, new) in both if {old, new} != {truth}], "file", "was", "is")
    now, then = (sum(answers[place] == answers[0] for answers in said) for place in (2, 1))
    console().print(f"{now} of {count(len(paths), 'image')} answered {label} now, {then} before")


@app.command()
def forget(
    label: Annotated[str, typer.Argument(metavar="CLASS")],
    model: Model,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="Delete earlier versions that know it.")] = False,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Remove a class from a model: its statistics, prototype and head row; the others stay as they are."""
    unknown: list[Path] = []

    def change(learner: IncrementalLearner[Any], seen: SeenImages) -> tuple[str, SeenImages]:
        known, images, damaged = versions.knowing(model, label) if everywhere else ([], set(), [])
        unknown.extend(damaged)
        if label in map(str, learner.classes) or not known:
            gone = _label(learner.classes, label)
            learner.forget(gone)
            return f"forgot {label}", seen.without(gone, remember=not everywhere)
        # A class that only earlier versions still know can go everywhere, too, unless it was renamed.
        if now := seen.names_of(images) & set(learner.classes):
            raise InputError(f"{label!r} is called {', '.join(map(repr, now))} now: forget that")
        return f"forgot {label} in earlier versions", seen.without(type(learner.classes[0])(label), remember=False)

    deleted = _edit(model, change, weights, device, method, purged=label if everywhere else None)
    if everywhere:
        console().print(f"{count(deleted, 'earlier version')} that knew {label} deleted")
        for path in unknown:
            console(stderr=True).print(f"note: {path} is damaged, and may know {label}: delete it to be sure")
    else:
        console(stderr=True).print(f"note: earlier versions still know {label}; --everywhere deletes those")


@app.command()
def rename(
    old: Annotated[str, typer.Argument(metavar="OLD")],
    new: Annotated[str, typer.Argument(metavar="NEW")],
    model: Model,
    weights: Annotated[list[Path] | None, typer.Option(hidden=True, help="Not needed.")] = None,
    device: Annotated[str, typer.Option(hidden=True, help="Not needed.")] = "auto",
) -> None:
    """Give a class another name."""
    with claimed(model) as found:
        label = _label(found.classes, old)
        event = f"renamed {old} to {new}"
        versions.rename(model, event, label, int(new) if isinstance(label, int) and new.isdecimal() else new)
    console().print(f"{model}: {event}; {count(len(found.classes), 'class')}")


@app.command()
def history(model: Model, json: Json = None) -> None:
    """List the versions of a model file: the last ten before the one in use are kept."""
    check_outputs(json)
    found = []
    for version in versions.versions(model):
        try:
            found.append(version.about())
        except ModelFileError as error:
            console(stderr=True).print(f"note: version {version.number} is left out: {error}")
    if json is not None:
        write_json(json, found)
        return
    rows: list[tuple[object, ...]] = []
    for row in found:
        date = row["date"][:16].replace("T", " ")  # at 80 columns it breaks there
        about = row["version"], date, row["event"], len(row["classes"]), size(row["bytes"])
        measured = figures.right(row["held_out"]), figures.broke(row["held_out"])
        rows.append((*about, *measured, "in use" if row["current"] else ""))
    show_rows(rows, "version", "date (UTC)", "what was done", "classes", "size", "held-out right", "broke", "")


@app.command()
def rollback(
    model: Model,
    number: Annotated[
        int | None, typer.Argument(metavar="VERSION", help="See `equimos history`.", show_default="the one before")
    ] = None,
    weights: Weights = None,
) -> None:
    """Go back to an earlier version of a model file, once it has answered; the one left is kept among the others."""
    check_target(model)

    def remark(why: str) -> None:
        console(stderr=True).print(f"note: its numbers are valid, but no answer was tried: {why}")

    with locks.claimed(model):
        about = versions.rollback(model, number, weights=weights or (), remark=remark).about()
    console().print(f"{model}: version {about['version']} of {about['date']}, {count(len(about['classes']), 'class')}")


def _edit(
    model: Path,
    change: Change,
    weights: Sequence[Path] | None,
    device: str,
    method: str | None,
    settings: Sequence[str] | None = None,
    purged: str | None = None,
    bars: ProgressBars | None = None,
) -> int:
    """Change a model by a function that says what it did and what was seen; the old file becomes an earlier version.

    `settings` hold for the change alone; `bars` are those that are drawn already. Earlier versions that know the class
    `purged` are deleted before other processes may write; returns how many.
    """
    with loading_pytorch():
        from continual.cli.opening import load_learner
        from continual.cli.progress import waiting

    with claimed(model) as found:
        with (bars.waiting if bars else waiting)("loading the model"):
            learner = load_learner(found, weights, device, method, settings)
        event, seen = change(learner, found.seen)
        learner = learner.variant(**found.header["settings"])
        kept: Any = {"held_out": found.held_out, "thumbnails": found.thumbnails}
        versions.save(learner, model, event, embed_backbone=found.embedded, seen=seen, **kept)
        deleted = 0 if purged is None else versions.purge(model, purged)
    console().print(f"{model}: {event}; {count(len(learner.classes), 'class')}")
    return deleted


def _label(classes: Iterable[Label], text: str) -> Label:
    """Return the class a user means: labels may be numbers."""
    names = {str(label): label for label in classes}
    if text not in names:
        raise InputError(f"the model has no class {text!r}: {nearest(text, names)}")
    return names[text]
