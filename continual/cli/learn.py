"""The command `equimos learn`: a plan, an experience, and what it broke, before the model file changes."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.cli.changes import choice_lines, show_review, stop, unmeasured
from continual.cli.given import OneClass, check_given, check_one_class, false_alarms, only_class, single_class_lines
from continual.cli.loading import loading_pytorch
from continual.cli.options import (
    Device,
    ImagesOrList,
    KeepHeldOut,
    KeepThumbnails,
    Model,
    ModelArg,
    Passes,
    Symmetry,
    ValueRange,
    Workers,
    check_shares,
    with_views,
)
from continual.cli.together import together
from continual.console import can_ask, check_target, confirmed, console, count, size
from continual.data.ranges import range_name
from continual.errors import InputError
from continual.lifecycle import contents, locks, versions
from continual.lifecycle.seen_images import SeenImages

if TYPE_CHECKING:
    from continual.data.inputs import ExperienceData
    from continual.learning.concept import Concept
    from continual.learning.learner import IncrementalLearner
    from continual.lifecycle.held_out_features import HeldOutFeatures
    from continual.lifecycle.new_images import Plan
    from continual.lifecycle.review import Review

    Learner = IncrementalLearner[Any]

app = typer.Typer()

Weights = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="The backbone's weights: .safetensors, .npz or .pth, one each of several. For a "
                 "model that exists, where they are now; they must be the same."),
]  # fmt: skip


@app.command()
@together()
def learn(
    images: ImagesOrList,
    model: Model,
    only: Annotated[
        list[str] | None, typer.Option("--class", "-c", metavar="NAME", help="Look at these class folders alone.")
    ] = None,
    one_class: OneClass = False,
    unlabelled: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Learn from these images too, which have no labels.")
    ] = None,
    ignoring: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Do not follow this stamp, a logo or a border, from now on.")
    ] = None,
    outside: Annotated[
        bool, typer.Option("--outside", help="Let a list of images name those outside its folder, and links.")
    ] = False,
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of new images per class to evaluate on, not to learn.")
    ] = 0.2,
    keep_held_out: KeepHeldOut = None,
    keep_thumbnails: KeepThumbnails = None,
    max_flips: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Keep nothing if more than this share of held-out images was right and is not now."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Learn and keep without being asked.")] = False,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TAG",
            help="timm's full tag, e.g. vit_base_patch16_224.augreg_in21k; several are read side by side.",
        ),
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
    passes: Passes = None,
    value_range: ValueRange = None,
    embed_backbone: Annotated[
        bool, typer.Option("--embed-backbone", help="Store the backbone's weights in the model file as well.")
    ] = False,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Learn what is new in an image folder: make a model, or add an experience to one.

    Shows a plan and asks; learns; shows what broke on held-out images, and asks again before it keeps the result.
    The model file changes only when everything has succeeded. A model that exists keeps its method, backbone,
    --value-range and its settings, except for sizes of batches and precision. Exit code 1: the answer was no, or
    --max-flips was passed.

    The processes of torchrun share the images, and need --yes.
    """
    check_shares(hold_out=hold_out, max_flips=max_flips)
    if value_range is not None:
        value_range = range_name(value_range)
    flat = check_given(images, only or (), outside, one_class)
    check_target(model)
    with loading_pytorch():
        from continual import distributed, methods, options
        from continual.backbones import recommended
        from continual.cli import opening
        from continual.cli.progress import ProgressBars, waiting
        from continual.data.inputs import as_experience, with_unlabelled
        from continual.lifecycle import estimate, input_size, new_images, thumbnails
        from continual.lifecycle.held_out_features import HeldOutFeatures, chosen
        from continual.lifecycle.unlabelled_images import stamped, without_labels

    device_ = options.device(device)
    arguments, named, files = options.assignments("--model-arg", model_arg or ()), backbone or [], weights or []
    wanted = options.assignments("--set", with_views(set_, passes, symmetry))
    if method is not None:
        method, preset = methods.with_preset(method, preset)
    distributed.use(str(device_))
    with locks.claimed(model) if distributed.first() else nullcontext():
        found = contents.read(model) if model.exists() else None
        seen, known = (found.seen, found.classes) if found else (SeenImages(), [])
        single = only_class(images, known, only or ()) if flat else None
        if found:
            opening.refuse_changes(found, named, arguments, method, preset, wanted)
        else:
            method = opening.checked(method, preset, wanted)
            if not (named or files):
                tag, arguments = opening.proposed_backbone(f"{model} is a new model and", arguments, ask=not yes)
                named = [tag]
            for tag in () if files else named:
                recommended.check(tag)
        if not (yes or dry_run or (distributed.count() == 1 and can_ask())):
            raise InputError("there is no terminal to ask on: --yes learns without asking, --dry-run shows the plan")
        learner: Learner
        if found:
            with waiting("loading the model"):
                learner = opening.load_learner(found, files, device).variant(**wanted)
        else:
            with waiting("loading the backbone"):
                made = opening.backbone_of(named, files, arguments)
            learner = methods.method(method or methods.RECOMMENDED)(made, device=device_, preset=preset, **wanted)
        channels, remembered = learner.preprocessing.channels, learner.state.value_range
        opening.check_keeping(learner, keep_held_out)
        remarks = console(stderr=True)
        with ProgressBars(remarks) as bars:
            plan = new_images.plan(
                images,
                seen,
                known,
                only=only or (),
                hold_out=hold_out,
                outside=outside,
                progress=bars,
                channels=channels,
                value_range=value_range or remembered,
                single=single,
            )
        said = console(stderr=not dry_run)
        if plan.problems or not plan.learn:
            for line in plan.lines(known):
                said.print(line)
            if plan.problems:
                raise InputError("; ".join(plan.problems))
            console().print(f"{model}: nothing new in {images}")
            return
        if one_class:
            check_one_class(learner, plan)
        labels = [picture.entry.label for picture in plan.learn]
        meant = {"value_range": value_range, "remembered": remembered}
        data = as_experience([picture.image for picture in plan.learn], labels, learner.preprocessing, **meant)
        concept = None if ignoring is None else stamped(plan, ignoring, channels)
        if unlabelled is not None:
            learner.check_unlabelled()
            unsorted, left_out = without_labels(unlabelled, plan, channels)
            data = with_unlabelled(data, unsorted, learner.preprocessing)
        left = f"{model} is {'as it was' if found else 'not made'}"
        try:
            so_far = f"{count(len(learner.classes), 'class')} so far" if learner.classes else "new"
            images_ = f"{count(len(labels), 'image')} to learn"
            said.print(f"{model}: {learner.method} on {learner.backbone.name}, {so_far}; {images_}")
            parts = learner.backbone.parts
            for number, part in enumerate(parts, start=1):
                of = f"backbone {number}, " if len(parts) > 1 else ""
                if part.fit:
                    said.print(f"{of}weights: {part.fit}", markup=False)
                said.print(of + input_size.words(part, changeable=found is None))
            for line in [*plan.lines(known), *single_class_lines(learner, plan, one_class)]:
                said.print(line)
            if data.unlabelled is not None:
                known_already = f", {left_out} left out that have labels or cannot be read" if left_out else ""
                said.print(f"unlabelled: {count(len(data.unlabelled), 'image')}{known_already}")
            if learner.undecided:
                said.print("group: auto, D4 is taken if these images have no up")
            gone = found.held_out if found else HeldOutFeatures()
            held_out, gone = gone, gone.without({picture.entry.digest for picture in plan.held_out})
            if known and max_flips is not None and (judged := unmeasured(plan, gone, seen)):
                said.print(judged)
            answers = 2 * len(plan.held_out) + len(plan.hold_out)
            with waiting("measuring how long that will take"):
                duration = estimate.seconds(learner, data, answers) / distributed.count()
            said.print(f"time: {estimate.words(duration)}")
            if dry_run:
                return
            if not (yes or confirmed("Learn this?")):
                stop(f"nothing learned; {left}")
            started = time.perf_counter()
            outcome = _learn(learner, data, plan, gone, seen, workers, concept)
            if known:
                able = learner.heeds_keep_answers and not learner.settings.keep_answers
                keeping = "--set keep_answers=1" if able else None
                if broken := outcome.too_much(max_flips, keeping):
                    stop(f"not kept, {broken}; {left}")
                if not (yes or confirmed("Keep it?")):
                    stop(f"not kept; {left}")
            seen = seen.with_images(picture.entry for picture in [*plan.learn, *plan.hold_out])
            if keep_held_out:
                added = chosen([*plan.held_out, *plan.hold_out], held_out, seen, keep_held_out)
                held_out = held_out.plus(HeldOutFeatures.of(learner, added, workers=workers))
            small = thumbnails.updated(found.thumbnails if found else None, learner, plan.learn, seen, keep_thumbnails)
            if not distributed.first():
                return
            embed = embed_backbone or (found is not None and found.embedded)
            kept, figures = None if keep_held_out == 0 else held_out, outcome.figures()
            names = sorted(set(labels))
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            event = f"learned {', '.join(map(str, names[:5]))}{more}{_beside(learner)}"
            event += f", ignoring {concept.name}" if concept else ""
            held: Any = {"seen": seen, "held_out": kept, "thumbnails": small, "figures": figures}
            versions.save(learner, model, event, embed_backbone=embed, **held)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(left) from None
    console().print(
        f"{model}: {count(len(learner.classes), 'class')} in {count(learner.state.experiences, 'experience')}, "
        f"{size(model.stat().st_size)}, {time.perf_counter() - started:.0f} s"
    )


def _beside(learner: Learner) -> str:
    """Say of how many unlabelled images a model learned beside the others."""
    used = learner.unlabelled_use
    return f", and of {count(used.used, 'unlabelled image')}" if used else ""


def _learn(
    learner: Learner,
    data: ExperienceData,
    plan: Plan,
    gone: HeldOutFeatures,
    seen: SeenImages,
    workers: int,
    concept: Concept | None,
) -> Review:
    """Learn, and see what that did to the held-out images, also to those of which only features are left."""
    from continual.cli.progress import ProgressBars
    from continual.lifecycle.review import review

    before = learner.variant()
    with ProgressBars(console(stderr=True)) as bars:
        learner.learn(data, ignoring=concept, progress=bars, workers=workers)
        held_out = [(picture.image, picture.entry.label) for picture in [*plan.held_out, *plan.hold_out]]
        outcome = review(before, learner, held_out, gone=gone, seen=seen, progress=bars, workers=workers)
    if learner.unlabelled_use is not None:
        console(stderr=True).print(learner.unlabelled_use.words)
    for line in choice_lines(before, learner):
        console(stderr=True).print(line)
    if held_out and learner.tells_unusual:
        console(stderr=True).print(false_alarms(learner, [image for image, _ in held_out], workers))
        return outcome
    show_review(outcome, "With methods whose features never change, --keep-held-out 10 keeps some of those to judge by")
    for line in plan.not_judged():
        console(stderr=True).print(line)
    return outcome
