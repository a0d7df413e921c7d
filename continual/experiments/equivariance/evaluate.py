"""`equimos equivariance evaluate`: how accurate is a classifier on upright and on turned images?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from continual import options
from continual.cli.progress import ProgressBars
from continual.console import STDOUT, check_outputs, console, count, show, write_text
from continual.errors import InputError
from continual.experiments.equivariance import report
from continual.experiments.equivariance.check import open_model, parse_wrapper
from continual.experiments.equivariance.config import WrapperConfig
from continual.experiments.equivariance.data import of_folder, score_indices
from continual.experiments.equivariance.models import Classifier
from continual.experiments.equivariance.report import Row
from continual.experiments.equivariance.study import counting, with_fitted_head
from continual.experiments.equivariance.symmetry import Data, measure, refusals, remembered, remembers, wrapped
from continual.learning.progress import Progress
from continual.seeding import seeded
from equivariant.groups import FiniteGroup, as_group


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
    check_outputs(json_file, csv_file)
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
