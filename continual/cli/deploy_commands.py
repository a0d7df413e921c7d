"""The commands that take a model to where it is used."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from continual import options
from continual.cli.models import changes, images_in, load_learner
from continual.cli.progress import ProgressBars
from continual.console import can_ask, check_target, confirmed, console, count, size
from continual.data.images import check_readable
from continual.data.inputs import Label
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.lifecycle import contents
from continual.methods.mos import consolidation
from continual.methods.mos.learner import MOSLearner


def export(
    model: Path, target: Path, *, images: Sequence[Path], unknown_rate: float, int8: bool, weights: Path | None
) -> None:
    """Write a model as an ONNX file, or into a folder with the runner beside it."""
    try:
        from continual.export import onnx_runner, writing
    except ImportError as error:
        raise InputError(f"export needs the extra: pip install 'equimos[export]' ({error})") from None
    folder = target.suffix != ".onnx"
    file = target / f"{model.stem}.onnx" if folder else target
    found = contents.read(model)
    if folder and not target.exists():
        check_target(target)
        target.mkdir()
    check_target(file)
    with ProgressBars(console(stderr=True)) as bars:
        paths = [path for given in images for path in images_in(given)]
        check_readable(paths, bars)
        learner = load_learner(found, weights, torch.device("cpu"))
        agreed = writing.export_onnx(
            learner, file, images=paths or None, unknown_rate=unknown_rate, int8=int8, progress=bars
        )
    if folder:
        shutil.copyfile(onnx_runner.__file__, target / "onnx_runner.py")
    out = console()
    out.print(f"{file}: {learner.method}, {count(len(learner.classes), 'class')}, {size(file.stat().st_size)}")
    out.print(
        f"compared with PyTorch on {count(agreed.images, 'image' if paths else 'made-up image')}: "
        f"{agreed.same_answers} answers the same, scores within {agreed.largest:.1g}"
    )
    if agreed.int8 is not None:
        small = agreed.int8
        out.print(
            f"in 8 bits: {small.same_answers} of {agreed.images} answers the same, scores within {small.largest:.1g}; "
            f"{size(small.float_bytes)} -> {size(small.bytes)}, "
            f"{small.float_milliseconds:.1f} -> {small.milliseconds:.1f} ms an image here"
        )
        _say_right(images, learner, agreed.answers, small.answers)


def consolidate(model: Path, out: Path, *, images: Path | None, yes: bool, weights: Path | None, device: str) -> None:
    """Say what a single stack costs, ask, and write the model with it to another file."""
    if not yes and not can_ask():
        raise InputError("there is no terminal to ask on: --yes writes the model without asking")
    check_target(out)
    if out.exists():
        raise InputError(f"{out} is there already: name a new file with --out")
    found = contents.read(model)
    learner = load_learner(found, weights, options.device(device))
    if not isinstance(learner, MOSLearner):
        raise InputError(f"consolidate is for models of method mos, and not of {learner.method}")
    single = consolidation.consolidated(learner)
    guess = consolidation.estimate(learner, single)
    say = console().print
    say(f"{learner.state.experiences} stacks -> 1, one pass an image")
    say(f"features drawn from class statistics answered right: {guess.before:.1%} -> {guess.after:.1%} (an estimate)")
    if images is not None:
        _say_cost(learner, single, images)
    if not (yes or confirmed(f"Write {out}?")):
        say("nothing written")
        return
    single.save(out, embed_backbone=found.embedded, notes={"event": f"consolidated from {model.name}"})
    say(f"{out}: {count(len(single.classes), 'class')}, {size(model.stat().st_size)} -> {size(out.stat().st_size)}")


def _say_cost(learner: MOSLearner, single: MOSLearner, folder: Path) -> None:
    """Print what changes for real images: which are right, where their folders say, and which are answered alike."""
    paths = images_in(folder)
    with ProgressBars(console(stderr=True)) as bars:
        check_readable(paths, bars)
        before, after = (one.predict(paths, progress=bars) for one in (learner, single))
    rows = _say_right([folder], learner, before.labels, after.labels)
    say = console().print
    same = sum(a == b for a, b in zip(before.labels, after.labels, strict=True))
    say(f"{same} of {count(len(paths), 'image')} answered as before")
    alarms = [found.familiarity[rows] <= 0.05 for found in (before, after) if found.familiarity is not None]
    if rows and len(alarms) == 2:
        shares = [float(found.float().mean()) for found in alarms]
        say(f"of the known, called unknown at a rate of 5 %: {shares[0]:.1%} -> {shares[1]:.1%}")


def _say_right(
    given: Sequence[Path], learner: IncrementalLearner[Any], before: Sequence[Label], after: Sequence[Label]
) -> list[int]:
    """Print how many images are answered right by both, and return their rows: those in the folder of a class."""
    names = [path.relative_to(place).parts[0] if place.is_dir() else "" for place in given for path in images_in(place)]
    known = {str(label) for label in learner.classes}
    rows = [row for row, name in enumerate(names) if name in known]
    if rows:
        right = [sum(str(answers[row]) == names[row] for row in rows) / len(rows) for answers in (before, after)]
        console().print(f"{count(len(rows), 'image')} answered right: {right[0]:.1%} -> {right[1]:.1%}")
    return rows


def serve(
    model: Path,
    *,
    host: str,
    port: int,
    api_key: str | None,
    unknown_rate: float,
    max_bytes: int,
    max_pixels: int,
    timeout: float,
    batch: int,
    settings: Sequence[str],
    weights: Path | None,
    device: str,
) -> None:
    """Answer over HTTP until interrupted."""
    try:
        from continual.serving import server
        from continual.serving.app import ServingOptions
        from continual.serving.model import ModelInUse
        from continual.serving.uploads import Limits
    except ImportError as error:
        raise InputError(f"serve needs the extra: pip install 'equimos[serve]' ({error})") from None
    if not 0 < unknown_rate < 1:
        raise InputError(f"--unknown-rate is a share of images above 0 and below 1, got {unknown_rate}")
    if api_key is not None and not api_key.strip():
        raise InputError("the API key is empty: set one, or none")
    device_ = options.device(device)

    def load(before: IncrementalLearner[Any] | None) -> IncrementalLearner[Any]:
        found = contents.read(model)
        if not found.classes:
            raise InputError(f"{model} has learned nothing yet")
        same = before is not None and before.backbone.describe() == found.header["backbone"]
        backbone = before.backbone if before is not None and same else None
        return load_learner(found, weights, device_, backbone).variant(**changes(found, settings))

    contents.read(model)
    in_use = ModelInUse(model, load)
    asked = ServingOptions(
        api_key=api_key,
        unknown_rate=unknown_rate,
        limits=Limits(max_bytes, max_pixels),
        timeout=timeout,
        batch=batch,
        hosts=server.names(host),
    )
    if "*" in asked.hosts and api_key is None:
        console(stderr=True).print(f"note: anyone who reaches {host} is answered; set EQUIMOS_API_KEY for a key")
    about = f"{model}: {in_use.now.learner.method}, {count(len(in_use.now.learner.classes), 'class')}"
    with server.listening(host, port) as sockets:
        console(stderr=True).print(f"{about}, at http://{server.address(sockets)} (Ctrl+C stops it)")
        server.run(in_use, asked, sockets)
