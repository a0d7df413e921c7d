"""What symmetry gains on images that have no up, and what it costs on images that have one.

    python benchmarks/no_up.py configs/no_up/aid.toml --source DIR --weights FILE --cache DIR --out no_up_aid.json

Every row and split of a config of closed forms, by the run's own code, on a backbone that remembers what it said of an
image: all rows and splits together cost one pass for each view of each image. no_up_report.py makes tables of these
figures, and of the run folders of configs whose methods train (configs/no_up/mos_*.toml).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arguments import Figures, Weights
from measuring import records_in, surroundings
from remembered import remembering

from continual.avalanche.external import find_method
from continual.backbones.loading import Backbone, load_backbone
from continual.experiments.config import RunConfig, load_runs
from continual.experiments.run import PreparedOnce, run_cell, streams
from continual.metrics.cell import Cell
from continual.metrics.transformed import transformed_measures
from continual.symmetry.views import group_named


def measured(cell: Cell, group: str) -> dict[str, float]:
    """Return a cell's accuracies upright and transformed by elements of a group, consistency, and passes an image."""
    last: Any = cell.evaluations[-1]
    found = transformed_measures(last.answers, last.transformed[group], cell.truth, group_named(group).order)
    figures = {"upright": float(np.equal(last.answers, cell.truth).mean()), "transformed": found["turned"]}
    return {**figures, "consistency": found["consistency"], "passes": last.passes}


def learning_times(run: RunConfig, backbone: Backbone) -> list[dict[str, Any]]:
    """Return how long each row takes to learn the images of a run, in seconds of processor time."""
    (stream,), found = streams(run).values(), []
    for label, row in run.methods.items():
        learner = find_method(row.method)(backbone, **row.make_settings(seed=run.seeds[0]).model_dump())
        started = time.process_time()
        for experience in stream.experiences:
            learner.learn(experience.train_images, experience.train_labels)
        found.append({"row": label, "seconds": time.process_time() - started, "ran on": surroundings()})
        print(json.dumps(found[-1]), flush=True)
    return found


def main(
    config: Annotated[Path, typer.Argument(help="A config of closed forms, as in configs/no_up.")],
    source: Annotated[Path, typer.Option(help="A folder with one folder per class.")],
    weights: Weights,
    cache: Annotated[Path, typer.Option(help="A folder that keeps features.")],
    out: Figures,
    times: Annotated[
        bool, typer.Option("--times", help="Measure how long the rows of the first split learn, without the cache.")
    ] = False,
    changes: Annotated[list[str] | None, typer.Argument(help="Changes of the config: train_transformed=D4.")] = None,
) -> None:
    """Evaluate every row on every split, and write the figures."""
    runs = load_runs(config, [f"data.source={source}", f"backbone.weights={weights}", *(changes or ())])
    first = next(iter(runs.values()))
    made = load_backbone(weights=weights, **first.backbone.args)
    if times:
        if out.exists():
            raise typer.BadParameter(f"{out} is there already: name another file for the times")
        out.write_text(json.dumps(learning_times(first, made), indent=1) + "\n", encoding="utf-8")
        return
    backbone = remembering(made, cache / f"{config.stem}.safetensors")
    records: list[dict[str, Any]] = records_in(out)
    known = {(record["run"], record["row"]) for record in records}
    for name, run in runs.items():
        prepared = PreparedOnce()
        for label, row in run.methods.items():
            if (name, label) in known:
                continue
            learner, (cell,) = run_cell(
                label, row, backbone, streams(run)[run.seeds[0]], run.seeds[0],
                transformed=run.transformed, train_transformed=run.train_transformed, prepared=prepared,
            )  # fmt: skip
            record = {"run": name, "row": label, "per_class": run.stream.per_class, **measured(cell, *run.transformed)}
            choice: Any = getattr(learner.state, "choice", None)
            records.append(record | ({} if choice is None else {"choice": asdict(choice)}) | {"ran on": surroundings()})
            print(json.dumps(record), flush=True)
            out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        frozen: Any = backbone.frozen
        frozen.keep()


if __name__ == "__main__":
    typer.run(main)
