"""The command `equimos learn`: a plan, an experience, and what it broke, before the model file changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from continual.cli.options import Device, Images, Model, ModelArg, Symmetry, Workers, check_shares
from continual.console import can_ask, check_target, confirmed, console, count, show_rows, size
from continual.data.folders import parts_in, subfolders
from continual.data.ranges import range_name
from continual.errors import InputError, nearest
from continual.lifecycle import contents, locks, versions
from continual.lifecycle.seen_images import SeenImages

if TYPE_CHECKING:
    from continual.data.inputs import ExperienceData, Label
    from continual.learning.learner import IncrementalLearner
    from continual.lifecycle.held_out_features import HeldOutFeatures
    from continual.lifecycle.new_images import Plan
    from continual.lifecycle.review import Review

    Learner = IncrementalLearner[Any]

app = typer.Typer()

#: pairs of classes shown
SHOWN = 15

Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The backbone's weights: .safetensors, .npz or .pth. For a model that exists, "
                 "where they are now; they must be the same."),
]  # fmt: skip


@app.command()
def learn(
    images: Images,
    model: Model,
    only: Annotated[
        list[str] | None, typer.Option("--class", "-c", metavar="NAME", help="Look at these class folders alone.")
    ] = None,
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of new images per class to evaluate on, not to learn.")
    ] = 0.2,
    keep_held_out: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Keep features of N held-out images per class, to see what breaks once these are gone; 0 drops them.",
        ),
    ] = None,
    max_flips: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Keep nothing if more than this share of held-out images was right and is not now."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Learn and keep without being asked.")] = False,
    backbone: Annotated[
        str | None, typer.Option(metavar="TAG", help="timm's full tag, e.g. vit_base_patch16_224.augreg_in21k.")
    ] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    method: Annotated[
        str | None, typer.Option(help="How to learn; see `equimos methods`.", show_default="strata")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A named set of the method's settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the method: epochs=5. Of a model that exists, those alone that say how much memory and "
            "time it takes, such as eval_batch_size and precision.",
        ),
    ] = None,
    symmetry: Symmetry = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW..HIGH",
            help="What black and white are in files of many channels (TIFF, .npy) that are not uint8: 0..10000, unit, "
            "bytes or normalised. Remembered.",
        ),
    ] = None,
    embed_backbone: Annotated[
        bool, typer.Option("--embed-backbone", help="Store the backbone's weights in the model file as well.")
    ] = False,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Learn what is new in an image folder: make a model, or add an experience to one.

    Shows a plan and asks; learns; shows what broke on held-out images, and asks again before it keeps the result.
    The model file changes only when everything has succeeded. A model that exists keeps its method, backbone and,
    but for sizes of batches and precision, its settings. Exit code 1: the answer was no, or --max-flips was passed.
    """
    check_shares(hold_out=hold_out, max_flips=max_flips)
    if value_range is not None:
        value_range = range_name(value_range)
    inside = {place.name for place in subfolders(parts_in(images).get("train", images))}
    if not inside:
        raise InputError(f"{images} holds no images: it needs one sub-folder of images per class")
    if unknown := sorted({*(only or ())} - inside):
        raise InputError(f"{images} has no class folder {unknown[0]!r}: {nearest(unknown[0], inside)}")
    check_target(model)
    from continual import methods, options
    from continual.backbones import loading, recommended
    from continual.cli import opening
    from continual.cli.progress import ProgressBars, waiting
    from continual.data.inputs import as_experience
    from continual.lifecycle import estimate, input_size, new_images
    from continual.lifecycle.held_out_features import HeldOutFeatures, chosen

    device_ = options.device(device)
    arguments = options.assignments("--model-arg", model_arg or ())
    wanted = options.assignments("--set", [*(set_ or ()), *([f"group={symmetry}"] if symmetry else [])])
    if method is not None:
        method, preset = methods.with_preset(method, preset)
    with locks.claimed(model):
        found = contents.read(model) if model.exists() else None
        if found:
            opening.refuse_changes(found, backbone, arguments, method, preset, wanted)
        else:
            method = opening.checked(method, preset, wanted)
            if backbone is None and weights is None:
                backbone, arguments = opening.proposed_backbone(f"{model} is a new model and", arguments, ask=not yes)
            elif backbone is not None and weights is None:
                recommended.check(backbone)
        if not (yes or dry_run or can_ask()):
            raise InputError("there is no terminal to ask on: --yes learns without asking, --dry-run shows the plan")
        learner: Learner
        if found:
            with waiting("loading the model"):
                learner = opening.load_learner(found, weights, device).variant(**wanted)
        else:
            with waiting("loading the backbone"):
                made = loading.load_backbone(backbone, weights=weights, **arguments)
            learner = methods.method(method or methods.RECOMMENDED)(made, device=device_, preset=preset, **wanted)
        channels, remembered = learner.preprocessing.channels, learner.state.value_range
        opening.check_keeping(learner, keep_held_out)
        seen, known = (found.seen, found.classes) if found else (SeenImages(), [])
        remarks = console(stderr=True)
        with ProgressBars(remarks) as bars:
            plan = new_images.plan(
                images, seen, known, only=only or (), hold_out=hold_out, progress=bars, channels=channels
            )
        said = console(stderr=not dry_run)
        if plan.problems or not plan.learn:
            for line in plan.lines(known):
                said.print(line)
            if plan.problems:
                raise InputError("; ".join(plan.problems))
            console().print(f"{model}: nothing new in {images}")
            return
        labels = [picture.entry.label for picture in plan.learn]
        given = {"value_range": value_range, "remembered": remembered}
        data = as_experience([picture.image for picture in plan.learn], labels, learner.preprocessing, **given)
        left = f"{model} is {'as it was' if found else 'not made'}"
        try:
            so_far = f"{count(len(learner.classes), 'class')} so far" if learner.classes else "new"
            images_ = f"{count(len(labels), 'image')} to learn"
            said.print(f"{model}: {learner.method} on {learner.backbone.name}, {so_far}; {images_}")
            if learner.backbone.fit:
                said.print(f"weights: {learner.backbone.fit}", markup=False)
            said.print(input_size.words(learner.backbone, changeable=found is None))
            for line in plan.lines(known):
                said.print(line)
            if learner.undecided:
                said.print("group: auto, D4 is taken if these images have no up")
            gone = found.held_out if found else HeldOutFeatures()
            held_out, gone = gone, gone.without({picture.entry.digest for picture in plan.held_out})
            if known and max_flips is not None and (judged := _unmeasured(plan, gone, seen)):
                said.print(judged)
            answers = 2 * len(plan.held_out) + len(plan.hold_out)
            said.print(f"time: {estimate.words(estimate.seconds(learner, data, answers))}")
            if dry_run:
                return
            if not (yes or confirmed("Learn this?")):
                _stop(f"nothing learned; {left}")
            started = time.perf_counter()
            outcome = _learn(learner, data, plan, gone, seen, workers)
            if known:
                if broken := _too_much(outcome, max_flips):
                    _stop(f"not kept, {broken}; {left}")
                if not (yes or confirmed("Keep it?")):
                    _stop(f"not kept; {left}")
            seen = seen.with_images(picture.entry for picture in [*plan.learn, *plan.hold_out])
            if keep_held_out:
                added = chosen([*plan.held_out, *plan.hold_out], held_out, seen, keep_held_out)
                held_out = held_out.plus(HeldOutFeatures.of(learner, added, workers=workers))
            embed = embed_backbone or (found is not None and found.embedded)
            kept, figures = None if keep_held_out == 0 else held_out, outcome.figures()
            names = sorted(set(labels))
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            event = f"learned {', '.join(map(str, names[:5]))}{more}"
            versions.save(learner, model, event, embed_backbone=embed, seen=seen, held_out=kept, figures=figures)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(left) from None
    console().print(
        f"{model}: {count(len(learner.classes), 'class')} in {count(learner.state.experiences, 'experience')}, "
        f"{size(model.stat().st_size)}, {time.perf_counter() - started:.0f} s"
    )


def _stop(said: str) -> NoReturn:
    """Say on standard error why nothing was kept, and end with exit code 1."""
    console(stderr=True).print(said)
    raise typer.Exit(1)


def _learn(
    learner: Learner, data: ExperienceData, plan: Plan, gone: HeldOutFeatures, seen: SeenImages, workers: int
) -> Review:
    """Learn, and see what that did to the held-out images, also to those that are gone but for their features."""
    from continual.cli.progress import ProgressBars
    from continual.lifecycle.review import review

    before = learner.variant()
    with ProgressBars(console(stderr=True)) as bars:
        learner.learn(data, progress=bars, workers=workers)
        held_out = [(picture.image, picture.entry.label) for picture in [*plan.held_out, *plan.hold_out]]
        outcome = review(before, learner, held_out, gone=gone, seen=seen, progress=bars, workers=workers)
    if before.undecided and learner.state.choice is not None:
        console(stderr=True).print(learner.state.choice.words)
    _show_review(outcome)
    for line in plan.not_judged():
        console(stderr=True).print(line)
    return outcome


def _show_review(found: Review) -> None:
    """Say on standard error what broke: figures, and the pairs of classes in which most was lost."""
    from continual.lifecycle.review import DRAWN

    def right(answers: Sequence[Label | None], rows: Sequence[int]) -> str:
        return f"{sum(answers[i] == found.truth[i] for i in rows) / len(rows):.1%}"

    say = console(stderr=True).print
    known = [i for i, old in enumerate(found.old) if old is not None]
    fresh = [i for i, old in enumerate(found.old) if old is None]
    if known:
        say(
            f"held-out images of classes known before: {right(found.new, known)} of {len(known)} right, "
            f"{right(found.old, known)} before; {sum(found.negative.values())} broke, {found.positive} mended"
        )
    if found.gone:
        say(f"{count(found.gone, 'image')} of them are gone, and judged by the features that were kept")
    if fresh:
        say(f"held-out images of new classes: {right(found.new, fresh)} of {len(fresh)} right")
    rows = [(*pair, n) for pair, n in found.negative.most_common(SHOWN)]
    show_rows(rows, "was right", "is now taken for", "images", stderr=True)
    if found.simulated:
        mean = sum(found.simulated.values()) / len(found.simulated)
        say(
            f"no held-out image is here of {count(len(found.simulated), 'class')} known before; by their statistics "
            f"about {mean:.1%} of the answers broke (an estimate)"
        )
        lost = [(*pair, f"{n / DRAWN:.1%}") for pair, n in found.lost_to.most_common(SHOWN) if n > DRAWN // 100]
        show_rows(lost, "class", "is now taken for", "share lost, by statistics", stderr=True)
    if found.unjudged:
        say(
            f"nothing can be said of {count(len(found.unjudged), 'class')} known before: no held-out image is here. "
            "With methods whose features never change, --keep-held-out 10 keeps some of those to judge by"
        )


def _unmeasured(plan: Plan, gone: HeldOutFeatures, seen: SeenImages) -> str | None:
    """Say, before anything is learned, what --max-flips cannot be measured on."""
    judged = {picture.entry.label for picture in [*plan.held_out, *plan.hold_out]} | {*gone.labels(seen)}
    if not (rest := [label for label in plan.known if label not in judged]):
        return None
    of = count(len(rest), "class") if len(rest) < len(plan.known) else "every class"
    return f"note: --max-flips rests on an estimate for {of} known before, if on anything: no held-out image is here"


def _too_much(outcome: Review, max_flips: float | None) -> str | None:
    """Say why an update is refused, if it is."""
    if max_flips is None:
        return None
    if not (lost := outcome.shares_lost()):
        return "for there is nothing to check --max-flips on: no held-out images, and no class statistics"
    if max(lost) <= max_flips:
        return None
    guessed = ", by an estimate" if outcome.simulated and max(lost) == lost[-1] else ""
    return f"for {max(lost):.1%} of the answers broke{guessed} (--max-flips {max_flips})"
