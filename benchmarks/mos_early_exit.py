"""What `early_exit` saves and what it costs: agreement with exact retrieval, accuracy, passes and time, by tolerance.

    OMP_NUM_THREADS=1 python benchmarks/mos_early_exit.py --images DIR --weights FILE --learners DIR --out DIR \
        --experiences 20 --title "..." --name NAME

The learner is one that `real_streams.py` trained. The tolerance decides, from class statistics alone, how certain is
enough. Passes are counted over all test images asked; cost is that of these passes on paper, in plain forwards; time is
measured for one batch. `--checked` images are run under every adapter, to see how true `feature_shift` is of
them. The picture is of all records in the folder.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from arguments import Images, Learners, Name, Out, Weights
from measuring import forward_flops, interleaved, pass_flops, ratio, surroundings, table, write
from real_streams import aligned, backbone_of, stream_of
from torch import Tensor

from continual.adapters.bank import shared
from continual.data.inputs import PreparedImages
from continual.data.loaders import evaluation_loader
from continual.learning.feature_cache import FeatureCache
from continual.methods.mos.feature_shift import alike
from continual.methods.mos.learner import MOSLearner
from continual.seeding import generator
from equivariant.style import COLOURS

TOLERANCES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)


class Counted(FeatureCache):
    """Counts the passes that answers take; those it remembers count as well."""

    passes = 0

    def features(self, images: Tensor, weights: Sequence[Hashable], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return features (B, D)."""
        self.passes += len(images)
        return super().features(images, weights, compute)


def asked(learner: MOSLearner, batches: list[Tensor], cache: Counted) -> tuple[Tensor, float]:
    """Return the answers (n,) and the passes per image."""
    before = cache.passes
    answers = torch.cat([learner.score_batch(images, cache).values.argmax(-1) for images in batches])
    return answers, (cache.passes - before) / len(answers)


def predicted(learner: MOSLearner, images: Tensor) -> dict[str, float]:
    """Return how true what is said of the adapters' shifts is of images (n, 3, H, W) of all classes."""
    state = learner.state
    stem = learner.extractor.stem(images)
    under = [learner.extractor.features(stem, shared(learner.settings.adapter_kind, stack)) for stack in state.bank]
    shifts = learner.shift_model(generator(0, "check"))
    sloped = under[0] @ shifts.slope
    residuals, plain = [], []
    for stack, features in enumerate(under[1:], 1):
        shift = features - under[0]
        residuals.append(shift - shifts.expected(sloped, torch.full((len(images),), stack)))
        plain.append(shift - shifts.means[stack])
    found, means = torch.stack(residuals, 1), torch.stack(plain, 1)
    spread = found - found.mean(0)
    products = torch.einsum("nid,njd->ij", spread, spread)
    lengths = products.diagonal().sqrt()
    pairs = torch.triu_indices(len(products), len(products), 1)
    apart = (products / torch.outer(lengths, lengths) - alike(state.stacked_bank())[1:, 1:])[pairs[0], pairs[1]]
    assert state.shift_sums is not None
    widths = shifts.spreads[1:].square()
    return {
        "correlation of residuals, distance from the weights'": float(apart.square().mean().sqrt()),
        "variance beside the mean shift": float((means.square().sum(-1).mean(0) / widths).mean()),
        "left unexplained": float((found.square().sum(-1).mean(0) / widths).mean()),
        "left unexplained, predicted": state.shift_sums.solve(sum(s.count for s in state.shifts[1:]))[1],
    }


def main(
    images: Images,
    weights: Weights,
    learners: Learners,
    out: Out,
    experiences: int = 20,
    classes: int = 100,
    title: Annotated[str, typer.Option(help="What the learner is, for table and picture.")] = "",
    seed: int = 1993,
    every: Annotated[int, typer.Option(help="Of the test images, every n-th is asked about.")] = 2,
    batch: int = 128,
    checked: Annotated[int, typer.Option(help="Images that are run under every adapter.")] = 100,
    rounds: int = 3,
    name: Name = "mos_early_exit",
    threads: int = 1,
) -> None:
    """Measure, and write NAME.json, NAME.md and mos_early_exit.png."""
    torch.set_num_threads(threads)
    backbone = backbone_of(weights)
    (learner,) = deque(aligned(backbone, learners, experiences, seed), maxlen=1)
    learner = learner.variant(precision="float32")
    stream, cache = stream_of(images, experiences, seed, classes), Counted()
    photos = [image for e in stream.experiences for image in e.test_images][::every]
    labels = [label for e in stream.experiences for label in e.test_labels][::every]
    prepared = PreparedImages(photos, labels, backbone.preprocessing, augment=False)
    batches = [images for images, _ in evaluation_loader(prepared, 128)]
    truth = learner.indices(labels)

    variants = {"exact": learner, "exact, bfloat16": learner.variant(precision="bfloat16")}
    variants |= {f"{t:g}": learner.variant(early_exit=t) for t in TOLERANCES}
    variants["0.005, bfloat16"] = learner.variant(early_exit=0.005, precision="bfloat16")
    mixed = torch.cat(batches)[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:batch]]
    sides: dict[str, Callable[[], Any]] = {"plain": lambda: backbone.frozen.network(mixed)}
    sides |= {name: lambda one=one: one.score_batch(mixed) for name, one in variants.items()}
    with torch.no_grad():
        taken = interleaved(sides, rounds)
    rounded = Counted()
    found = {
        name: asked(one, batches, rounded if one.settings.precision == "bfloat16" else cache)
        for name, one in variants.items()
    }
    exact, _ = found["exact"]
    first, later = (f / forward_flops(backbone.frozen.network) for f in pass_flops(backbone.frozen.network, 16))
    rows = []
    for variant, (answers, passes) in found.items():
        on_batch = Counted()
        variants[variant].score_batch(mixed, on_batch)
        rows.append(
            {
                "early_exit": variant,
                "passes": passes,
                "cost on paper": first + (passes - 1) * later,
                "agreement": float((answers == exact).float().mean()),
                "accuracy": float((answers == truth).float().mean()),
                "time of a batch [plain forwards]": ratio(taken, variant, "plain"),
                "passes in that batch": on_batch.passes / batch,
            }
        )
    with torch.no_grad():
        true = predicted(learner, mixed[:checked])
    record = {
        "ran on": surroundings(), "title": title, "experiences": experiences, "seed": seed, "images": len(labels),
        "batch": batch, "rows": rows, "shifts": {"images": checked, **true},
    }  # fmt: skip
    write(out, name, record, markdown(record))
    picture([json.loads(path.read_text()) for path in sorted(out.glob("mos_early_exit*.json"))], out)


def markdown(record: Mapping[str, Any]) -> str:
    """Return the tables."""
    shares = ("agreement", "accuracy")
    keys = list(record["rows"][0])
    lines = [
        [row["early_exit"], *(f"{row[key]:.1%}" if key in shares else f"{row[key]:.2f}" for key in keys[1:])]
        for row in record["rows"]
    ]
    true = [[name, f"{value:.2f}"] for name, value in record["shifts"].items()]
    return (
        f"{record['title']}: {record['experiences']} experiences, {record['images']} test images.\n\n"
        f"{table(keys, lines)}\n{table(['shifts', ''], true)}"
    )


def picture(records: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draw the share of answers that differ against cost, a line per learner."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for record, colour in zip(records, COLOURS, strict=False):
        rows = [row for row in record["rows"] if row["early_exit"].replace(".", "").isdigit()]
        points = [(row["cost on paper"], max(1 - row["agreement"], 5e-4)) for row in rows]
        exact = record["rows"][0]["cost on paper"]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4, label=record["title"])
        axes.plot([exact], [5e-4], "o", color=colour, markerfacecolor="white", clip_on=False)
    axes.set(
        xlabel="cost of an answer [plain forwards]", ylabel="answers that differ from exact retrieval", yscale="log"
    )
    axes.set_yticks([5e-4, 1e-3, 5e-3, 1e-2, 5e-2], ["none", "0.1 %", "0.5 %", "1 %", "5 %"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.axhline(5e-3, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(folder / "mos_early_exit.png", dpi=130)


if __name__ == "__main__":
    typer.run(main)
