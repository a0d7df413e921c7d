"""What `early_exit` saves and what it costs: agreement with exact retrieval, accuracy, passes and time, by tolerance.

    OMP_NUM_THREADS=1 python benchmarks/mos_early_exit.py --images DIR --weights FILE --learners DIR --experiences 20 --out DIR

The learner is one that `real_streams.py` trained. The tolerance decides, from class statistics alone, how certain is
enough. Passes are counted over all test images asked; time is measured for one batch.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from measuring import interleaved, ratio, surroundings, table, write
from real_streams import aligned, backbone_of, stream_of
from torch import Tensor

from continual.data import PreparedImages, evaluation_loader
from continual.feature_cache import FeatureCache
from continual.methods.mos import MOSLearner

TOLERANCES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)


class Counted(FeatureCache):
    """Counts the passes that answers take; those it remembers count as well."""

    passes = 0

    def features(self, images: Tensor, weights: Sequence[Hashable], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return features (B, D)."""
        self.passes += len(images)
        return super().features(images, weights, compute)


def asked(learner: MOSLearner, batches: list[Tensor], cache: Counted) -> tuple[Tensor, float]:
    """Return the answers (n,) and the passes an image."""
    before = cache.passes
    answers = torch.cat([learner.score_batch(images, cache).values.argmax(-1) for images in batches])
    return answers, (cache.passes - before) / len(answers)


def main(
    images: Annotated[Path, typer.Option(help="A folder with train/ and test/, as for real_streams.py.")],
    weights: Annotated[Path, typer.Option(help="The ViT's weights.")],
    learners: Annotated[Path, typer.Option(help="What real_streams.py wrote.")],
    out: Annotated[Path, typer.Option(help="Where results go.")],
    experiences: int = 20,
    classes: int = 100,
    seed: int = 1993,
    every: Annotated[int, typer.Option(help="Of the test images, every n-th is asked about.")] = 2,
    batch: int = 32,
    rounds: int = 3,
    name: Annotated[str, typer.Option(help="Of the files written.")] = "mos_early_exit",
    threads: int = 1,
) -> None:
    """Measure, and write NAME.json and NAME.md."""
    torch.set_num_threads(threads)
    backbone = backbone_of(weights)
    *_, learner = aligned(backbone, learners, experiences, seed)
    learner = learner.variant(precision="float32")
    stream, cache = stream_of(images, experiences, seed, classes), Counted()
    photos = [image for e in stream.experiences for image in e.test_images][::every]
    labels = [label for e in stream.experiences for label in e.test_labels][::every]
    prepared = PreparedImages(photos, labels, backbone.preprocessing, augment=False)
    batches = [images for images, _ in evaluation_loader(prepared, batch)]
    truth = learner.indices(labels)

    variants = {"exact": learner, "exact, bfloat16": learner.variant(precision="bfloat16")}
    variants |= {f"{t:g}": learner.variant(early_exit=t) for t in TOLERANCES}
    variants["0.005, bfloat16"] = learner.variant(early_exit=0.005, precision="bfloat16")
    mixed = torch.cat(batches)[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:batch]]
    sides: dict[str, Callable[[], Any]] = {"plain": lambda: backbone.trunk.vit(mixed)}
    sides |= {name: lambda one=one: one.score_batch(mixed) for name, one in variants.items()}
    with torch.no_grad():
        taken = interleaved(sides, rounds)
    rounded = Counted()
    found = {
        name: asked(one, batches, rounded if one.settings.precision == "bfloat16" else cache)
        for name, one in variants.items()
    }
    exact, _ = found["exact"]
    rows = []
    for variant, (answers, passes) in found.items():
        on_batch = Counted()
        variants[variant].score_batch(mixed, on_batch)
        rows.append(
            {
                "early_exit": variant,
                "passes": passes,
                "agreement": float((answers == exact).float().mean()),
                "accuracy": float((answers == truth).float().mean()),
                "time of a batch [plain forwards]": ratio(taken, variant, "plain"),
                "passes in that batch": on_batch.passes / batch,
            }
        )
    record = {"ran on": surroundings(), "experiences": experiences, "seed": seed, "images": len(labels), "rows": rows}
    keys = ["early_exit", "passes", "agreement", "accuracy", "time of a batch [plain forwards]", "passes in that batch"]
    lines = [
        [row["early_exit"], f"{row['passes']:.2f}", f"{row['agreement']:.1%}", f"{row['accuracy']:.1%}",
         f"{row[keys[4]]:.2f}", f"{row[keys[5]]:.2f}"]
        for row in rows
    ]  # fmt: skip
    write(out, name, record, f"{experiences} experiences, {len(labels)} test images.\n\n{table(keys, lines)}")


if __name__ == "__main__":
    typer.run(main)
