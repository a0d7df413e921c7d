"""`equimos equivariance tune` and `evaluate`: accuracy on upright and on turned images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from continual.bench import equivariance_report as report
from continual.bench import options
from continual.bench.console import STDOUT, add_row, check_target, console, count, new_table, show, write_text
from continual.bench.datasets.catalogue import catalogue
from continual.bench.equivariance_check import open_model, parse_wrapper
from continual.bench.equivariance_config import StudyConfig, WrapperConfig, load_study
from continual.bench.equivariance_data import noise, of_folder, score_indices, split_of
from continual.bench.equivariance_models import Classifier, load_classifier
from continual.bench.equivariance_report import Row
from continual.bench.equivariance_run import counting, make_recipe, run_study, with_fitted_head
from continual.bench.progress import ProgressBars
from continual.bench.symmetry import Data, measure, refusals, remembered, remembers, tuned_parts, wrapped
from continual.errors import InputError
from continual.seeding import seeded
from continual.training import Progress
from equivariant.groups import FiniteGroup, as_group
from equivariant.tuning import trained_by


def tune(path: Path, changes: Sequence[str] = (), out: Path | None = None, dry_run: bool = False) -> None:
    """Run a study into a folder, print the table of results and say where the rest is."""
    config = load_study(path, changes)
    config = config.model_copy(update={"device": str(options.device(config.device))})
    remarks = console(stderr=True)
    if dry_run:
        _try(config)
        remarks.print(f"{path} is a study that can be run; nothing was downloaded, trained or written")
        return
    out = out or Path("runs") / path.stem
    known = " (rows that are there are not run again)" if out.exists() else ""
    remarks.print(f"{config.title}: {', '.join(config.rows)}; results in {out}{known}")
    with ProgressBars(remarks) as bars:
        try:
            rows = run_study(config, out, bars)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on with it") from None
    show(report.terminal(f"{config.title}, {config.group}", rows))
    remarks.print(f"table, figures and pictures: {', '.join(sorted(str(p) for p in out.iterdir() if p.is_file()))}")


def _try(config: StudyConfig) -> None:
    """Make every row on random weights, give it an image, and print what would be trained."""
    with refusals():
        group = as_group(config.group)
    if config.data.source in catalogue():
        count = catalogue()[config.data.source].classes
        split = noise(min(count, config.data.classes or count))
    else:
        split = split_of(config.data, config.seeds[0])
    found = load_classifier(config.model, split.classes, pretrained=False)
    image = split.test.prepared(found.preprocessing)[0][0][None]
    if config.model.head == "fit":
        with torch.no_grad():
            width = found.features(image).shape[1]
        head = nn.Linear(width, len(split.classes))
        found = Classifier(found.name, found.features, head, found.preprocessing, split.classes)
    score_indices(found, split.classes)
    table = new_table("row", "wrapper", "recipe", "trained parameters")
    for label, row in config.rows.items():
        model = wrapped(row, found.features, found.head, group).eval()
        with torch.no_grad(), refusals():
            model(image)
        stages = make_recipe(config, row, 0).stages if row.recipe else ()
        assert found.head is not None
        with refusals():
            chosen = [trained_by(stage, tuned_parts(model, found.head), model) for stage in stages]
        sizes = [f"{stage.train} {sum(p.numel() for p in c):,}" for stage, c in zip(stages, chosen, strict=True)]
        add_row(table, label, row.wrapper, row.recipe or "none: zero-shot", ", then ".join(sizes) or None)
    show(table)


def evaluate(
    model: str,
    images: Path,
    group_name: str | None = None,
    *,
    wrappers: Sequence[str] = (),
    fit: Path | None = None,
    templates: Sequence[str] = (),
    weights: Path | None = None,
    model_args: Sequence[str] = (),
    size: int | None = None,
    per_class: int | None = None,
    batch_size: int = 64,
    out: Path | None = None,
    json_file: Path | None = None,
    csv_file: Path | None = None,
    device: str = "auto",
) -> None:
    """Measure a classifier on a folder of classes, plain and in wrappers, upright and turned."""
    if json_file == csv_file == STDOUT:
        raise InputError("--json - and --csv - both ask for standard output: give one of them a file")
    for target in (json_file, csv_file):
        if target is not None:
            check_target(target)
    device_ = options.device(device)
    configs = {text: parse_wrapper(text) for text in wrappers or ("plain", "equitune", "equizero", "max")}
    with refusals():
        group = as_group(group_name) if group_name else None
    classes, test = of_folder(images, per_class)
    found, own_group, whole = open_model(model, weights, model_args, size, device_, classes, templates)
    if whole is not None and (wrappers or fit):
        raise InputError(f"{model} holds its own wrapper and head: leave out --wrapper and --fit")
    group = group or own_group or as_group("C4")
    with ProgressBars(console(stderr=True)) as bars:
        if fit is not None:
            known, train = of_folder(fit)
            found = with_fitted_head(found, train, known, device_, bars)
        indices = score_indices(found, classes)
        data = test.prepared(found.preprocessing, indices)
        if whole is not None:
            measures = measure(whole, group, data, batch_size, counting(bars, "test images"))
            rows = [Row(Path(model).name, "tuned", None, 0, measures)]
        else:
            rows = _rows(configs, found, group, data, batch_size, bars)
    title = f"{found.name} on {count(len(test.classes), 'image')} of {images}, {group.name}"
    if json_file is not None:
        write_text(json_file, report.as_json(title, group.name, rows))
    if csv_file is not None:
        write_text(csv_file, report.as_csv(rows))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        report.write(title, group.name, rows, out)
        console(stderr=True).print(f"results: {', '.join(sorted(str(p) for p in out.glob('results.*')))}")
    if STDOUT not in (json_file, csv_file):
        show(report.terminal(title, rows))


def _rows(
    configs: dict[str, WrapperConfig],
    found: Classifier,
    group: FiniteGroup,
    data: Data,
    batch_size: int,
    progress: Progress,
) -> list[Row]:
    rows, views = [], None
    for label, config in configs.items():
        with seeded(0, "wrapper"):
            model = wrapped(config, found.features, found.head, group)
        model = model.to(next((p.device for p in found.features.parameters()), "cpu")).eval()
        if remembers(config, group):
            views = views or remembered(
                found.features, group, data, batch_size, counting(progress, "features of every view")
            )
        chosen = views if remembers(config, group) and views is not None else data
        measures = measure(model, group, chosen, batch_size, counting(progress, f"{label}: test images"))
        rows.append(Row(label, config.wrapper, None, 0, measures))
    return rows
