"""The commands that use a model: learn an experience, predict."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from continual import backbones
from continual.bench import locks, model_file, options, versions
from continual.bench.console import (
    STDOUT,
    add_row,
    check_outputs,
    check_target,
    console,
    count,
    new_table,
    show,
    size,
    write_text,
)
from continual.bench.model_file import ModelFile
from continual.bench.progress import ProgressBars
from continual.data import Label
from continual.errors import InputError
from continual.images import check_readable, image_files, list_folder
from continual.learner import IncrementalLearner
from continual.methods import load, method
from continual.preprocessing import Preprocessing
from continual.settings import make
from continual.state import Prediction


def learn(
    model: Path,
    images: Path,
    *,
    backbone: str | None = None,
    weights: Path | None = None,
    model_args: Sequence[str] = (),
    method_name: str | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
    embed_backbone: bool = False,
    device: str = "auto",
    workers: int = 0,
) -> None:
    """Create the model, or add an experience to it; the file changes when everything has succeeded."""
    check_target(model)
    device_ = options.device(device)
    arguments = options.assignments("--model-arg", model_args)
    wanted = options.assignments("--set", settings)
    with locks.claimed(model):
        found = model_file.read(model) if model.exists() else None
        if found:
            _refuse_changes(found, backbone, arguments, method_name, preset, wanted)
        else:
            make(method(method_name or "mos").settings_type, preset, **wanted)
            if backbone is None and weights is None:
                raise InputError(
                    f"{model} is a new model and needs a backbone: --backbone TAG, e.g. "
                    f"vit_base_patch16_224.augreg_in21k, or --weights FILE"
                )
        paths, labels = list_folder(images)
        remarks, started = console(stderr=True), time.perf_counter()
        with ProgressBars(remarks) as bars:
            check_readable(paths, bars)
            for note in _strays(images, labels):
                remarks.print(note)
            learner: IncrementalLearner[Any]
            if found:
                learner = load_learner(found, weights, device_)
            else:
                made = backbones.load_backbone(backbone, weights=weights, **arguments)
                learner = method(method_name or "mos")(made, device=device_, preset=preset, **wanted)
            remarks.print(_plan(model, learner, labels))
            try:
                learner.learn(paths, labels, progress=bars, workers=workers)
                embed = embed_backbone or (found is not None and found.embedded)
                versions.save(learner, model, _event(labels), embed_backbone=embed)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"{model} is {'as it was' if found else 'not made'}") from None
        console().print(
            f"{model}: {count(len(learner.classes), 'class')} in {count(learner.state.experiences, 'experience')}, "
            f"{size(model.stat().st_size)}, {time.perf_counter() - started:.0f} s"
        )


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
    asked = make(kind, preset, **settings).model_dump(include=named)
    problems += [f"{k}={v} (it is {kept.get(k)})" for k, v in asked.items() if kept.get(k) != v]
    if problems:
        raise InputError(
            f"{found.path} exists and goes on as it was begun, which conflicts with {', '.join(problems)}: leave "
            f"that out, or name a new file with --model"
        )


def _strays(folder: Path, labels: Iterable[Label]) -> list[str]:
    """Remark on images outside class folders, and on class folders without images."""
    loose = sum(len(path.relative_to(folder).parts) == 1 for path in image_files(folder))
    empty = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(labels)
    notes = [f"note: {count(loose, 'image')} outside class folders, not used"] if loose else []
    return notes + ([f"note: no images in {', '.join(sorted(empty))}"] if empty else [])


def _event(labels: Sequence[Label]) -> str:
    """Say what was learned, in few words."""
    names = sorted(set(labels))
    return f"learned {', '.join(map(str, names[:5]))}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"


def _plan(model: Path, learner: IncrementalLearner[Any], labels: Sequence[Label]) -> str:
    """Say what will be learned."""
    counts = Counter(labels)
    new = [f"{name} ({n})" for name, n in sorted(counts.items()) if name not in learner.classes]
    known = [f"{name} ({n})" for name, n in sorted(counts.items()) if name in learner.classes]
    so_far = f"{count(len(learner.classes), 'class')} so far" if learner.classes else "new"
    lines = [f"{model}: {learner.method} on {learner.backbone.name}, {so_far}; {count(len(labels), 'image')} to learn"]
    if new:
        lines.append(f"{count(len(new), 'new class')}: {', '.join(new)}")
    if known:
        lines.append(f"{count(len(known), 'known class')} with new images: {', '.join(known)}")
    return "\n".join(lines)


def predict(
    model: Path,
    images: Sequence[Path],
    *,
    json_file: Path | None = None,
    csv_file: Path | None = None,
    unknown_rate: float | None = None,
    weights: Path | None = None,
    device: str = "auto",
    workers: int = 0,
) -> None:
    """Answer for images and folders of images, as a table, JSON or CSV."""
    check_outputs(json_file, csv_file)
    device_ = options.device(device)
    found = model_file.read(model)
    paths = [path for given in images for path in images_in(given)]
    with ProgressBars(console(stderr=True)) as bars:
        check_readable(paths, bars)
        learner = load_learner(found, weights, device_)
        records = _records(paths, learner.predict(paths, workers=workers, progress=bars, unknown_rate=unknown_rate))
    if json_file is not None:
        write_text(json_file, json.dumps(records, indent=1) + "\n")
    if csv_file is not None:
        write_text(csv_file, _csv(records))
    if STDOUT not in (json_file, csv_file):
        show(_prediction_table(records))


def images_in(given: Path) -> list[Path]:
    """Return the images below a folder, or the one image given."""
    if not given.is_dir():
        return [given]
    found = image_files(given)
    if not found:
        raise InputError(f"{given} holds no images")
    return found


def _records(paths: Sequence[Path], prediction: Prediction) -> list[dict[str, Any]]:
    """Return one flat record an image; stacks count from 0 and are None for methods without them."""
    best = prediction.scores.topk(min(2, len(prediction.classes)), dim=-1)
    columns = [
        [None] * len(paths) if values is None else values.tolist()
        for values in (
            prediction.stack,
            prediction.first_stack,
            prediction.refinements,
            prediction.familiarity,
            prediction.unknown,
        )
    ]
    if prediction.probabilities is None:
        columns.append([None] * len(paths))
    else:
        answered = [prediction.classes.index(label) for label in prediction.labels]
        columns.append(prediction.probabilities[range(len(paths)), answered].tolist())
    records = []
    for path, answer, scores, order, stack, first_stack, refinements, familiarity, unknown, probability in zip(
        paths, prediction.labels, best.values.tolist(), best.indices.tolist(), *columns, strict=True
    ):
        records.append(
            {
                "file": str(path),
                "answer": answer,
                "score": scores[0],
                "runner_up": prediction.classes[order[1]] if len(order) > 1 else None,
                "runner_up_score": scores[1] if len(order) > 1 else None,
                "stack": stack,
                "first_stack": first_stack,
                "refinements": refinements,
                "probability": probability,
                "familiarity": familiarity,
                "unknown": unknown,
            }
        )
    return records


def _csv(records: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _prediction_table(records: Sequence[dict[str, Any]]) -> Table:
    retrieves = records[0]["stack"] is not None
    asked = records[0]["unknown"] is not None
    more = (["stack", "refinements"] if retrieves else []) + (["probability", "unknown"] if asked else [])
    table = new_table("file", "answer", "score", "runner-up", "score", *more)
    for r in records:
        second = None if r["runner_up"] is None else f"{r['runner_up_score']:.3f}"
        extra: list[Any] = [r["stack"], r["refinements"]] if retrieves else []
        if asked:
            extra += [f"{r['probability']:.3f}", "unknown" if r["unknown"] else ""]
        add_row(table, r["file"], r["answer"], f"{r['score']:.3f}", r["runner_up"], second, *extra)
    return table


def load_learner(found: ModelFile, weights: Path | None, device: Any) -> IncrementalLearner[Any]:
    """Load the model; `weights`, where given, are used even if it embeds its backbone, and must be the same."""
    description = dict(found.header["backbone"])
    if weights is not None:
        made = backbones.rebuild({**description, "weights_file": str(weights)})
        return load(found.path, made, device=device)
    file = description["weights_file"]
    if not found.embedded and file is not None and not Path(file).is_file():
        raise InputError(f"the backbone's weights of {found.path} were at {file}: say where they are with --weights")
    return load(found.path, device=device)
