"""The commands that change a model without learning: correct, forget, rename; and those on its versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from continual import options
from continual.cli.models import changes, images_in, load_learner
from continual.cli.progress import ProgressBars
from continual.console import add_row, check_target, console, count, new_table, show, size, write_text
from continual.data.images import check_readable
from continual.data.inputs import Label
from continual.errors import InputError, nearest
from continual.learning.learner import IncrementalLearner
from continual.lifecycle import contents, locks, versions
from continual.lifecycle.seen_images import Ledger, meet

Learner = IncrementalLearner[Any]


def rename(model: Path, old: str, new: str, *, weights: Path | None, device: str) -> None:
    """Give a class another name."""

    def change(learner: Learner, ledger: Ledger) -> tuple[str, Ledger]:
        label = _label(learner, old)
        name = int(new) if isinstance(label, int) and new.isdecimal() else new
        learner.rename(label, name)
        return f"renamed {old} to {new}", ledger.renamed(label, name)

    _edit(model, change, weights, device)


def forget(model: Path, label: str, *, everywhere: bool, weights: Path | None, device: str) -> None:
    """Remove a class, also from the earlier versions if asked to: those that know it are deleted.

    A class that only earlier versions still know can go everywhere, too, unless it was renamed.
    """
    deleted = 0

    def change(learner: Learner, ledger: Ledger) -> tuple[str, Ledger]:
        known, images = versions.knowing(model, label) if everywhere else ([], set())
        if label in map(str, learner.classes) or not known:
            gone = _label(learner, label)
            learner.forget(gone)
            return f"forgot {label}", ledger.without(gone, remember=not everywhere)
        if now := ledger.named(images) & set(learner.classes):
            raise InputError(f"{label!r} is called {', '.join(map(repr, now))} now: forget that")
        return f"forgot {label} in earlier versions", ledger.without(type(learner.classes[0])(label), remember=False)

    def clean() -> None:
        nonlocal deleted
        deleted = versions.purge(model, label)

    _edit(model, change, weights, device, clean if everywhere else None)
    if everywhere:
        console().print(f"{count(deleted, 'earlier version')} that knew {label} deleted")
    else:
        console(stderr=True).print(f"note: earlier versions still know {label}; --everywhere deletes those")


def correct(
    model: Path,
    images: Sequence[Path],
    label: str,
    *,
    settings: Sequence[str],
    weights: Path | None,
    device: str,
    workers: int,
) -> None:
    """Say that images are of a known class, and show what they are taken for before and after.

    `settings` are those of this computation; the model keeps its own.
    """
    paths = [path for given in images for path in images_in(given)]
    said: list[tuple[Label, Label, Label]] = []  # the truth, what it was taken for, what now
    with ProgressBars(console(stderr=True)) as bars:
        check_readable(paths, bars)

        def change(learner: Learner, ledger: Ledger) -> tuple[str, Ledger]:
            truth = _label(learner, label)
            before = learner.predict(paths, workers=workers).labels
            learner.correct(paths, truth, progress=bars, workers=workers)
            after = learner.predict(paths, workers=workers).labels
            said.extend((truth, old, new) for old, new in zip(before, after, strict=True))
            met = [replace(meet(path, truth, ledger), label=truth, held_out=False) for path in paths]
            return f"corrected {count(len(paths), 'image')} of {label}", ledger.with_images(met)

        _edit(model, change, weights, device, settings=settings)
    table = new_table("file", "was", "is")
    for path, (truth, old, new) in zip(paths, said, strict=True):
        if old != truth or new != truth:
            add_row(table, path, old, new)
    if table.row_count:
        show(table)
    now, then = (sum(answers[place] == answers[0] for answers in said) for place in (2, 1))
    console().print(f"{now} of {count(len(paths), 'image')} answered {label} now, {then} before")


def history(model: Path, json_file: Path | None) -> None:
    """Show the versions of a model file, oldest first."""
    if json_file is not None:
        check_target(json_file)
    found = [version.about() for version in versions.versions(model)]
    if json_file is not None:
        write_text(json_file, json.dumps(found, indent=1) + "\n")
        return
    table = new_table("version", "date", "what was done", "classes", "size", "held-out right", "broke", "")
    for row in found:
        in_use, held = "in use" if row["current"] else "", row["held_out"]
        figures = (None, None) if held is None else (f"{held['accuracy']:.1%}", held["negative_flips"])
        about = row["version"], row["date"], row["event"], len(row["classes"]), size(row["bytes"])
        add_row(table, *about, *figures, in_use)
    show(table)


def rollback(model: Path, number: int | None) -> None:
    """Make an earlier version the one in use."""
    check_target(model)
    with locks.claimed(model):
        about = versions.rollback(model, number).about()
    console().print(f"{model}: version {about['version']} of {about['date']}, {count(len(about['classes']), 'class')}")


def _edit(
    model: Path,
    change: Callable[[Learner, Ledger], tuple[str, Ledger]],
    weights: Path | None,
    device: str,
    clean: Callable[[], None] | None = None,
    settings: Sequence[str] = (),
) -> None:
    """Change a model by a function that says what it did and what was met; the old file becomes an earlier version.

    `clean` is called when that is done, before other processes may write. `settings` hold for the change alone.
    """
    check_target(model)
    device_ = options.device(device)
    with locks.claimed(model):
        found = contents.read(model)
        changed = changes(found, settings)
        learner = load_learner(found, weights, device_).variant(**changed)
        try:
            event, ledger = change(learner, found.ledger)
            learner = learner.variant(**found.header["settings"])
            versions.save(learner, model, event, embed_backbone=found.embedded, ledger=ledger, held=found.held)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{model} is as it was") from None
        if clean is not None:
            clean()
    console().print(f"{model}: {event}; {count(len(learner.classes), 'class')}")


def _label(learner: Learner, text: str) -> Label:
    """Return the class a user means: labels may be numbers."""
    names = {str(label): label for label in learner.classes}
    if text not in names:
        raise InputError(f"the model has no class {text!r}: {nearest(text, names)}")
    return names[text]
