"""What learning one experience takes, in time and memory, against its images: features read in blocks, or all held.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py --out benchmarks/results --picture docs/images/streaming.png

The learners' own code runs on features that are given (`given.py`), of the width of a ViT-B: 768, and 6,075 for
`strata`, which reads eight tokens of it and two views. Every figure is of a process of its own: the peak of its memory
above what it takes before it learns, and processor seconds. "held" sets the size of a block to more than all images,
which is how everything was learned before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import given
import torch
import typer
from arguments import Out
from measuring import surroundings, table, write

from continual.learning import streaming
from continual.methods import method


class Run(NamedTuple):
    """One experience; its features have 3 side^2 numbers."""

    method: str
    images: int
    held: bool = False
    classes: int = 1000
    side: int = 16


RUNS = [
    *(Run("ridge", images) for images in (1_300_000, 10_000, 80_000)),
    *(Run("ridge", images, held=True) for images in (10_000, 20_000)),
    *(Run("simple_cil", images) for images in (1_300_000, 10_000)),
    *(Run("simple_cil", images, held=True) for images in (10_000, 20_000)),
    *(Run("strata", 3050, classes=classes, side=45) for classes in (100, 1000)),
]


def resident(name: str) -> int:
    """Return a line of what the system says of this process's memory, in bytes: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def one(run: Run) -> dict[str, Any]:
    """Learn one experience in this process."""
    if run.held:
        streaming.FEATURES = streaming.VALUES = 2**60
    data = given.Stored(run.images, run.classes, run.side).experience()
    small = min(run.side, 16)
    warmed = method(run.method)(given.backbone(small), eval_batch_size=256)
    warmed.learn(given.Stored(512, 2, small).experience())  # what is made once: buffers, threads
    learner = method(run.method)(given.backbone(run.side), eval_batch_size=256)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before, started = resident("VmRSS"), time.process_time()
    learner.learn(data)
    seconds = time.process_time() - started
    peak = resident("VmHWM") - before
    answers = learner.predict(torch.stack([data.evaluation[i][0] for i in range(500)])).labels
    right = sum(answer == data.labels[i] for i, answer in enumerate(answers)) / 500
    return {**run._asdict(), "seconds": seconds, "peak": peak, "right": right}


def main(
    out: Out,
    picture: Annotated[Path | None, typer.Option(help="Where the curves go.")] = None,
    only: Annotated[str | None, typer.Option(help="A run, as JSON: it alone is measured, and printed as JSON.")] = None,
) -> None:
    """Measure, and write streaming.json and streaming.md."""
    if only is not None:
        print(json.dumps(one(Run(*json.loads(only)))))
        return
    rows = []
    for run in RUNS:
        words = [sys.executable, __file__, "--out", str(out), "--only", json.dumps(run)]
        rows.append(json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
        print(rows[-1], file=sys.stderr, flush=True)
    report(rows, out, picture)


def report(rows: list[dict[str, Any]], out: Path, picture: Path | None) -> None:
    """Write what was measured, as figures, table and picture."""
    lines = [
        [
            row["method"],
            f"{row['classes']:,}",
            f"{3 * row['side'] ** 2:,}",
            "held" if row["held"] else "in blocks",
            f"{row['images']:,}",
            f"{row['peak'] / 2**20:,.0f}",
            f"{row['seconds']:.1f}",
            f"{1e6 * row['seconds'] / row['images']:.0f}",
        ]
        for row in rows
    ]
    text = table(
        ["method", "classes", "width", "features", "images", "peak [MiB]", "time [s]", "per image [µs]"], lines
    )
    write(out, "streaming", {"ran on": surroundings(), "rows": rows}, text)
    if picture is not None:
        draw(rows, picture)


def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    """Draw peak and time against images, for both ways."""
    from matplotlib import pyplot as plt

    from equivariant.style import COLOURS

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, key, unit, label in (
        (axes[0], "peak", 2**20, "peak above the start [MiB]"),
        (axes[1], "seconds", 1, "processor seconds"),
    ):
        for number, kind in enumerate(("ridge", "simple_cil")):
            for held, style in ((False, "o-"), (True, "s--")):
                own = sorted(
                    (row for row in rows if row["method"] == kind and row["held"] == held), key=lambda r: r["images"]
                )
                name = f"{kind}, {'all features held' if held else 'in blocks'}"
                axis.plot(
                    [row["images"] for row in own], [row[key] / unit for row in own], style,
                    color=COLOURS[number], label=name, markersize=4,
                )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="images of one experience", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(100, 2000)
    axes[0].axhline(1024, color="grey", linewidth=0.8)
    axes[0].annotate("1 GiB", (10_000, 1024), color="grey", fontsize=8, va="bottom")
    axes[1].legend(fontsize=8)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    typer.run(main)
