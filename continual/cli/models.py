"""The commands that ask a model: predict, info."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual import console, files
from continual.backbones import described
from continual.cli.options import (
    FALSE_ALARMS,
    Csv,
    Device,
    Json,
    Method,
    Model,
    Set,
    Weights,
    Workers,
    check_false_alarms,
    check_there,
)
from continual.cli.together import together
from continual.lifecycle import contents

if TYPE_CHECKING:
    from rich.table import Table

    from continual.learning.answers import Prediction

app = typer.Typer()


@app.command()
@together()
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Images, or folders at any depth.")],
    json: Json = None,
    csv: Csv = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(
            *FALSE_ALARMS, help="Mark images unlike all classes, and about this share of those of known classes: 0.05."
        ),
    ] = None,
    set_: Set = None,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Name the class of images: the answer, its score, and the runner-up. Stacks count from 0.

    The processes of torchrun share the images, and the first says and writes what all have found.
    """
    check_false_alarms(false_alarm_rate)
    console.check_outputs(json, csv)
    check_there(images)
    found = contents.read(model)
    from continual import distributed, options
    from continual.cli import opening
    from continual.cli.progress import ProgressBars

    opening.settings_now(found, set_, method)
    distributed.use(str(options.device(device)))
    with ProgressBars(console.console(stderr=True)) as bars:
        paths = opening.readable(images, bars, found.channels)
        with bars.waiting("loading the model"):
            learner = opening.load_learner(found, weights, device, method, set_)
        asked = learner.predict(paths, workers=workers, progress=bars, false_alarm_rate=false_alarm_rate)
        records = _records(paths, asked)
    console.write_json(json, records)
    if csv is not None:
        console.write_text(csv, files.csv_text([records[0], *(record.values() for record in records)]))
    if console.STDOUT not in (json, csv):
        _show_predictions(records)


@app.command()
def info(model: Model, json: Json = None) -> None:
    """Show what a model file holds, without its backbone. Experiences count from 0."""
    console.check_outputs(json)
    about = contents.read(model).describe()
    if console.write_json(json, about):
        console.show(_info_table(about))


def _records(paths: Sequence[Path], prediction: Prediction) -> list[dict[str, Any]]:
    """Return one flat record per image; stacks count from 0 and are None for methods without them."""
    best = prediction.scores.topk(min(2, len(prediction.classes)), dim=-1)
    probability = prediction.probabilities
    if probability is not None:
        answered = [prediction.classes.index(label) for label in prediction.labels]
        probability = probability[range(len(paths)), answered]
    more = {name: getattr(prediction, name) for name in ("stack", "first_stack", "refinements")}
    more |= {"probability": probability, "familiarity": prediction.p_value, "unknown": prediction.unknown}
    columns = {name: [None] * len(paths) if values is None else values.tolist() for name, values in more.items()}
    records = []
    for row, (path, answer) in enumerate(zip(paths, prediction.labels, strict=True)):
        names = [*(prediction.classes[place] for place in best.indices[row].tolist()), None]
        scores = [*best.values[row].tolist(), None]
        record = {"file": str(path), "answer": answer, "score": scores[0]}
        record |= {"runner_up": names[1], "runner_up_score": scores[1]}
        records.append(record | {name: values[row] for name, values in columns.items()})
    return records


def _show_predictions(records: Sequence[dict[str, Any]]) -> None:
    more = [name for name in ("stack", "refinements", "probability", "unknown") if records[0][name] is not None]
    names = ("file", "answer", "score", "runner_up", "runner_up_score", *more)
    shown = [{**r, "unknown": "unknown" if r["unknown"] else ""} for r in records]
    rows = [[_short(r[name]) for name in names] for r in shown]
    console.show_rows(rows, "file", "answer", "score", "runner-up", "score", *more)


def _short(value: Any) -> Any:
    return f"{value:.3f}" if isinstance(value, float) else value


def _info_table(about: dict[str, Any]) -> Table:
    from rich.table import Table

    from continual.backbones.recipes import parsed
    from continual.symmetry.choice import GroupChoice

    learned = f"{console.count(len(about['classes']), 'class')} in {console.count(about['experiences'], 'experience')}"
    rows = [("file", f"{about['file']}, {console.size(about['file_bytes'])}"), ("method", about["method"])]
    rows += [("learned", f"{learned}, {console.count(about['updates'], 'update')}")]
    for experience in range(about["experiences"]):
        own = [c for c in about["classes"] if c["experience"] == experience]
        names = [str(c["name"]) + (f" ({c['images']})" if c["images"] is not None else "") for c in own]
        rows += [(f"  experience {experience}", ", ".join(names))]
    for backbone in described(about["backbone"]):
        embedded = about["backbone"]["embedded"]
        source = "embedded" if embedded else backbone["weights_file"] or "from timm's hub"
        rows += [("backbone", f"{backbone['name']} ({source})"), ("  SHA-256", backbone["sha256"])]
        rows += [("  weights", backbone["weights_fit"])] if backbone.get("weights_fit") else []
        rows += [("  made", recipe.words)] if (recipe := parsed(backbone.get("recipe"))) else []
        rows += [("  arguments", console.pairs(backbone["model_args"]))]
        rows += [("  preprocessing", console.pairs(backbone["preprocessing"]))]
    if about["choice"]:
        rows += [("group", GroupChoice(**about["choice"]).words)]
    rows += [("memory", ", ".join(f"{part} {console.size(n)}" for part, n in about["memory_bytes"].items()))]
    rows += [(name, console.pairs(about[name])) for name in ("settings", "versions")]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for row in rows:
        console.add_row(table, *row)
    return table
