"""The commands that ask a model: predict, info."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual import console, files
from continual.backbones import described
from continual.cli import bulk
from continual.cli.loading import loading_pytorch
from continual.cli.options import (
    FALSE_ALARMS,
    Csv,
    Device,
    Jobs,
    Json,
    Launcher,
    Method,
    Model,
    Passes,
    Ray,
    Set,
    Slurm,
    Weights,
    Workers,
    check_false_alarms,
    check_launcher,
    check_there,
    with_views,
)
from continual.cli.together import together
from continual.errors import InputError
from continual.lifecycle import contents

if TYPE_CHECKING:
    from rich.table import Table


app = typer.Typer()


@app.command()
@together()
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR", help="Images, or folders at any depth.")],
    json: Json = None,
    csv: Csv = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(
            *FALSE_ALARMS, help="Mark images unlike all classes, and about this share of those of known classes: 0.05."
        ),
    ] = None,
    passes: Passes = None,
    set_: Set = None,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
    workers: Workers = 0,
    parquet: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write all answers here, in parts, for any number of images.")
    ] = None,
    part: Annotated[int, typer.Option(min=1, help="Images in a part of --parquet.")] = 4096,
    jobs: Jobs = 1,
    launcher: Launcher = "local",
    slurm: Slurm = None,
    ray: Ray = None,
) -> None:
    """Name the class of images: the answer, its score, and the runner-up. Adapters count from 0.

    A model of a single class says how unusual an image is: its anomaly, 1 for the usual good one, and whether
    that is more than --false-alarm-rate of good images have (5 % without).

    The processes of torchrun share the images, and the first says and writes what all have found.

    With --parquet nothing is held of more than a part, and an image that cannot be read has an error in place of an
    answer. The same command makes the parts that are left. Parts are shared among --jobs, also on a cluster
    (--launcher slurm), or are tasks of a Ray cluster (--launcher ray).
    """
    check_launcher(launcher, jobs)
    if parquet is None and (jobs > 1 or launcher != "local"):
        raise InputError("--jobs and --launcher share the parts of --parquet DIR among processes: add that")
    check_false_alarms(false_alarm_rate)
    console.check_outputs(json, csv)
    check_there(images)
    set_ = with_views(set_, passes)
    found = contents.read(model)
    with loading_pytorch():
        from continual import distributed, options
        from continual.cli import opening
        from continual.cli.given import usual_images
        from continual.cli.progress import ProgressBars

    opening.settings_now(found, set_, method)
    if parquet is not None:
        if distributed.count() > 1 or json is not None or csv is not None:
            raise InputError("--parquet goes without --json, --csv and torchrun; --jobs shares its parts")
        places = tuple(file.absolute() for file in weights or ())
        with model.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        of = bulk.Asked(model.absolute(), sha256, tuple(set_), method, places, device, workers, false_alarm_rate)
        bulk.answer_all(of, images, found.channels, parquet, part, launcher, jobs, slurm or (), ray or ())
        return
    distributed.use(str(options.device(device)))
    with ProgressBars(console.console(stderr=True)) as bars:
        paths = opening.readable(images, bars, found.channels)
        with bars.waiting("loading the model"):
            learner = opening.load_learner(found, weights, device, method, set_)
        rate = bulk.rate_for(learner, false_alarm_rate)
        asked = learner.predict(paths, workers=workers, progress=bars, false_alarm_rate=rate)
        records = bulk.records(paths, asked)
    console.write_json(json, records)
    if csv is not None:
        console.write_text(csv, files.csv_text([records[0], *(record.values() for record in records)]))
    if console.STDOUT not in (json, csv):
        _show_predictions(records, rate)
        if asked.passes is not None:
            console.console().print(f"{float(asked.passes.mean()):.2f} passes of the backbone per image")
        if asked.anomaly is not None and rate is not None and rate * (known := usual_images(learner)) < 1:
            said = f"by {console.count(known, 'good image')}, rates below {1 / known:.1%} are not known"
            console.console(stderr=True).print(f"{said}: more good images would be called unusual than that")


@app.command()
def info(model: Model, json: Json = None) -> None:
    """Show what a model file holds, without its backbone. Experiences count from 0."""
    console.check_outputs(json)
    about = contents.read(model).describe()
    if console.write_json(json, about):
        console.show(_info_table(about))


def _show_predictions(records: Sequence[dict[str, Any]], rate: float | None) -> None:
    if records[0]["anomaly"] is not None:
        console.show_rows(
            [[r["file"], _short(r["anomaly"]), "unusual" if r["unknown"] else ""] for r in records],
            *("file", "anomaly", "unusual"),
        )
        threshold = _short(records[0]["anomaly_threshold"] or math.inf)
        console.console(stderr=True).print(f"unusual: an anomaly above {threshold}, as {rate:.1%} of good images have")
        return
    more = [name for name in ("stack", "refinements", "probability", "unknown") if records[0][name] is not None]
    more += ["unsure"] * any(record["unsure"] for record in records)
    names = ("file", "answer", "score", "runner_up", "runner_up_score", *more)
    words = [("unknown", "") if r["unknown"] else ("", "not sure" if r["unsure"] else "") for r in records]
    shown = [{**r, "unknown": a, "unsure": b} for r, (a, b) in zip(records, words, strict=True)]
    rows = [[_short(r[name]) for name in names] for r in shown]
    headings = ["adapter" if name == "stack" else name for name in more]
    console.show_rows(rows, "file", "answer", "score", "runner-up", "score", *headings)


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
    kept = about["memory_bytes"].get(contents.THUMBNAILS)
    rows += [("thumbnails", "none" if kept is None else f"kept, {console.size(kept)}")]
    rows += [("ignored", ", ".join(map(str, about["ignored"])))] if about["ignored"] else []
    rows += [("memory", ", ".join(f"{part} {console.size(n)}" for part, n in about["memory_bytes"].items()))]
    rows += [(name, console.pairs(about[name])) for name in ("settings", "versions")]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for row in rows:
        console.add_row(table, *row)
    return table
