"""What one answer of MOS costs after T experiences: ours and the published procedure, on the same learners and images.

    python benchmarks/mos_inference.py --images DIR --weights FILE --out DIR [--experiences 5 --experiences 20 ...]

DIR holds train/ and test/ with one folder a class. For every T a learner is trained, briefly, on 200 classes in T
experiences: the folder's classes upright, and turned by 90° as classes of their own. Then both procedures answer for
the same test images, upright and turned. A *pass* is one run of an image through the whole ViT; *cost* is the time
of an answer in plain forwards (the same ViT without adapters, fused attention), the median over repetitions in which
plain, ours and the reference alternate. Learners and figures are kept in --out and not made again.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
from reference_mos import ReferenceMOS
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from continual.backbones import Backbone, load_backbone
from continual.data import list_folder, open_image
from continual.methods.mos import MOSLearner

CLASSES = 200
SETTINGS = {"epochs": 1, "batch_size": 16, "lr": 0.03, "statistics": "diagonal", "alignment_epochs": 5}


def pseudo_classes(folder: Path, backbone: Backbone, each: int, seed: int) -> tuple[Tensor, list[int]]:
    """Return `each` images of every class, upright as class 2c and turned as 2c + 1: (N, 3, H, W) and labels."""
    view, draw = backbone.preprocessing.evaluation(), np.random.RandomState(seed)
    images, names = list_folder(folder)
    order = {name: number for number, name in enumerate(sorted(set(names)))}
    kept: list[Tensor] = []
    labels: list[int] = []
    for name, number in order.items():
        own = [image for image, label in zip(images, names, strict=True) if label == name]
        for image in draw.permutation(len(own))[:each]:
            upright = view(open_image(own[image]))
            kept += [upright, upright.rot90(1, (1, 2))]
            labels += [2 * number, 2 * number + 1]
    return torch.stack(kept), labels


def learner_of(path: Path, backbone: Backbone, images: Tensor, labels: list[int], experiences: int) -> MOSLearner:
    """Return the learner kept at `path`, or train it: CLASSES / experiences classes at a time, in one fixed order."""
    if path.exists():
        return MOSLearner.load(path, backbone=backbone)
    learner = MOSLearner(backbone, **SETTINGS)
    order = np.random.RandomState(1993).permutation(CLASSES)
    wanted = torch.tensor(labels)
    for classes in track(np.split(order, experiences), f"training on {experiences} experiences"):
        rows = torch.isin(wanted, torch.from_numpy(classes))
        learner.learn(images[rows], wanted[rows].tolist())
    learner.save(path)
    return learner


def reference_of(learner: MOSLearner) -> ReferenceMOS:
    """Return the published procedure with the learner's stacks, on a copy of its ViT."""
    import copy

    mos = ReferenceMOS(copy.deepcopy(learner.backbone.trunk.vit), learner.settings.bottleneck).eval()
    for weights in learner.state.bank:
        stack = mos.new_stack()
        for block, adapter in enumerate(stack):
            adapter.load_state_dict({name.replace("_", ".", 1): value[block] for name, value in weights.items()})
        mos.keep(stack.eval())
    return mos


def seconds(call: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    with torch.no_grad():
        call()
    return time.perf_counter() - started


def measure(learner: MOSLearner, images: Tensor, repeats: int) -> dict[str, float]:
    """Return costs in plain forwards, passes an image, and how the answers agree."""
    state, reference = learner.state, reference_of(learner)
    trunk = learner.backbone.trunk
    sides: dict[str, Callable[[], Any]] = {
        "plain": lambda: trunk.features(images),
        "ours": lambda: learner.score_batch(images),
        "reference": lambda: reference.predict(images, state.head, state.prototypes, state.experience_of_class),
    }
    seconds(sides["plain"])
    taken = [{name: seconds(call) for name, call in sides.items()} for _ in range(repeats)]
    ours = learner.score_batch(images)
    with torch.no_grad():
        theirs = sides["reference"]() / 2
    return {
        "experiences": state.experiences,
        "plain [ms an image]": 1e3 * statistics.median(t["plain"] for t in taken) / len(images),
        "ours": statistics.median(t["ours"] / t["plain"] for t in taken),
        "reference": statistics.median(t["reference"] / t["plain"] for t in taken),
        "passes, ours": 1 + float((ours.refinements + (ours.first_stack > 0)).float().mean()),
        "passes, reference": state.experiences + 1,
        "same answers": float((ours.values.argmax(1) == theirs.argmax(1)).float().mean()),
        "largest difference of a score": float((ours.values - theirs).abs().max()),
    }


def main(
    images: Annotated[Path, typer.Option(help="A folder with train/ and test/, 100 classes or more.")],
    weights: Annotated[Path, typer.Option(help="The ViT's weights.")],
    out: Annotated[Path, typer.Option(help="Where learners and results go.")],
    experiences: Annotated[list[int] | None, typer.Option(help="5, 20, 50 and 200 by default.")] = None,
    size: Annotated[int, typer.Option(help="Side of the input in pixels.")] = 98,
    per_class: Annotated[int, typer.Option(help="Training images a class.")] = 5,
    batch: Annotated[int, typer.Option(help="Images answered at once.")] = 32,
    repeats: int = 5,
    threads: int = 1,
) -> None:
    """Measure, and write mos_inference.json, mos_inference.md and mos_inference.png."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(weights=weights, img_size=size)
    train, labels = pseudo_classes(images / "train", backbone, per_class, 0)
    test, _ = pseudo_classes(images / "test", backbone, 1, 0)
    asked = test[np.random.RandomState(0).permutation(len(test))[:batch]]
    rows = []
    for count in experiences or [5, 20, 50, 200]:
        learner = learner_of(out / f"T{count}.safetensors", backbone, train, labels, count)
        rows.append(measure(learner, asked, repeats))
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": threads,
        "batch": batch,
        "size": size,
    }
    versions = {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()}
    record = {"machine": machine, "versions": versions, "rows": rows}
    (out / "mos_inference.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "mos_inference.md").write_text(markdown(rows))
    picture(rows, out / "mos_inference.png")
    table = Table(*HEADINGS)
    for line in lines(rows):
        table.add_row(*line)
    Console().print(table)


HEADINGS = ["T", "plain [ms an image]", "ours", "reference", "passes, ours", "passes, reference", "same answers"]


def lines(rows: list[dict[str, float]]) -> list[list[str]]:
    keys = ["plain [ms an image]", "ours", "reference", "passes, ours"]
    return [
        [str(row["experiences"]), *(f"{row[key]:.2f}" for key in keys), str(row["passes, reference"]),
         f"{row['same answers']:.1%}"]
        for row in rows
    ]  # fmt: skip


def markdown(rows: list[dict[str, float]]) -> str:
    rule = ["---:"] * len(HEADINGS)
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEADINGS, rule, *lines(rows))) + "\n"


def picture(rows: list[dict[str, float]], path: Path) -> None:
    """Draw the cost of both sides against the number of experiences."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for side, colour in (("reference", "#cc6677"), ("ours", "#4477aa")):
        axes.plot([r["experiences"] for r in rows], [r[side] for r in rows], "o-", color=colour, label=side)
    axes.set(xscale="log", yscale="log", xlabel="experiences learned", ylabel="cost of an answer [plain forwards]")
    axes.set_xticks([r["experiences"] for r in rows], [str(r["experiences"]) for r in rows], minor=False)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    typer.run(main)
