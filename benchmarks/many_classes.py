r"""What one more experience, an answer and a file take once 1,000, 10,000 or 21,000 classes are known.

    OMP_NUM_THREADS=1 python benchmarks/many_classes.py --out benchmarks/results \
        --picture docs/images/many_classes.png

Features are given (`given.py`), of width 768, five images of every class. The learners' own code learns 100 classes
more, and answers for 256 images. Of MOS it is what grows with the classes: an alignment step, drawing for it,
calibration, and telling unknown images, on statistics of rank 32. Processor seconds of one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import given
import torch
import typer
from arguments import Out
from measuring import surroundings, table, write

from continual.learning.learner import IncrementalLearner
from continual.methods import method
from continual.methods.bases.alignment import AlignmentSettings, align
from continual.methods.bases.regression_update import RegressionState
from continual.methods.simple_cil import PrototypeState
from continual.statistics.class_statistics import LowRank
from continual.statistics.head import Head, PrototypeSums
from continual.statistics.ridge import GramStatistics
from continual.uncertainty.gaussians import calibrate, detector_of

COUNTS = [1_000, 10_000, 21_000]
SIDE, WIDTH, NEW, EACH, ASKED = 16, 768, 100, 5, 256
#: features that are drawn in an epoch of alignment: 10 steps
DRAWS = 2400


def seconds(call: Callable[[], Any]) -> float:
    """Return the processor seconds of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def knowing(kind: str, classes: int) -> IncrementalLearner[Any]:
    """Return a learner that knows so many classes, from five images of each."""
    learner: IncrementalLearner[Any] = method(kind)(given.backbone(SIDE), eval_batch_size=256)
    counts = {"classes": tuple(range(classes)), "class_experience": (0,) * classes, "experiences": 1, "updates": 1}
    if kind == "strata":
        learner.settings = learner.settings.model_copy(update={"mirror": False})
    draw, labels = torch.Generator().manual_seed(0), torch.arange(classes).repeat_interleave(EACH)
    sums, prototypes = None, PrototypeSums(None, classes)
    for part in labels.split(2**15):
        rows = torch.randn(len(part), WIDTH, generator=draw)
        if kind == "simple_cil":
            prototypes.add(rows, part)
        else:
            sums = GramStatistics.of(rows, part, classes).plus(sums)
    if kind == "simple_cil":
        learner.state = PrototypeState(**counts, prototypes=prototypes.prototypes())
    else:
        learner.state = RegressionState(**counts, sums=sums)
    return learner


def of_learner(kind: str, classes: int) -> dict[str, Any]:
    """Measure a learner's next experience, its answers and its file."""
    learner = knowing(kind, classes)
    data = given.Stored(NEW * EACH, NEW, SIDE, first=classes).experience()
    images = torch.stack([data.evaluation[index][0] for index in range(ASKED)])
    learning = seconds(lambda: learner.learn(data))
    learner.predict(images[:1])  # what is made once
    answering = seconds(lambda: learner.predict(images)) / ASKED
    with tempfile.TemporaryDirectory() as folder:
        learner.save(Path(folder) / "model.safetensors")
        size = (Path(folder) / "model.safetensors").stat().st_size
    return {"what": kind, "classes": classes, "learn": learning, "answer": answering, "file": size}


def of_mos(classes: int) -> dict[str, Any]:
    """Measure the parts of MOS that grow with the classes."""
    draw = torch.Generator().manual_seed(0)
    factor, rest = torch.randn(WIDTH, 32, generator=draw) / 10, torch.rand(WIDTH, generator=draw) / 100
    statistics = [LowRank(EACH, torch.randn(WIDTH, generator=draw), factor, rest) for _ in range(classes)]
    head = Head(torch.randn(classes, WIDTH, generator=draw) / 30, torch.zeros(classes))
    settings = AlignmentSettings(alignment_epochs=1, alignment_draws=DRAWS)
    steps = DRAWS // (5 * settings.batch_size)
    alignment = seconds(lambda: align(head, statistics, settings, generator=draw)) / steps
    found: list[Any] = []
    calibration = seconds(lambda: found.append(calibrate(statistics, draw)))
    detector = detector_of(statistics, found[0])
    assert detector is not None
    asked = torch.randn(ASKED, WIDTH, generator=draw)
    answering = seconds(lambda: (head(asked), detector.p_value(asked))) / ASKED
    size = classes * 4 * (WIDTH * 34 + 2 * WIDTH + 1)
    return {
        "what": "mos", "classes": classes, "step": alignment, "learn": calibration, "answer": answering, "file": size,
    }  # fmt: skip


def main(
    out: Out,
    picture: Annotated[Path | None, typer.Option(help="Where the curves go.")] = None,
    counts: Annotated[list[int], typer.Option(help="Classes that are known.")] = COUNTS,
) -> None:
    """Measure, and write many_classes.json and many_classes.md."""
    rows = []
    for classes in counts:
        for kind in ("ridge", "strata", "simple_cil", "mos"):
            rows.append(of_mos(classes) if kind == "mos" else of_learner(kind, classes))
            print(rows[-1], flush=True)
    lines = [
        [
            row["what"],
            f"{row['classes']:,}",
            f"{row['learn']:.2f}",
            f"{1e3 * row['step']:.0f}" if "step" in row else "–",
            f"{1e3 * row['answer']:.2f}",
            f"{row['file'] / 2**20:,.0f}",
        ]
        for row in rows
    ]
    text = table(["method", "classes", "experience [s]", "alignment step [ms]", "an answer [ms]", "file [MiB]"], lines)
    write(out, "many_classes", {"ran on": surroundings(), "width": WIDTH, "rows": rows}, text)
    if picture is not None:
        draw_curves(rows, picture)


def draw_curves(rows: list[dict[str, Any]], picture: Path) -> None:
    """Draw each cost against the classes, with a line of what grows as they do."""
    from matplotlib import pyplot as plt

    from equivariant.style import FAINT, looks

    parts = {
        "learn": (1, "one more experience [s]"),
        "answer": (1e3, "one answer [ms]"),
        "file": (2**-20, "file [MiB]"),
    }
    styles = looks(dict.fromkeys(row["what"] for row in rows))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axis, (key, (unit, label)) in zip(axes, parts.items(), strict=True):
        for name, look in styles.items():
            own = [row for row in rows if row["what"] == name]
            axis.plot([r["classes"] for r in own], [r[key] * unit for r in own], label=name, **look.line)
        least = min(row[key] * unit for row in rows)
        ends = [min(row["classes"] for row in rows), max(row["classes"] for row in rows)]
        axis.plot(ends, [least, least * ends[1] / ends[0]], color=FAINT, linestyle=":", label="in proportion to C")
        axis.set(xscale="log", yscale="log", xlabel="classes C", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    typer.run(main)
