"""What one answer of MOS costs after T experiences: ours and the published procedure, on the same learners and images.

    OMP_NUM_THREADS=1 python benchmarks/mos_inference.py --images DIR --weights FILE --learners DIR --out DIR

`--learners` holds what `real_streams.py` trained on these images (or some of them).

A *pass* is one run of an image through the blocks; *cost* is the time of an answer in plain forwards: timm's own
forward of the same ViT, without adapters, with fused attention, in the same precision, for the same images. It is the
median over rounds in which the sides alternate. On a CPU costs are of processor time, latency and throughput by the
clock. The reference runs in float32, as published, and answers for fewer images: its 201 passes would take minutes.
"""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from arguments import Device, Images, Learners, Out, Weights
from measuring import (
    ceilings,
    forward_flops,
    interleaved,
    pass_flops,
    profile,
    profiles,
    ratio,
    surroundings,
    table,
    write,
)
from real_streams import aligned, backbone_of
from reference_mos import ReferenceMOS
from torch import Tensor

from continual.adapters.bank import shared
from continual.backbones.loading import Backbone
from continual.data.images import list_folder, open_image
from continual.learning.feature_cache import FeatureCache
from continual.methods.mos.learner import MOSLearner
from equivariant.style import COLOURS, looks

Sides = dict[str, Callable[[Tensor], Any]]

TESTED = 256  #: test images
COUNTED = 200  #: of them, those whose passes are counted
ASKED = {1: 40, 4: 20, 16: 12, 64: 5, 256: 2}  #: size of a batch -> how often one is answered


def photographs(folder: Path, learner: MOSLearner) -> Tensor:
    """Return prepared test images (n, 3, H, W) of the classes that the learner knows, in an order by chance."""
    view = learner.backbone.preprocessing.evaluation()
    images, labels = list_folder(folder / "test")
    wanted = set(learner.classes)
    known = [image for image, own in zip(images, labels, strict=True) if own in wanted]
    chosen = np.random.RandomState(0).permutation(len(known))[:TESTED]
    return torch.stack([view(open_image(known[i])) for i in chosen])


def last_two(backbone: Backbone, folder: Path, experiences: int, seed: int) -> tuple[MOSLearner, MOSLearner]:
    """Return the learner before its last experience and after it."""
    before, after = deque(aligned(backbone, folder, experiences, seed), maxlen=2)
    return before, after


def reference_of(learner: MOSLearner) -> Callable[[Tensor], Tensor]:
    """Return the published procedure with the learner's adapters, on a copy of its ViT."""
    state = learner.state
    mos = (
        ReferenceMOS(copy.deepcopy(learner.backbone.frozen.network), learner.settings.bottleneck)
        .eval()
        .to(learner.device)
    )
    for weights in state.bank:
        stack = mos.new_stack()
        for block, adapter in enumerate(stack):
            adapter.load_state_dict({name.replace("_", ".", 1): value[block] for name, value in weights.items()})
        mos.keep(stack.eval().to(learner.device))
    assert state.head is not None
    assert state.prototypes is not None
    head, prototypes = (state.head.weight, state.head.bias), state.prototypes.mean
    own = state.experience_of_class
    return lambda images: mos.predict(images, head, prototypes, own)


def sides_of(learner: MOSLearner) -> Sides:
    """Return the sides that are compared, as functions of images."""
    frozen, stack = learner.backbone.frozen, shared(learner.settings.adapter_kind, learner.state.bank[0])

    def plain(images: Tensor) -> Tensor:
        with learner.extractor._autocast():
            found: Tensor = frozen.network(images)
        return found

    return {
        "plain": plain,
        "one pass": lambda images: learner.extractor.features(images, stack),
        "ours": learner.score_batch,
        "reference": reference_of(learner),
    }


def visited(learner: MOSLearner, images: Tensor) -> dict[str, Any]:
    """Return the mean number of passes per image, and shares of images by the adapters tried after stage one."""
    rows: list[int] = []
    hook = learner.backbone.frozen.network.norm.register_forward_hook(lambda *call: rows.append(len(call[2])))
    tried = 1 + torch.cat([learner.score_batch(part).refinements for part in images.split(32)])
    hook.remove()
    shares = {n: float((tried == n).float().mean()) for n in tried.unique().tolist()}
    return {"mean": sum(rows) / len(images), "stacks tried": shares}


def cost(learner: MOSLearner, images: Tensor, few: int, rounds: int) -> dict[str, Any]:
    """Return what answers cost in plain forwards, the reference's for the first `few` images, and how they agree."""
    sides, found = sides_of(learner), {}

    def call(side: str, asked: Tensor) -> None:
        found[side] = sides[side](asked)

    def timed(names: list[str], asked: Tensor) -> dict[str, list[float]]:
        return interleaved({name: functools.partial(call, name, asked) for name in names}, rounds)

    taken, slow = timed(["plain", "one pass", "ours"], images), timed(["plain", "reference"], images[:few])
    ours, theirs = found["ours"].values[:few], found["reference"].cpu() / 2
    first, later = pass_flops(learner.backbone.frozen.network, learner.settings.bottleneck)
    passes = visited(learner, images)["mean"]
    return {
        "batch": len(images),
        "batch of the reference": few,
        "rounds": rounds,
        "passes in the batch": passes,
        "on paper": (first + (passes - 1) * later) / forward_flops(learner.backbone.frozen.network),
        "plain [ms an image]": 1e3 * statistics.median(taken["plain"]) / len(images),
        **{name: ratio(taken, name, "plain") for name in ("one pass", "ours")},
        "reference": ratio(slow, "reference", "plain"),
        "same answers as the reference": float((ours.argmax(1) == theirs.argmax(1)).float().mean()),
        "largest difference of a score": float((ours - theirs).abs().max()),
    }


def second_evaluation(before: MOSLearner, after: MOSLearner, images: Tensor, rounds: int) -> float:
    """Return the cost, in plain forwards, of images that the learner was asked about before its last experience."""
    costs = []
    for _ in range(rounds):
        cache = FeatureCache()
        before.score_batch(images, cache)
        calls = {"plain": lambda: after.backbone.frozen.network(images)}
        calls["again"] = lambda cache=cache: after.score_batch(images, cache)
        started = [time.process_time()]
        for call in calls.values():
            call()
            started.append(time.process_time())
        costs.append((started[2] - started[1]) / (started[1] - started[0]))
    return statistics.median(costs)


def latencies(learner: MOSLearner, images: Tensor) -> list[dict[str, Any]]:
    """Return, for every size of batch and side, by the clock: images per second, and the time of an answer."""
    sides = sides_of(learner)
    sides |= {"ours, bfloat16": learner.variant(precision="bfloat16").score_batch}
    del sides["one pass"]
    rows = []
    for batch, asked in ASKED.items():
        taken: dict[str, list[float]] = {name: [] for name in sides if name != "reference" or batch == 1}
        for number in range(asked + 1):
            part = images.roll(-number * batch, 0)[:batch]
            for name, times in taken.items():
                started = time.perf_counter()
                sides[name](part)
                if part.is_cuda:
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
        for name, times in taken.items():
            p50, p95 = np.quantile(times[1:], [0.5, 0.95]).tolist()
            rows.append({"batch": batch, "side": name, "answers": asked, "p50 [s]": p50, "p95 [s]": p95})
    return rows


def main(
    images: Images,
    weights: Weights,
    learners: Learners,
    out: Out,
    experiences: Annotated[list[int] | None, typer.Option(help="5, 20, 50 and 200 by default.")] = None,
    seed: int = 1993,
    batch: Annotated[int, typer.Option(help="Images answered at once.")] = 32,
    rounds: int = 5,
    device: Device = "cpu",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, of plain and ours.")] = "float32",
    latency: Annotated[bool, typer.Option(help="Also batches of 1 to 256.")] = True,
    threads: int = 1,
) -> None:
    """Measure, and write mos_inference.json, .md and .png."""
    torch.set_num_threads(threads)
    backbone = backbone_of(weights)
    record: dict[str, Any] = {
        "ran on": surroundings(), "ceilings": ceilings(device), "precision": precision, "seed": seed, "costs": [],
    }  # fmt: skip
    operations = forward_flops(backbone.frozen.network)
    record["plain forward [GFLOP]"] = operations / 1e9
    with torch.no_grad():
        for count in experiences or [5, 20, 50, 200]:
            before, here = (_on(one, device, precision) for one in last_two(backbone, learners, count, seed))
            photos = photographs(images, here).to(device)
            row = {"experiences": count, "passes": visited(here, photos[:COUNTED])}
            row |= cost(here, photos[:batch], 16 if count <= 20 else 8 if count <= 50 else 4, rounds)
            row["second evaluation"] = second_evaluation(before, here, photos[:batch], rounds)
            record["costs"].append(row)
            print(row, flush=True)
        sides, asked = sides_of(here), photos[:batch]
        record["top entries"] = {name: profile(lambda n=name: sides[n](asked)) for name in ("plain", "ours")}
        if latency:
            record["latency"] = {"experiences": count, "rows": latencies(here, photos)}
    write(out, "mos_inference", record, markdown(record))
    picture(record["costs"], out / "mos_inference.png")


def _on(learner: MOSLearner, device: str, precision: str) -> MOSLearner:
    moved = MOSLearner(learner.backbone, device=device, **{**learner.settings.model_dump(), "precision": precision})
    moved.restore(*learner.export())
    return moved


def markdown(record: Mapping[str, Any]) -> str:
    limits = ", ".join(f"{name} {value:.0f}" for name, value in record["ceilings"].items())
    operations, precision = record["plain forward [GFLOP]"], record["precision"]
    floor = 1e3 * operations / record["ceilings"][f"{precision} [GFLOP/s]"]
    text = (
        f"Measured ceilings: {limits}. A plain forward is {operations:.2f} GFLOP, at least {floor:.3g} ms an image in "
        f"{precision}.\n\n"
    )
    rows = [
        [str(row["experiences"]), str(row["batch"]),
         *(f"{row[key]:.2f}" for key in ("plain [ms an image]", "one pass", "ours", "on paper", "reference")),
         f"{row['passes in the batch']:.2f}", f"{row['passes']['mean']:.2f}", str(row["experiences"] + 1),
         f"{row['same answers as the reference']:.1%}", f"{row['largest difference of a score']:.0e}",
         f"{row['second evaluation']:.2f}"]
        for row in record["costs"]
    ]  # fmt: skip
    text += table(
        ["T", "batch", "plain [ms per image]", "one pass", "ours", "ours on paper", "reference", "passes in the batch",
         "passes, ours", "passes, reference", "same answers", "largest difference", "asked again, cached"],
        rows,
    )  # fmt: skip
    if "latency" in record:
        found = record["latency"]
        rows = [
            [str(row["batch"]), row["side"], str(row["answers"]), f"{1e3 * row['p50 [s]']:.0f}",
             f"{1e3 * row['p95 [s]']:.0f}", f"{row['batch'] / row['p50 [s]']:.1f}"]
            for row in found["rows"]
        ]  # fmt: skip
        headings = [f"batch, T = {found['experiences']}", "side", "answers", "p50 [ms]", "p95 [ms]", "images/s"]
        text += f"\n{table(headings, rows)}"
    return text + profiles(record.get("top entries", {}))


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the cost of both sides against the number of experiences."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    counts = [row["experiences"] for row in rows]
    for side, label, colour in (
        ("reference", "published procedure", COLOURS[1]),
        ("ours", "equimos", looks(["mos"])["mos"].colour),
    ):
        axes.plot(counts, [row[side] for row in rows], "o-", color=colour, linewidth=1)
        axes.annotate(label, (counts[-1], rows[-1][side]), (0, 8), textcoords="offset points", ha="right", color=colour)
    axes.set(xscale="log", yscale="log", xlabel="experiences learned", ylabel="cost of an answer [plain forwards]")
    axes.set_xticks(counts, [str(count) for count in counts], minor=False)
    axes.set_yticks([1, 2, 10, 100], ["1", "2", "10", "100"], minor=False)
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    typer.run(main)
