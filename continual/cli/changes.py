"""How commands change a model file: alone, and saying what broke and why it is refused. Loading it loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from continual.console import check_target, console, count, show_rows
from continual.lifecycle import contents, locks

if TYPE_CHECKING:
    from continual.learning.learner import IncrementalLearner
    from continual.lifecycle.contents import ModelFile
    from continual.lifecycle.held_out_features import HeldOutFeatures
    from continual.lifecycle.new_images import Plan
    from continual.lifecycle.review import Review
    from continual.lifecycle.seen_images import SeenImages

#: pairs of classes shown
SHOWN = 15


@contextmanager
def claimed(model: Path) -> Iterator[ModelFile]:
    """Read a model file that no other process may write in the block."""
    check_target(model)
    with locks.claimed(model):
        found = contents.read(model)
        try:
            yield found
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{model} is as it was") from None


def stop(said: str) -> NoReturn:
    """Say on standard error why nothing was kept, and end with exit code 1."""
    console(stderr=True).print(said)
    raise typer.Exit(1)


def show_review(found: Review, advice: str) -> None:
    """Say on standard error what broke: figures, and the pairs of classes in which most was lost.

    `advice` says what would help where nothing can be said of a class.
    """
    for line in found.lines(advice):
        console(stderr=True).print(line)
    rows = [(*pair, n) for pair, n in found.negative.most_common(SHOWN)]
    show_rows(rows, "was right", "is now taken for", "images", stderr=True)
    lost = [(*pair, f"{share:.1%}") for *pair, share in found.lost[:SHOWN]]
    show_rows(lost, "class", "is now taken for", "share lost, by statistics", stderr=True)


def unmeasured(plan: Plan, gone: HeldOutFeatures, seen: SeenImages) -> str | None:
    """Say, before anything is learned, what --max-flips cannot be measured on."""
    judged = {picture.entry.label for picture in [*plan.held_out, *plan.hold_out]} | {*gone.labels(seen)}
    if not (rest := [label for label in plan.known if label not in judged]):
        return None
    of = count(len(rest), "class") if len(rest) < len(plan.known) else "every class"
    return f"note: --max-flips rests on an estimate for {of} known before, if on anything: no held-out image is here"


def choice_lines(before: IncrementalLearner[Any], learner: IncrementalLearner[Any]) -> list[str]:
    """Say which group was taken, if that was left to the images just learned, and what has no effect then."""
    if not before.undecided or learner.state.choice is None:
        return []
    unused = getattr(learner.settings, "passes", None) is not None and learner.symmetry is None
    return [learner.state.choice.words, *["--passes has no effect: an image is a single view without a group"] * unused]
