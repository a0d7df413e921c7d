"""The commands that ask a model: predict, info."""

from __future__ import annotations

import csv as csv_format
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.cli.options import Csv, Device, Json, Model, Set, Weights, Workers
from continual.console import (
    STDOUT,
    add_row,
    check_outputs,
    console,
    count,
    new_table,
    pairs,
    show,
    size,
    write_json,
    write_text,
)  # fmt: skip
from continual.lifecycle import contents

if TYPE_CHECKING:
    from rich.table import Table

    from continual.learning.answers import Prediction

app = typer.Typer()


@app.command()
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Images, or folders at any depth.")],
    json: Json = None,
    csv: Csv = None,
    unknown_rate: Annotated[
        float | None,
        typer.Option(help="Mark images unlike all classes, and about this share of those of known classes: 0.05."),
    ] = None,
    set_: Set = None,
    weights: Weights = None,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Name the class of images: the answer, its score, and the runner-up. Stacks count from 0."""
    from continual import options
    from continual.cli.opening import images_in, load_learner, settings_now
    from continual.cli.progress import ProgressBars
    from continual.data.images import check_readable

    check_outputs(json, csv)
    device_ = options.device(device)
    found = contents.read(model)
    changed = settings_now(found, set_ or ())
    paths = [path for given in images for path in images_in(given)]
    with ProgressBars(console(stderr=True)) as bars:
        check_readable(paths, bars)
        learner = load_learner(found, weights, device_).variant(**changed)
        records = _records(paths, learner.predict(paths, workers=workers, progress=bars, unknown_rate=unknown_rate))
    write_json(json, records)
    if csv is not None:
        write_text(csv, _csv(records))
    if STDOUT not in (json, csv):
        show(_prediction_table(records))


@app.command()
def info(model: Model, json: Json = None) -> None:
    """Show what a model file holds, without its backbone. Experiences count from 0."""
    check_outputs(json)
    about = contents.read(model).describe()
    if write_json(json, about):
        show(_info_table(about))


def _records(paths: Sequence[Path], prediction: Prediction) -> list[dict[str, Any]]:
    """Return one flat record an image; stacks count from 0 and are None for methods without them."""
    best = prediction.scores.topk(min(2, len(prediction.classes)), dim=-1)
    probability = prediction.probabilities
    if probability is not None:
        answered = [prediction.classes.index(label) for label in prediction.labels]
        probability = probability[range(len(paths)), answered]
    more = {name: getattr(prediction, name) for name in ("stack", "first_stack", "refinements")}
    more |= {"probability": probability, "familiarity": prediction.familiarity, "unknown": prediction.unknown}
    columns = {name: [None] * len(paths) if values is None else values.tolist() for name, values in more.items()}
    records = []
    for row, (path, answer) in enumerate(zip(paths, prediction.labels, strict=True)):
        scores, order = best.values[row].tolist(), best.indices[row].tolist()
        first = {"file": str(path), "answer": answer, "score": scores[0]}
        second = {"runner_up": prediction.classes[order[1]], "runner_up_score": scores[1]} if len(order) > 1 else {}
        none = {"runner_up": None, "runner_up_score": None}
        records.append({**first, **none, **second, **{name: values[row] for name, values in columns.items()}})
    return records


def _csv(records: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv_format.DictWriter(text, list(records[0]), lineterminator="\n")
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


def _info_table(about: dict[str, Any]) -> Table:
    backbone, preparation = about["backbone"], about["backbone"]["preprocessing"]
    source = "embedded" if backbone["embedded"] else backbone["weights_file"] or "from timm's hub"
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    add_row(table, "file", f"{about['file']}, {size(about['file_bytes'])}")
    add_row(table, "method", about["method"])
    learned = f"{count(len(about['classes']), 'class')} in {count(about['experiences'], 'experience')}"
    add_row(table, "learned", f"{learned}, {count(about['updates'], 'update')}")
    for experience in range(about["experiences"]):
        names = [
            str(c["name"]) + (f" ({c['images']})" if c["images"] is not None else "")
            for c in about["classes"]
            if c["experience"] == experience
        ]
        add_row(table, f"  experience {experience}", ", ".join(names))
    add_row(table, "backbone", f"{backbone['name']} ({source})")
    add_row(table, "  SHA-256", backbone["sha256"])
    add_row(table, "  arguments", pairs(backbone["model_args"]))
    add_row(table, "  preprocessing", pairs(preparation))
    add_row(table, "memory", ", ".join(f"{part} {size(n)}" for part, n in about["memory_bytes"].items()))
    add_row(table, "settings", pairs(about["settings"]))
    add_row(table, "versions", pairs(about["versions"]))
    return table
