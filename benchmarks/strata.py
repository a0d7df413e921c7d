"""What each part of `strata` is worth on real images: one extraction of tokens, many closed forms, many streams.

    python benchmarks/strata.py --images DIR --weights FILE --half report --out results.json
    python benchmarks/strata.py --images DIR --weights FILE --name tf_efficientnet_lite0 --size 128 --out cnn.json

`DIR` holds train/CLASS and test/CLASS. Classes are permuted with seed 0 and cut in two: what `strata` is was chosen on
the half `tune`; the half `report` is for figures. The regressions are the library's own, or their duals.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import arguments
import numpy as np
import torch
from measuring import records_in
from real_streams import half_of
from safetensors.torch import load_file, save_file
from torch import Tensor

import continual
from continual.backbones.convnet import FrozenConvNet
from continual.data.inputs import PreparedImages
from continual.data.loaders import evaluation_loader
from continual.methods.strata import StrataLearner
from continual.seeding import generator
from continual.statistics.penalties import choose_penalty
from continual.statistics.ridge import GramStatistics, solve

RIDGE, PROJECTION = "ridge", "ridge on a random projection of 2000"
RIVALS = (RIDGE, PROJECTION)
#: tokens (n, 2 views, L blocks, 2 kinds, D) -> regressors (n, D')
ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    RIDGE: lambda t: t[:, 0, -1:, :1],
    PROJECTION: lambda t: t[:, 0, -1:, :1],
    "strength by width": lambda t: t[:, 0, -1:, :1],
    "+ four blocks": lambda t: t[:, 0, -4:, :1],
    "+ patch tokens (one pass)": lambda t: t[:, 0, -4:],
    "+ mirror image (strata)": lambda t: t[:, :, -4:].mean(1),
    "strata without patch tokens": lambda t: t[:, :, -4:, :1].mean(1),
    "strata of one block": lambda t: t[:, :, -1:].mean(1),
    "strata of two blocks": lambda t: t[:, :, -2:].mean(1),
    "strata of six blocks": lambda t: t[:, :, -6:].mean(1),
}


def cnn_rows(frozen: FrozenConvNet) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the rows for a CNN's tokens (n, 2 views, D + D_1 + ... + D_L): its features, and its stages."""
    widths = [stage["num_chs"] for stage in frozen.network.feature_info]

    def read(tokens: Tensor, stages: int, features: bool = True) -> Tensor:
        last = tokens[..., tokens.shape[-1] - sum(widths[-stages:]) :]
        return torch.cat([tokens[..., : frozen.width], last], -1) if features else last

    return {
        RIDGE: lambda t: t[:, 0, : frozen.width],
        PROJECTION: lambda t: t[:, 0, : frozen.width],
        "strength by width": lambda t: t[:, 0, : frozen.width],
        "+ four stages (one pass)": lambda t: read(t[:, 0], 4),
        "+ mirror image (strata)": lambda t: read(t.mean(1), 4),
        "strata without stages": lambda t: t.mean(1)[:, : frozen.width],
        "strata without the features": lambda t: read(t.mean(1), 4, features=False),
        "strata of one stage": lambda t: read(t.mean(1), 1),
        "strata of all stages": lambda t: read(t.mean(1), len(widths)),
    }


def tokens(learner: StrataLearner, paths: list[Path]) -> Tensor:
    """Return what all blocks say of images and of their mirror images, (n, 2, L, 2, D); of a CNN (n, 2, D')."""
    frozen, images = (
        learner.backbone.frozen,
        PreparedImages(paths, [0] * len(paths), learner.backbone.preprocessing, augment=False),
    )
    found = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for batch, _ in evaluation_loader(images, 50):
            found.append(torch.stack([frozen.block_tokens(view, 6) for view in (batch, batch.flip(-1))], 1))
    joined = torch.cat(found).half()
    return joined.unflatten(2, (min(6, frozen.depth), -1, frozen.width)) if frozen.has_blocks else joined


def answers(x: Tensor, labels: Tensor, z: Tensor, classes: int, penalty: float) -> Tensor:
    """Return the values for z (m, C): `continual.statistics.ridge.solve` with standardised features, in its dual form.

    That is less work where there are fewer images than features.
    """
    y = torch.nn.functional.one_hot(labels, classes).double()
    mean, centre, deviation = y.mean(0), x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x, z = ((rows - centre) / deviation for rows in (x, z))
    gram = (x @ x.mT).double()
    gram.diagonal().add_(penalty)
    return (z @ x.mT).double() @ torch.linalg.solve(gram, y - mean) + mean


def rivals(x: Tensor, labels: Tensor, newest: Tensor, z: Tensor, classes: int, step: int, standardise: bool) -> Tensor:
    """Return the values of `ridge` (or of RanPAC's head: not standardised), whose penalty the newest images choose."""
    old = GramStatistics.of(x[~newest], labels[~newest], classes) if standardise and not newest.all() else None
    draw = generator(1993, "ridge", step)
    penalty = choose_penalty(old, x[newest], labels[newest], classes, standardise=standardise, generator=draw)
    return solve(GramStatistics.of(x, labels, classes), penalty, standardise=standardise)(z.double())


def accuracies(
    row: str, train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, size: int, count: int
) -> tuple[list[float], float]:
    """Return the accuracy after each experience, and the last one's where the right experience is known."""
    found: list[float] = []
    told = 0.0
    for step in range(count):
        classes = (step + 1) * size
        x, y = train[labels < classes], labels[labels < classes]
        z, right = test[truth < classes], truth[truth < classes]
        if row in RIVALS:
            values = rivals(x, y, y >= classes - size, z, classes, step, row != PROJECTION)
        else:
            values = answers(x, y, z, classes, train.shape[1] / 3)
        found.append(float((values.argmax(1) == right).float().mean()))
        away = torch.arange(classes)[None] // size != right[:, None] // size
        told = float((values.masked_fill(away, -torch.inf).argmax(1) == right).float().mean())
    return found, told


def main() -> None:
    """Extract, solve, and write one record per row, stream and seed."""
    parser = arguments.parser(
        __doc__, "images", "weights", "size", "half", "seeds", "out", per_class={"nargs": "+", "default": [40]}
    )
    parser.add_argument("--name", help="timm's name for them, if the file does not say it")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10], help="classes per experience; several streams")
    parser.add_argument("--rows", nargs="+", help="all by default")
    parser.add_argument("--tokens", type=Path, help="keeps the tokens for the next call with the same images")
    asked = parser.parse_args()

    chosen = half_of(asked.images, asked.half)
    learner = StrataLearner(continual.load_backbone(asked.name, weights=asked.weights, img_size=asked.size))
    frozen = learner.backbone.frozen
    every = cnn_rows(frozen) if isinstance(frozen, FrozenConvNet) else ROWS
    most = max(asked.per_class)
    paths = {s: [sorted((asked.images / s / c).iterdir()) for c in chosen] for s in ("train", "test")}
    paths["train"] = [own[:most] for own in paths["train"]]
    if asked.tokens is not None and asked.tokens.is_file():
        found = load_file(asked.tokens)
    else:
        found = {s: tokens(learner, [p for own in groups for p in own]) for s, groups in paths.items()}
        if asked.tokens is not None:
            save_file(found, asked.tokens)
    rank = {s: torch.tensor([i for own in g for i in range(len(own))]) for s, g in paths.items()}
    label = {s: torch.tensor([c for c, own in enumerate(g) for _ in own]) for s, g in paths.items()}

    records = records_in(asked.out)
    for per_class, size, seed, row in product(asked.per_class, asked.sizes, asked.seeds, asked.rows or every):
        position = torch.from_numpy(np.random.RandomState(seed).permutation(len(chosen))).argsort()
        keep = rank["train"] < per_class
        x, z = (every[row](found[s].float()).flatten(1) for s in ("train", "test"))
        if row == PROJECTION:
            matrix = torch.randn(x.shape[1], 2000, generator=generator(seed, "projection"))
            x, z = torch.relu(x @ matrix), torch.relu(z @ matrix)
        labels, truth = position[label["train"][keep]], position[label["test"]]
        curve, told = accuracies(row, x[keep], labels, z, truth, size, len(chosen) // size)
        records.append(
            {"row": row, "seed": seed, "size": size, "per_class": per_class, "half": asked.half}
            | {"curve": curve, "experience told": told, "width": x.shape[1]}
        )
        print(
            f"{row}, seed {seed}, {size} classes, {per_class} images: "
            f"{100 * np.mean(curve):.1f} / {100 * curve[-1]:.1f}, experience known {100 * told:.1f}",
            flush=True,
        )
        asked.out.write_text(json.dumps(records))


if __name__ == "__main__":
    main()
