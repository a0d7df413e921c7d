"""What one answer of MOS costs after T experiences: ours and the published procedure, on the same learners and images.

    OMP_NUM_THREADS=1 python benchmarks/mos_inference.py --images DIR --weights FILE --learners DIR --out DIR

`--learners` holds what `real_streams.py` trained: for those T answers are asked of a real learner. For others one is
made of the largest real learner: its stacks, slightly moved, and its classes dealt out anew to T experiences, twice
each where they are too few. That costs what a real one of T experiences does, but which stacks it asks for is made up.

A *pass* is one run of an image through all blocks; *cost* is the time of an answer in plain forwards (the same ViT
without adapters, fused attention), the median over rounds in which plain, ours and the reference alternate. On a
CPU costs are of processor time, latency and throughput by the clock.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from measuring import ceilings, forward_flops, interleaved, ratio, surroundings, table, write
from real_streams import aligned, backbone_of, path_of
from reference_mos import ReferenceMOS
from torch import Tensor

from continual.backbones import Backbone
from continual.feature_cache import FeatureCache
from continual.images import list_folder, open_image
from continual.methods.mos import MOSLearner

Sides = dict[str, Callable[[Tensor], Any]]


def test_images(folder: Path, learner: MOSLearner, count: int) -> Tensor:
    """Return prepared test images (count, 3, H, W), drawn from the classes that the learner knows."""
    view = learner.backbone.preprocessing.evaluation()
    images, labels = list_folder(folder / "test")
    known = [image for image, label in zip(images, labels, strict=True) if label in learner.classes]
    chosen = np.random.RandomState(0).permutation(len(known))[:count]
    return torch.stack([view(open_image(known[i])) for i in chosen])


def widened(learner: MOSLearner, experiences: int) -> MOSLearner:
    """Return a learner of more experiences: the same stacks a few percent off, the same classes dealt out anew."""
    state, draw = learner.state, torch.Generator().manual_seed(0)
    assert state.head is not None
    assert state.prototypes is not None
    copies = -(-experiences // len(state.classes))
    origin = torch.arange(len(state.classes)).repeat_interleave(copies)
    own = torch.arange(len(origin)) * experiences // len(origin)

    def moved(tensor: Tensor) -> Tensor:
        return tensor + 0.03 * tensor.std() * torch.randn(tensor.shape, generator=draw)

    first = [int((own == k).nonzero()[0]) for k in range(experiences)]
    stacks = [state.bank[state.class_experience[int(origin[c])]] for c in first]
    wide = learner.variant()
    wide.state = replace(
        state,
        classes=tuple(range(len(origin))),
        class_experience=tuple(own.tolist()),
        experiences=experiences,
        updates=experiences,
        bank=tuple({name: moved(tensor) for name, tensor in stack.items()} for stack in stacks),
        head=(moved(state.head[0][origin]), state.head[1][origin]),
        prototypes=moved(state.prototypes[origin]),
        prototype_counts=torch.ones(len(origin), dtype=torch.int64),
        statistics=tuple(state.statistics[c] for c in origin.tolist()),
    )
    return wide


def learner_of(backbone: Backbone, folder: Path, experiences: int, seed: int) -> tuple[MOSLearner, bool]:
    """Return a learner of that many experiences, in float32, and whether it is real."""
    known = [int(path.name.split("-")[1]) for path in folder.glob(f"stream-*-{seed}") if _whole(folder, path, seed)]
    real = experiences in known
    *_, last = aligned(backbone, folder, experiences if real else max(known), seed)
    last = last.variant(precision="float32")
    return (last, True) if real else (widened(last, experiences), False)


def _whole(folder: Path, stream: Path, seed: int) -> bool:
    experiences = int(stream.name.split("-")[1])
    return path_of(folder, experiences, seed, experiences).exists()


def reference_of(learner: MOSLearner) -> Callable[[Tensor], Tensor]:
    """Return the published procedure with the learner's stacks, on a copy of its ViT."""
    state = learner.state
    mos = ReferenceMOS(copy.deepcopy(learner.backbone.trunk.vit), learner.settings.bottleneck).eval()
    for weights in state.bank:
        stack = mos.new_stack()
        for block, adapter in enumerate(stack):
            adapter.load_state_dict({name.replace("_", ".", 1): value[block] for name, value in weights.items()})
        mos.keep(stack.eval())
    assert state.head is not None
    assert state.prototypes is not None
    head, prototypes, own = state.head, state.prototypes, state.experience_of_class
    return lambda images: mos.predict(images, head, prototypes, own)


def sides_of(learner: MOSLearner) -> Sides:
    """Return the sides that are compared, as functions of images."""
    trunk = learner.backbone.trunk
    return {"plain": trunk.features, "ours": learner.score_batch, "reference": reference_of(learner)}


def visited(learner: MOSLearner, images: Tensor) -> dict[str, float]:
    """Return how many passes the images took: the mean, and the share of images by number."""
    scores = [learner.score_batch(part) for part in images.split(32)]
    passes = torch.cat([1 + s.refinements + (s.first_stack > 0) for s in scores])
    shares = {f"{n} passes": float((passes == n).float().mean()) for n in passes.unique().tolist()}
    return {"mean": float(passes.float().mean()), **shares}


def cost(learner: MOSLearner, images: Tensor, rounds: int) -> dict[str, Any]:
    """Return what answers for a batch cost in plain forwards, and how they agree."""
    sides = sides_of(learner)
    taken = interleaved({name: lambda call=call: call(images) for name, call in sides.items()}, rounds)
    ours, theirs = learner.score_batch(images), sides["reference"](images) / 2
    return {
        "plain [ms an image]": 1e3 * statistics.median(taken["plain"]) / len(images),
        "batch": len(images),
        "rounds": rounds,
        **{name: ratio(taken, name, "plain") for name in sides if name != "plain"},
        "same answers as the reference": float((ours.values.argmax(1) == theirs.argmax(1)).float().mean()),
        "largest difference of a score": float((ours.values - theirs).abs().max()),
    }


def second_evaluation(before: MOSLearner, after: MOSLearner, images: Tensor, rounds: int) -> float:
    """Return the cost, in plain forwards, of images that the learner was asked about before its last experience."""
    costs = []
    for _ in range(rounds):
        cache = FeatureCache()
        before.score_batch(images, cache)
        calls = {"plain": lambda: after.backbone.trunk.features(images)}
        calls["again"] = lambda cache=cache: after.score_batch(images, cache)
        started = [time.process_time()]
        for call in calls.values():
            call()
            started.append(time.process_time())
        costs.append((started[2] - started[1]) / (started[1] - started[0]))
    return statistics.median(costs)


def latencies(learner: MOSLearner, images: Tensor, batches: list[int], calls: int) -> list[dict[str, Any]]:
    """Return images a second for every size of batch, and for the smallest the time of an answer, by the clock."""
    rows = []
    for batch in batches:
        row: dict[str, Any] = {"batch": batch}
        for name, call in sides_of(learner).items():
            if name == "reference" and batch > 16:
                continue
            taken = []
            for number in range(1 + (calls if batch == 1 else 3 if batch < 64 else 2)):
                part = images.roll(-number * batch, 0)[:batch]
                started = time.perf_counter()
                call(part)
                taken.append(time.perf_counter() - started)
            taken = taken[1:]
            row[f"{name} [images/s]"] = batch / statistics.median(taken)
            if batch == 1:
                row |= {f"{name} p50 [ms]": 1e3 * statistics.median(taken)}
                row |= {f"{name} p95 [ms]": 1e3 * statistics.quantiles(taken, n=20)[-1]}
        rows.append(row)
    return rows


def main(
    images: Annotated[Path, typer.Option(help="A folder with train/ and test/, as for real_streams.py.")],
    weights: Annotated[Path, typer.Option(help="The ViT's weights.")],
    learners: Annotated[Path, typer.Option(help="What real_streams.py wrote.")],
    out: Annotated[Path, typer.Option(help="Where results go.")],
    experiences: Annotated[list[int] | None, typer.Option(help="5, 20, 50 and 200 by default.")] = None,
    seed: int = 1993,
    asked: Annotated[int, typer.Option(help="Test images whose passes are counted.")] = 200,
    batch: Annotated[int, typer.Option(help="Images answered at once; fewer for the reference's long runs.")] = 32,
    threads: int = 1,
) -> None:
    """Measure, and write mos_inference.json, .md and .png."""
    torch.set_num_threads(threads)
    backbone = backbone_of(weights)
    record: dict[str, Any] = {"ran on": surroundings(), "ceilings": ceilings(), "seed": seed, "costs": []}
    operations, largest, photos = forward_flops(backbone.trunk.vit), None, None
    record["plain forward [GFLOP]"] = operations / 1e9
    with torch.no_grad():
        for count in experiences or [5, 20, 50, 200]:
            learner, real = learner_of(backbone, learners, count, seed)
            if real or photos is None:
                photos = test_images(images, learner, max(asked, 256))
            # The reference's 201 passes for 32 images would take minutes a round.
            own = batch if count <= 20 else max(4, batch * 20 // count)
            row = {"experiences": count, "real learner": real, "passes": visited(learner, photos[:asked])}
            row["passes in the batch"] = visited(learner, photos[:own])["mean"]
            row |= cost(learner, photos[:own], 3 if count <= 20 else 2)
            if real:
                row["second evaluation"] = _second(backbone, learners, count, seed, photos[:batch])
                largest = learner, count, photos
            record["costs"].append(row)
            print(row, flush=True)
        if largest is not None:
            rows = latencies(largest[0], largest[2], [1, 4, 16, 64, 256], 30)
            record["latency"] = {"experiences": largest[1], "rows": rows}
    write(out, "mos_inference", record, markdown(record))
    picture(record["costs"], out / "mos_inference.png")


def _second(backbone: Backbone, learners: Path, count: int, seed: int, photos: Tensor) -> float:
    *_, before, after = (one.variant(precision="float32") for one in aligned(backbone, learners, count, seed))
    return second_evaluation(before, after, photos, 3)


def markdown(record: Mapping[str, Any]) -> str:
    limits = ", ".join(f"{name} {value:.0f}" for name, value in record["ceilings"].items())
    text = f"Measured ceilings: {limits}. A plain forward is {record['plain forward [GFLOP]']:.2f} GFLOP.\n\n"
    keys = ["plain [ms an image]", "ours", "reference"]
    rows = [
        [str(row["experiences"]) + ("" if row["real learner"] else " (made up)"), str(row["batch"]),
         *(f"{row[key]:.2f}" for key in keys), f"{row['passes in the batch']:.2f}",
         f"{row['passes']['mean']:.2f}", str(row["experiences"] + 1),
         f"{row['same answers as the reference']:.1%}", f"{row['largest difference of a score']:.0e}",
         f"{row['second evaluation']:.2f}" if "second evaluation" in row else "–"]
        for row in record["costs"]
    ]  # fmt: skip
    text += table(
        ["T", "batch", "plain [ms an image]", "ours", "reference", "passes in the batch", "passes, ours",
         "passes, reference",
         "same answers", "largest difference", "asked again, cached"],
        rows,
    )  # fmt: skip
    if "latency" not in record:
        return text
    names = [name.removesuffix(" [images/s]") for name in record["latency"]["rows"][0] if name.endswith("/s]")]
    rows = [
        [str(row["batch"]), *(f"{row.get(f'{name} [images/s]', float('nan')):.1f}" for name in names)]
        for row in record["latency"]["rows"]
    ]
    count = record["latency"]["experiences"]
    text += f"\n{table([f'batch, T = {count}', *(f'{name} [images/s]' for name in names)], rows)}".replace("nan", "–")
    one = record["latency"]["rows"][0]
    rows = [[name, *(f"{one[f'{name} {p} [ms]']:.0f}" for p in ("p50", "p95"))] for name in names]
    return text + "\n" + table(["one image", "p50 [ms]", "p95 [ms]"], rows)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the cost of both sides against the number of experiences."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    counts = [row["experiences"] for row in rows]
    for side, label, colour in (("reference", "published procedure", "#cc6677"), ("ours", "equimos", "#4477aa")):
        axes.plot(counts, [row[side] for row in rows], "-", color=colour, linewidth=1)
        for real, face in ((True, colour), (False, "white")):
            points = [(row["experiences"], row[side]) for row in rows if row["real learner"] == real]
            axes.plot(*zip(*points, strict=True), "o", color=colour, markerfacecolor=face) if points else None
        axes.annotate(label, (counts[-1], rows[-1][side]), (0, 8), textcoords="offset points", ha="right", color=colour)
    axes.set(xscale="log", yscale="log", xlabel="experiences learned", ylabel="cost of an answer [plain forwards]")
    axes.set_xticks(counts, [str(count) for count in counts], minor=False)
    axes.set_yticks([1, 2, 10, 100], ["1", "2", "10", "100"], minor=False)
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    typer.run(main)
