"""`equimos equivariance tune`: run a study from its config, or try it on random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from continual import options
from continual.cli.progress import ProgressBars
from continual.console import add_row, console, new_table, show
from continual.datasets.catalogue import catalogue
from continual.experiments.equivariance import report
from continual.experiments.equivariance.config import StudyConfig, load_study
from continual.experiments.equivariance.data import noise, score_indices, split_of
from continual.experiments.equivariance.models import Classifier, load_classifier
from continual.experiments.equivariance.study import make_recipe, run_study
from continual.experiments.equivariance.symmetry import tuned_parts, wrapped
from continual.symmetry.views import refusals
from equivariant.groups import as_group
from equivariant.tuning.tune import trained_by


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
