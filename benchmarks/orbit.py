"""What a wrapper costs: time and peak memory of every wrapper as a ratio to the plain model.

    OMP_NUM_THREADS=1 python benchmarks/orbit.py --weights FILE --size 224 --out DIR

Without weights, it takes a ViT-S/14 of twelve blocks with random ones: the cost is the same, only another
element is chosen. Inference, no gradients. All variants run in one process, in a new random order in every
round, after a warm-up; the time is the median over the rounds. On a CPU it is processor time, which waiting for
other programs does not lengthen: on one thread, it is what the clock would say on an idle machine.

Memory is the peak of what torch's allocator gives out during one call, above what was held before (weights and
images): on a CPU from the allocation events of torch.profiler, on a GPU from torch.cuda.max_memory_allocated.
What a library takes behind torch's back is not in it.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from arguments import AnyWeights, Out
from measuring import peak_bytes
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import equivariant as eq
from continual.backbones.loading import load_backbone
from continual.learning.model_file import versions
from equivariant.style import COLOURS, FAINT

CLASSES = 100


@dataclass(frozen=True)
class Cost:
    """One variant beside the plain model."""

    name: str
    seconds: float  #: median of a call, see `seconds`
    time: float  #: ratio of medians
    spread: tuple[float, float]  #: quartiles of the ratio, round by round
    mebibytes: float  #: peak of a call, weights and images not counted
    memory: float  #: ratio of peaks


def network(weights: Path | None, size: int) -> nn.Module:
    """Return a ViT-S/14 that gives features (n, 384)."""
    if weights:
        return load_backbone(weights=weights, img_size=size).frozen.network
    return timm.create_model("vit_small_patch14_dinov2", img_size=size, num_classes=0)


def variants(vit: nn.Module, group: str) -> dict[str, nn.Module]:
    """Return the plain classifier and every wrapper around it; all share its weights."""
    head = nn.Linear(vit.num_features, CLASSES)
    plain = nn.Sequential(vit, head)
    score = eq.FeatureScore(vit.num_features)
    nn.init.normal_(score.layers[-1].weight)  # as if trained: a fresh score ties, and ties cost passes
    staged = {k: eq.StagedViT(vit, blocks=k) for k in (2, 4)}
    order = eq.as_group(group).order
    found: dict[str, nn.Module] = {"plain": plain}
    for chunk in (None, 1):
        found |= {
            f"{name}{', chunk=1' if chunk else ''}": wrapper
            for name, wrapper in {
                "equitune": eq.Equitune(plain, group, chunk=chunk),
                "λ-equitune": eq.LambdaEquitune(vit, group, head=head, network=score, chunk=chunk),
                "equizero": eq.Equizero(plain, group, chunk=chunk),
                "class-wise maximum": eq.OrbitMax(plain, group, chunk=chunk),
                "canonicaliser": eq.Canonicaliser(plain, group, chunk=chunk),
                **{
                    f"pruned orbit, k={k}, m={m}": nn.Sequential(
                        eq.PrunedOrbit(staged[k], group, keep=m, score=score, chunk=chunk), head
                    )
                    for k, m in ((2, 1), (2, 2), (4, 1))
                    if m <= order
                },
            }.items()
        }
    return found


def seconds(model: nn.Module, x: Tensor) -> float:
    """Time one call: by the clock on a GPU, in processor time on a CPU."""
    if not x.is_cuda:
        start = time.process_time()
        model(x)
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    model(x)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(models: dict[str, nn.Module], x: Tensor, rounds: int) -> list[Cost]:
    """Run all models on `x`, interleaved, and compare them with the first."""
    times: dict[str, list[float]] = {name: [] for name in models}
    names, order = list(models), random.Random(0)
    peaks = {name: peak_bytes(lambda model=model: model(x)) for name, model in models.items()}  # and a warm-up
    for _ in track(range(rounds), f"{x.shape[-1]} px, batch {len(x)}"):
        order.shuffle(names)
        for name in names:
            times[name].append(seconds(models[name], x))
    first = next(iter(models))
    base = statistics.median(times[first])
    costs = []
    for name in models:
        middle = statistics.median(times[name])
        by_round = [one / plain for one, plain in zip(times[name], times[first], strict=True)]
        low, _, high = statistics.quantiles(by_round, n=4)
        ratio = peaks[name] / peaks[first]
        costs.append(Cost(name, middle, middle / base, (low, high), peaks[name] / 2**20, ratio))
    return costs


def surroundings(device: str) -> dict[str, Any]:
    """Say what it ran on."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        **versions(),
    }


def main(
    weights: AnyWeights = None,
    size: Annotated[list[int] | None, typer.Option(help="Side of the images in pixels; 98 and 224 by default.")] = None,
    batch: Annotated[int, typer.Option(help="Images in a call.")] = 8,
    group: Annotated[str, typer.Option(help="C4, D4, ...")] = "C4",
    rounds: Annotated[int, typer.Option(help="Calls of each variant that are timed.")] = 11,
    device: Annotated[str, typer.Option(help="cpu or cuda; cuda if there is one by default.")] = "",
    only: Annotated[str, typer.Option(help="Leave out variants whose name does not hold this; never plain.")] = "",
    out: Out = Path("runs/orbit"),
) -> None:
    """Measure, print a table, and write orbit.json, orbit.md and orbit.png."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[int, list[Cost]] = {}
    with torch.inference_mode():
        for side in size or [98, 224]:
            torch.manual_seed(0)
            found_here = variants(network(weights, side), group)
            models = {n: m.to(device).eval() for n, m in found_here.items() if n == "plain" or only in n}
            found[side] = measure(models, torch.randn(batch, 3, side, side, device=device), rounds)
            Console().print(terminal(f"{group}, {side} px, batch {batch}", found[side]))
    settings = {"weights": weights.name if weights else "random", "batch": batch, "group": group, "rounds": rounds}
    text = "\n".join(f"## {side} px\n\n{markdown(costs)}" for side, costs in found.items())
    out.mkdir(parents=True, exist_ok=True)
    (out / "orbit.md").write_text(text, encoding="utf-8")
    results = {side: [asdict(cost) for cost in costs] for side, costs in found.items()}
    record = {"settings": settings, "ran on": surroundings(device), "image size": results}
    (out / "orbit.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    picture(found, group, out / "orbit.png")


HEADINGS = ["ratios to plain", "time", "quartiles", "ms", "peak memory", "MiB"]


def lines(costs: list[Cost]) -> list[list[str]]:
    return [
        [c.name, f"{c.time:.2f}", f"{c.spread[0]:.2f}–{c.spread[1]:.2f}", f"{1000 * c.seconds:.0f}",
         f"{c.memory:.2f}", f"{c.mebibytes:.1f}"]
        for c in costs
    ]  # fmt: skip


def markdown(costs: list[Cost]) -> str:
    rule = ["---", *["---:"] * (len(HEADINGS) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEADINGS, rule, *lines(costs))) + "\n"


def terminal(title: str, costs: list[Cost]) -> Table:
    table = Table(*HEADINGS, title=title)
    for line in lines(costs):
        table.add_row(*line)
    return table


def picture(found: dict[int, list[Cost]], group: str, path: Path) -> None:
    """Draw the ratios as bars: a row per image size; time on the left, memory on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 2, squeeze=False)
    ratios: list[tuple[str, Callable[[Cost], float]]] = [
        ("time", lambda c: c.time),
        ("peak memory", lambda c: c.memory),
    ]
    for row, (side, costs) in zip(panels, found.items(), strict=True):
        for axes, (what, ratio) in zip(row, ratios, strict=True):
            bars = axes.barh([cost.name for cost in costs], [ratio(cost) for cost in costs], color=COLOURS[0])
            axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
            axes.axvline(1, color=FAINT, linewidth=0.8, linestyle=":")
            axes.set(title=f"{what}, {side} px", xlabel="ratio to the plain model")
            axes.invert_yaxis()
            axes.margins(x=0.12)
            axes.spines[["top", "right"]].set_visible(False)
        row[1].set_yticklabels([])
    figure.suptitle(f"The cost of an orbit under {group}")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    typer.run(main)
