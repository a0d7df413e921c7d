"""How commands change a model file: alone, and saying what broke and why it is refused. Loading it loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from continual.console import check_target, console, count, show_rows
from continual.lifecycle import contents, locks

if TYPE_CHECKING:
    from continual.data.inputs import Label
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
    from continual.lifecycle.review import DRAWN

    def right(answers: Sequence[Label | None], rows: Sequence[int]) -> str:
        return f"{sum(answers[i] == found.truth[i] for i in rows) / len(rows):.1%}"

    say = console(stderr=True).print
    known = [i for i, old in enumerate(found.old) if old is not None]
    fresh = [i for i, old in enumerate(found.old) if old is None]
    if known:
        say(
            f"held-out images of classes known before: {right(found.new, known)} of {len(known)} right, "
            f"{right(found.old, known)} before; {sum(found.negative.values())} broke, {found.positive} fixed"
        )
    if found.gone:
        say(f"{count(found.gone, 'image')} of them are gone, and judged by the features that were kept")
    if fresh:
        say(f"held-out images of new classes: {right(found.new, fresh)} of {len(fresh)} right")
    rows = [(*pair, n) for pair, n in found.negative.most_common(SHOWN)]
    show_rows(rows, "was right", "is now taken for", "images", stderr=True)
    if found.simulated:
        say(
            f"no held-out image is here of {count(len(found.simulated), 'class')} known before; by their statistics "
            f"about {found.estimated:.1%} of the answers broke (an estimate)"
        )
        lost = [(*pair, f"{n / DRAWN:.1%}") for pair, n in found.lost_to.most_common(SHOWN) if n > DRAWN // 100]
        show_rows(lost, "class", "is now taken for", "share lost, by statistics", stderr=True)
    if found.unjudged:
        say(
            f"nothing can be said of {count(len(found.unjudged), 'class')} known before: no held-out image is here. "
            f"{advice}"
        )


def unmeasured(plan: Plan, gone: HeldOutFeatures, seen: SeenImages) -> str | None:
    """Say, before anything is learned, what --max-flips cannot be measured on."""
    judged = {picture.entry.label for picture in [*plan.held_out, *plan.hold_out]} | {*gone.labels(seen)}
    if not (rest := [label for label in plan.known if label not in judged]):
        return None
    of = count(len(rest), "class") if len(rest) < len(plan.known) else "every class"
    return f"note: --max-flips rests on an estimate for {of} known before, if on anything: no held-out image is here"
