"""The command `equimos learn`: a plan, an experience, and what it broke, before the model file changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from continual import options
from continual.backbones import loading
from continual.cli.models import load_learner
from continual.cli.progress import ProgressBars
from continual.console import can_ask, check_target, confirmed, console, count, size
from continual.data.inputs import ExperienceData, Label, as_experience
from continual.data.preprocessing import Preprocessing
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import make
from continual.lifecycle import contents, estimate, locks, new_images, versions
from continual.lifecycle.contents import ModelFile
from continual.lifecycle.held_out_features import HeldFeatures, chosen
from continual.lifecycle.new_images import Plan
from continual.lifecycle.review import Review, review
from continual.lifecycle.seen_images import Ledger
from continual.methods import RECOMMENDED, method, methods, with_preset

Learner = IncrementalLearner[Any]


def learn(
    model: Path,
    images: Path,
    *,
    only: Sequence[str] = (),
    hold_out: float = 0.2,
    keep_held_out: int | None = None,
    max_flips: float | None = None,
    dry_run: bool = False,
    yes: bool = False,
    backbone: str | None = None,
    weights: Path | None = None,
    model_args: Sequence[str] = (),
    method_name: str | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
    embed_backbone: bool = False,
    device: str = "auto",
    workers: int = 0,
) -> bool:
    """Create the model, or add an experience to it; say whether all went as it was asked to.

    Features of `keep_held_out` images of a class are kept; None keeps those that were, and no more.
    False: the user said no, or more broke than `max_flips` allows; then, as after any error, the file is as it was.
    """
    if not (yes or dry_run or can_ask()):
        raise InputError("there is no terminal to ask on: --yes learns without asking, --dry-run shows the plan")
    check_target(model)
    device_ = options.device(device)
    arguments = options.assignments("--model-arg", model_args)
    wanted = options.assignments("--set", settings)
    name = method_name
    if name is not None:
        name, preset = with_preset(name, preset)
    with locks.claimed(model):
        found = contents.read(model) if model.exists() else None
        if found:
            _refuse_changes(found, backbone, arguments, name, preset, wanted)
        else:
            name = _checked(name, preset, wanted)
            if backbone is None and weights is None:
                raise InputError(
                    f"{model} is a new model and needs a backbone: --backbone TAG, e.g. "
                    f"vit_base_patch16_224.augreg_in21k, or --weights FILE"
                )
        ledger, known = (found.ledger, found.classes) if found else (Ledger(), [])
        remarks = console(stderr=True)
        with ProgressBars(remarks) as bars:
            plan = new_images.plan(images, ledger, known, only=only, hold_out=hold_out, progress=bars)
        said = console(stderr=not dry_run)
        if plan.problems or not plan.learn:
            said.print("\n".join(plan.lines(known)))
            if plan.problems:
                raise InputError("; ".join(plan.problems))
            console().print(f"{model}: nothing new in {images}")
            return True
        learner: Learner
        if found:
            learner = load_learner(found, weights, device_).variant(**wanted)
        else:
            made = loading.load_backbone(backbone, weights=weights, **arguments)
            learner = method(name or RECOMMENDED)(made, device=device_, preset=preset, **wanted)
        _check_keeping(learner, keep_held_out)
        labels = [picture.met.label for picture in plan.learn]
        data = as_experience([picture.path for picture in plan.learn], labels, learner.backbone.preprocessing)
        try:
            said.print(_heading(model, learner, labels))
            said.print("\n".join(plan.lines(known)))
            said.print(f"time: {estimate.words(estimate.seconds(learner, data, _answers(plan)))}")
            if dry_run:
                return True
            if not (yes or confirmed("Learn this?")):
                remarks.print(f"nothing learned; {_left(model, found)}")
                return False
            started, before = time.perf_counter(), learner.variant()
            held = found.held if found else HeldFeatures()
            gone = held.without({picture.met.digest for picture in plan.held_out})
            outcome = _learn(learner, data, plan, gone, ledger, workers, remarks)
            broken = _too_much(outcome, max_flips) if before.classes else None
            if broken:
                remarks.print(f"not kept, {broken}; {_left(model, found)}")
                return False
            if before.classes and not (yes or confirmed("Keep it?")):
                remarks.print(f"not kept; {_left(model, found)}")
                return False
            ledger = ledger.with_images(picture.met for picture in [*plan.learn, *plan.hold_out])
            if keep_held_out:
                more = chosen([*plan.held_out, *plan.hold_out], held, ledger, keep_held_out)
                held = held.plus(HeldFeatures.of(learner, more, workers=workers))
            versions.save(
                learner,
                model,
                _event(labels),
                embed_backbone=embed_backbone or (found is not None and found.embedded),
                ledger=ledger,
                held=None if keep_held_out == 0 else held,
                figures=outcome.figures(),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_left(model, found)) from None
    console().print(
        f"{model}: {count(len(learner.classes), 'class')} in {count(learner.state.experiences, 'experience')}, "
        f"{size(model.stat().st_size)}, {time.perf_counter() - started:.0f} s"
    )
    return True


def _learn(
    learner: Learner, data: ExperienceData, plan: Plan, gone: HeldFeatures, ledger: Ledger, workers: int, remarks: Any
) -> Review:
    """Learn, and see what that did to the held-out images, also to those that are gone but for their features."""
    before = learner.variant()
    with ProgressBars(remarks) as bars:
        learner.learn(data, progress=bars, workers=workers)
        held_out = [(picture.path, picture.met.label) for picture in [*plan.held_out, *plan.hold_out]]
        outcome = review(before, learner, held_out, gone=gone, ledger=ledger, progress=bars, workers=workers)
    outcome.print()
    return outcome


def _check_keeping(learner: Learner, keep: int | None) -> None:
    """Raise InputError if features are to be kept from which answers could not be told later."""
    if keep and (learner.symmetry is not None or not learner.fixed_features):
        able = ", ".join(name for name in methods() if method(name).fixed_features)
        asked = learner.method if learner.symmetry is None else f"a model with group={learner.settings.group}"
        raise InputError(
            f"--keep-held-out goes with methods whose features never change ({able}), and without a group; of {asked}, "
            "leave it out"
        )


def _too_much(outcome: Review, max_flips: float | None) -> str | None:
    """Say why an update is refused, if it is."""
    if max_flips is None:
        return None
    lost = outcome.shares_lost()
    if not lost:
        return "for there is nothing to check --max-flips on: no held-out images, and no class statistics"
    return f"for {max(lost):.1%} of the answers broke (--max-flips {max_flips})" if max(lost) > max_flips else None


def _answers(plan: Plan) -> int:
    """How many predictions the review will ask for."""
    return 2 * len(plan.held_out) + len(plan.hold_out)


def _left(model: Path, found: ModelFile | None) -> str:
    return f"{model} is {'as it was' if found else 'not made'}"


def _checked(name: str | None, preset: str | None, settings: dict[str, Any]) -> str:
    """Return the method of a new model; raises InputError for one, or for settings, that there are not."""
    try:
        make(method(name or RECOMMENDED).settings_type, preset, **settings)
    except InputError as error:
        if name is not None:
            raise
        raise InputError(f"{error} (the method is {RECOMMENDED} unless --method names another, such as mos)") from None
    return name or RECOMMENDED


def _refuse_changes(
    found: ModelFile,
    backbone: str | None,
    arguments: dict[str, Any],
    method_name: str | None,
    preset: str | None,
    settings: dict[str, Any],
) -> None:
    """Raise InputError if options say something else than the model that is to go on."""
    description, kept = found.header["backbone"], found.header["settings"]
    there = {**description["model_args"], **{k: description["preprocessing"][k] for k in Preprocessing.changeable()}}
    problems = []
    if method_name not in (None, found.method):
        problems.append(f"--method {method_name} (it is {found.method})")
    if backbone not in (None, description["name"]):
        problems.append(f"--backbone {backbone} (it is {description['name']})")
    problems += [f"--model-arg {k}={v} (it is {there.get(k)})" for k, v in arguments.items() if there.get(k) != v]
    kind = method(found.method).settings_type
    named = {*settings, *kind.presets.get(preset or "", ())}
    asked = make(kind, preset, **settings).model_dump(include=named - kind.at_inference - kind.at_training)
    problems += [f"{k}={v} (it is {kept.get(k)})" for k, v in asked.items() if kept.get(k) != v]
    if problems:
        raise InputError(
            f"{found.path} exists and goes on as it was begun, which conflicts with {', '.join(problems)}: leave "
            f"that out, or name a new file with --model"
        )


def _heading(model: Path, learner: Learner, labels: Sequence[Label]) -> str:
    """Say which model learns how much."""
    so_far = f"{count(len(learner.classes), 'class')} so far" if learner.classes else "new"
    return f"{model}: {learner.method} on {learner.backbone.name}, {so_far}; {count(len(labels), 'image')} to learn"


def _event(labels: Sequence[Label]) -> str:
    """Say what was learned, in few words."""
    names = sorted(set(labels))
    return f"learned {', '.join(map(str, names[:5]))}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
