"""The command that uses a model: predict; and what the commands on models share."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from continual import options
from continual.backbones import loading
from continual.backbones.loading import Backbone
from continual.cli.progress import ProgressBars
from continual.console import STDOUT, add_row, check_outputs, console, new_table, show, write_text
from continual.data.images import check_readable, image_files, unread
from continual.errors import InputError
from continual.learning.answers import Prediction
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import make
from continual.lifecycle import contents
from continual.lifecycle.contents import ModelFile
from continual.methods import load, method


def predict(
    model: Path,
    images: Sequence[Path],
    *,
    json_file: Path | None = None,
    csv_file: Path | None = None,
    unknown_rate: float | None = None,
    settings: Sequence[str] = (),
    weights: Path | None = None,
    device: str = "auto",
    workers: int = 0,
) -> None:
    """Answer for images and folders of images, as a table, JSON or CSV."""
    check_outputs(json_file, csv_file)
    device_ = options.device(device)
    found = contents.read(model)
    changed = changes(found, settings)
    paths = [path for given in images for path in images_in(given)]
    with ProgressBars(console(stderr=True)) as bars:
        check_readable(paths, bars)
        learner = load_learner(found, weights, device_).variant(**changed)
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
        others = unread(given)
        raise InputError(f"{given} holds no images{f' but {others}' if others else ''}")
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
    sure, asked = (records[0][key] is not None for key in ("probability", "unknown"))
    more = [*(["stack", "refinements"] if retrieves else []), *(["probability"] * sure), *(["unknown"] * asked)]
    table = new_table("file", "answer", "score", "runner-up", "score", *more)
    for r in records:
        second = None if r["runner_up"] is None else f"{r['runner_up_score']:.3f}"
        extra: list[Any] = [r["stack"], r["refinements"]] if retrieves else []
        if sure:
            extra.append(f"{r['probability']:.3f}")
        if asked:
            extra.append("unknown" if r["unknown"] else "")
        add_row(table, r["file"], r["answer"], f"{r['score']:.3f}", r["runner_up"], second, *extra)
    return table


def changes(found: ModelFile, pairs: Sequence[str]) -> dict[str, Any]:
    """Return settings to answer with, from `key=value`; raises InputError for those that a model cannot change."""
    asked, kind = options.assignments("--set", pairs), method(found.method).settings_type
    if refused := sorted(asked.keys() - kind.at_inference):
        raise InputError(
            f"--set {refused[0]}: of a model that exists, {', '.join(sorted(kind.at_inference))} can be set for answers"
        )
    make(kind, **{**found.header["settings"], **asked})
    return asked


def load_learner(
    found: ModelFile, weights: Path | None, device: Any, backbone: Backbone | None = None
) -> IncrementalLearner[Any]:
    """Load the model, on a backbone that was loaded before, if it is given.

    `weights`, where given, are used even if the model embeds its backbone, and must be the same.
    """
    description = dict(found.header["backbone"])
    file = description["weights_file"]
    if backbone is None and weights is not None:
        backbone = loading.rebuild({**description, "weights_file": str(weights)})
    elif backbone is None and not found.embedded and file is not None and not Path(file).is_file():
        raise InputError(f"the backbone's weights of {found.path} were at {file}: say where they are with --weights")
    return load(found.path, backbone, device=device)
