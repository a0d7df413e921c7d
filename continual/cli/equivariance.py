"""The sub-command `equimos equivariance`: options, and what is shown; the work is loaded when a command runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from continual.cli.loading import loading_pytorch
from continual.cli.options import Csv, Device, Images, Json, ModelArg, ValueRange, Workers
from continual.console import STDOUT, check_outputs, console, count, show_rows, write_json, write_text
from continual.data.folders import parts_in
from continual.errors import InputError

if TYPE_CHECKING:
    from continual.experiments.equivariance.check import Checked

app = typer.Typer(
    help="Check, tune and evaluate models on rotated and mirrored images, and ask images for their group.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="timm's full tag, torchvision/NAME.WEIGHTS, clip/NAME.WEIGHTS, or a .safetensors file: weights that "
        "name their model, a model of `equimos learn`, or of `equivariance tune`.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        "-g",
        help="By which to transform the images: C4, D4, mirror_h, C8, ... For a model of `tune` it may be another than "
        "its own.",
        show_default="the file's, or C4",
    ),
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Local weights for the model.")]
Size = Annotated[int | None, typer.Option(min=1, help="Side of the input, for networks that take any.")]


@app.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Show the help where no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def check(
    model: Model,
    group: Group = None,
    images: Annotated[
        Path | None, typer.Option("--images", "-i", metavar="DIR", help="Real images; random input without.")
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="How many images.")] = 8,
    wrapper: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="`equimos equivariance wrappers` lists them; e.g. equizero,proxy=similarity.",
            show_default="plain",
        ),
    ] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    size: Size = None,
    float64: Annotated[bool, typer.Option("--float64", help="Compute in double precision.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a report here: by element, layer and image size.")
    ] = None,
    json: Json = None,
    device: Device = "auto",
) -> None:
    """Say whether a model's answer ignores the transformations of a group, element by element.

    Exit code 0 if it is equivariant, 1 if it is not, 2 for a mistake.
    """
    with loading_pytorch():
        from continual.experiments.equivariance import check as checks
        from continual.experiments.equivariance.config import parse_wrapper
        from continual.experiments.equivariance.files import Source, open_model
        from continual.symmetry.views import group_named

    check_outputs(json)
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)
    config, chosen = parse_wrapper(wrapper) if wrapper else None, group_named(group) if group else None
    opened = open_model(Source(model, weights, model_arg or (), size, device))
    found = checks.check(opened, chosen, config, images, number, float64=float64, with_report=report is not None)
    if write_json(json, found.record):
        show_rows(_elements(found), "element", "relative error", "allowed", "action", "")
        for line in found.verdict.splitlines():
            console().print(line)
    if report is not None:
        found.write(report)
        console(stderr=True).print(f"report: {', '.join(sorted(str(p) for p in report.glob('equivariance.*')))}")
    if not found.equivariant:
        raise typer.Exit(1)


def _elements(found: Checked) -> Iterator[tuple[str, ...]]:
    for element, exact in zip(found.record["elements"], found.exact, strict=True):
        name, error, limit = element["element"], element["error"], element["tolerance"]
        mark = "ok" if error <= limit else "worst" if name == found.record["worst"] else "too large"
        yield name, f"{error:.1e}", f"{limit:.0e}", "exact" if exact else "interpolated", mark


@app.command()
def advise(
    images: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with one folder per class.")],
    backbone: Annotated[
        str | None, typer.Option(metavar="TAG", help="timm's full tag, e.g. vit_base_patch16_224.augreg_in21k.")
    ] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    value_range: ValueRange = None,
    json: Json = None,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Say which group images have: rotations, mirrors, both, or none.

    Every image is left out with all its views and answered from the others, with each group and without; nothing is
    trained. The last columns say which share of the squared error a group saves, and how often moved images
    are recognised, by the element of the group that shows most: 50 % is by chance.
    """
    with loading_pytorch():
        from continual import options
        from continual.backbones.loading import load_backbone
        from continual.cli import opening
        from continual.cli.progress import ProgressBars, waiting
        from continual.data.inputs import as_experience
        from continual.learning.extractor import Extractor, every_view
        from continual.learning.settings import Settings
        from continual.symmetry.choice import FEWEST
        from continual.symmetry.group_evidence import advice, evidence, margin

    check_outputs(json)
    arguments = options.assignments("--model-arg", model_arg or ())
    if backbone is None and weights is None:
        backbone, arguments = opening.proposed_backbone("telling which group images have", arguments, ask=False)
    with waiting("loading the backbone"):
        made = load_backbone(backbone, weights=weights, **arguments)
    folder, prepared = parts_in(images).get("train", images), made.preprocessing.for_a_group()
    data = as_experience(folder, None, prepared, value_range=value_range)
    extractor = Extractor(made.on(options.device(device)), device=options.device(device))
    with ProgressBars(console(stderr=True)) as bars:
        views, labels = every_view(extractor, data, Settings(), bars, workers)
        with bars.waiting("answering each image from the others"):
            found = evidence(views, labels)
    if not found:
        raise InputError(f"{images} has fewer than two classes of two images: there is nothing to tell a group by")
    taken = advice(found)
    named: list[tuple[str, object]] = [("--images", images), ("--model", "model.safetensors"), ("--backbone", backbone)]
    named += [("--weights", weights), *(("--model-arg", f"{key}={value}") for key, value in arguments.items())]
    named += [("--value-range", value_range), ("--symmetry", taken.group)]
    words = [word for option, value in named if value is not None for word in (option, str(value))]
    command = shlex.join(["equimos", "learn", *words])
    if not write_json(json, {"advice": taken.group, "groups": [asdict(one) for one in found], "command": command}):
        return
    rows = [
        (one.group or "none", one.views, f"{one.accuracy:.1%}", f"{one.saved:.1%}", f"{one.recognised:.0%}")
        for one in found
    ]
    show_rows(rows, "group", "views", "right, left out", "error saved", "moved recognised")
    least = margin(taken.up)
    asked = f"has to save {least:.1%} of the error" if least >= 0 else f"may add {-least:.1%} to the error"
    console().print(
        f"group: {taken.group or 'none'} (one that changes which way is up {asked}, because {taken.up:.0%} of moved "
        "images are recognised as moved; 50% is by chance)"
    )
    if len(labels) < FEWEST:
        console().print(f"{count(len(labels), 'image')} say little: --symmetry auto asks for {FEWEST}, better are 50")
    console().print(f"next: {command}", markup=False, soft_wrap=True)


@app.command()
def tune(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file, or a name: equivariance/quickstart.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Change the config, e.g. data.per_class=20 group=D4."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The study's folder.", show_default="runs/NAME-OF-CONFIG")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything on random weights; download, train and write nothing.")
    ] = False,
) -> None:
    """Tune and compare wrappers on untransformed and rotated images. The same command resumes an interrupted study."""
    from continual.experiments import shipped

    config = shipped.find(config, shipped.STUDIES)
    with loading_pytorch():
        from continual import options
        from continual.cli.progress import ProgressBars
        from continual.experiments.equivariance import report
        from continual.experiments.equivariance.config import load_study
        from continual.experiments.equivariance.study import run_study, tried

    study, remarks = load_study(config, changes or ()), console(stderr=True)
    study = study.model_copy(update={"device": str(options.device(study.device))})
    if dry_run:
        show_rows(tried(study), "row", "wrapper", "recipe", "trained parameters")
        remarks.print(f"{config} is a study that can be run; nothing was downloaded, trained or written")
        return
    out = out or shipped.run_folder(config)
    known = " (rows that are there are not run again)" if out.exists() else ""
    remarks.print(f"{study.title}: {'; '.join(study.rows)}. Results in {out}{known}")
    with ProgressBars(remarks) as bars:
        try:
            found = run_study(study, out, bars)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command resumes it") from None
    report.show(found, f"{study.title}, {study.group}")
    remarks.print(f"table, figures and pictures: {', '.join(sorted(str(p) for p in out.iterdir() if p.is_file()))}")


@app.command()
def evaluate(
    model: Model,
    images: Images,
    group: Group = None,
    wrapper: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="A row of the table; `equimos equivariance wrappers` lists them.",
            show_default="plain, equitune, equizero, max",
        ),
    ] = None,
    fit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Fit a linear head to these untransformed images first.")
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A prompt for CLIP: 'a photo of a {}.'")
    ] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    size: Size = None,
    per_class: Annotated[int | None, typer.Option(min=1, help="Use only so many images per class.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write results.json, .csv, .md and .png here.")
    ] = None,
    json: Json = None,
    csv: Csv = None,
    device: Device = "auto",
) -> None:
    """Measure accuracy untransformed and rotated, and how stable answers are over the orbit, for several wrappers."""
    with loading_pytorch():
        from continual.cli.progress import ProgressBars
        from continual.experiments.equivariance import evaluate as evaluation
        from continual.experiments.equivariance import report
        from continual.experiments.equivariance.config import parse_wrapper
        from continual.experiments.equivariance.data import of_folder
        from continual.experiments.equivariance.files import Source, open_model
        from continual.symmetry.views import group_named

    check_outputs(json, csv)
    wrappers, chosen = {text: parse_wrapper(text) for text in wrapper or ()}, group_named(group) if group else None
    classes, part = of_folder(images, per_class)
    opened = open_model(Source(model, weights, model_arg or (), size, device), classes, template or ())
    with ProgressBars(console(stderr=True)) as bars:
        found = evaluation.evaluate(
            opened, images, classes, part, chosen, wrappers, fit=fit, batch_size=batch_size, progress=bars
        )
    write_json(json, asdict(found))
    if csv is not None:
        write_text(csv, report.as_csv(found))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        report.write(found, out)
        console(stderr=True).print(f"results: {', '.join(sorted(str(p) for p in out.glob('results.*')))}")
    if STDOUT not in (json, csv):
        report.show(found, found.title)


@app.command()
def wrappers() -> None:
    """List the ways to make a network equivariant, and their options."""
    from continual.experiments.equivariance.config import described

    show_rows(described(), "wrapper", "what it is", "options")
