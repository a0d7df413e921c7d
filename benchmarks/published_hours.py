"""How long `configs/published.toml` takes on one GPU, on paper: images by the rates that were measured on it.

    python benchmarks/published_hours.py benchmarks/results/gpu/NVIDIA_H200.json

Images are those of the catalogue, each method's epochs and streams those of the config. A training step is two forward
passes on paper, at the share of the forward rate that a step of MOS reached; JPEG files cannot come faster than they
were decoded. Statistics, alignment and regressions, which do not depend on the network, are left out, and so is what
the feature store saves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from measuring import table

from continual.datasets.catalogue import published
from continual.experiments.config import RunConfig, load_runs

CONFIG = Path(__file__).parent.parent / "configs" / "published.toml"
FIRST_ONLY = ("aper", "ranpac", "layup", "strata")  #: train on the first experience, if at all
#: passes of an answer after T experiences; the others take one
PASSES: dict[str, Callable[[int], float]] = {
    "strata": lambda t: 2, "aper": lambda t: 2, "mos": lambda t: 2.9, "ease": lambda t: t, "tuna": lambda t: t + 1
}  # fmt: skip


def rates(record: dict[str, Any], precision: str) -> tuple[float, float, float]:
    """Return images a second that go forward, are trained on, and are decoded."""
    extraction = record["parts"]["extraction"]["results"]["extraction"]
    row = next(r for r in extraction["rows"] if r["precision"] == precision)
    forward = extraction["images"] / row["seconds"]["forward"]
    fastest = next(r for r in extraction["rows"] if r["precision"] == "bfloat16")
    step = record["parts"]["mos_training"]["results"]["mos_training"]["step"]
    trained = step["batch"] / step["seconds"]["bfloat16"]
    share = trained / (extraction["images"] / fastest["seconds"]["forward"])
    return forward, share * forward, extraction["images"] / fastest["seconds"]["files"]


def seconds(run: RunConfig, label: str, forward: float, trained: float, decoded: float) -> float:
    """Return how long a row of a run takes."""
    known, row = published(str(run.data.source)), run.methods[label]
    inc = run.stream.classes
    assert isinstance(inc, int)
    count, images = known.classes // inc, known.layouts[0]
    epochs = getattr(row.make_settings(), "epochs", 0)
    steps = epochs * images.train / (count if label in FIRST_ONLY else 1)
    trained /= 1.5 if label == "slca" else 1  # which has gradients of all weights
    passes = PASSES.get(label, lambda t: 1)
    answers = [images.test * t / count for t in range(1, count + 1)]
    forwards = images.train * (2 if label == "strata" else 1) + sum(n * passes(t) for t, n in enumerate(answers, 1))
    return max(steps / trained, steps / decoded) + max(forwards / forward, (images.train + images.test) / decoded)


def main(record: Annotated[Path, typer.Argument(help="What gpu.sh wrote.")]) -> None:
    """Print hours by method and data set."""
    found = json.loads(record.read_text(encoding="utf-8"))
    runs = load_runs(CONFIG)
    for precision in ("float32", "bfloat16"):
        speed = rates(found, precision)
        print(f"\n{precision}: {', '.join(f'{rate:.0f}' for rate in speed)} images/s forward, trained, decoded\n")
        methods = list(dict.fromkeys(label for run in runs.values() for label in run.methods))
        hours = {m: [seconds(run, m, *speed) / 3600 for run in runs.values()] for m in methods}
        hours["all"] = [sum(column) for column in zip(*hours.values(), strict=True)]
        lines = [[m, *(f"{h:.1f}" for h in row), f"{sum(row):.1f}"] for m, row in hours.items()]
        print(table(["hours", *runs, "all"], lines))


if __name__ == "__main__":
    typer.run(main)
