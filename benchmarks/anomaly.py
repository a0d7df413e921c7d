r"""How unusual an image is: one class of good images, from the sums of `strata` and `ridge`, beside PatchCore.

    OMP_NUM_THREADS=1 python benchmarks/anomaly.py --weights VIT --flat AID PLANKTON --cifar CIFAR --tiny TINY \
        --features CACHE --out anomaly.json

The first six classes of a data set are good in turn: a seed draws `GOOD` images, which are learned, and the others are
asked about, beside those of all other classes (*other classes*), or beside themselves with a small blot on each
(*blot*: a local defect). The AUROC is the mean over these six. `TINY` is read of ten classes of its reporting half,
`CIFAR` of all ten: of each the first training images by name, and the first 25 test images as the others.

PatchCore (Roth et al., CVPR 2022) keeps patch tokens of good images and says how far the strangest patch of an image is
from the nearest of them. It keeps as many as fit the bytes of `strata`'s sums, which are all of them here, or of
`ridge`'s, chosen by its greedy coreset. "Two blocks": of the sixth and ninth block, each the mean over 3 x 3 places;
else those of the last block. "Patches, one Gaussian" is no method of the library: the sums of all patch tokens, and the
largest distance.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arguments
import torch
from measuring import records_in, seconds, spread, surroundings, table
from PIL import ImageDraw
from real_streams import half_of
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import avg_pool2d

from continual.backbones.loading import load_backbone
from continual.data.images import open_image
from continual.methods.bases.regression import RegressionLearner
from continual.methods.bases.regression_update import RegressionState
from continual.methods.ridge import RidgeLearner
from continual.methods.strata import StrataLearner
from continual.seeding import generator
from continual.statistics.ridge import GramStatistics, Standardised
from continual.uncertainty.left_out import Rows

#: images of the good class that are learned
GOOD = 40
#: training images of each class, the first by name, from which a seed draws; test images; classes of Tiny-ImageNet
POOL, TEST, CLASSES = 60, 25, 10
#: of the good images that may be called unusual
RATE = 0.05
#: classes that are good in turn
KINDS = 6
#: the side of a blot, in that of the image
BLOT = 1 / 6

Read = dict[str, Tensor]
Score = Callable[[Read], Tensor]  #: what is read of images (n, ...) to how unusual they are (n,)


def blotted(path: Path, index: int) -> Any:
    """Return an image with an ellipse of one colour on it, at a place that is drawn for each image."""
    image, draw = open_image(path).convert("RGB"), generator(0, "blot", index)
    side = BLOT * min(image.size)
    left, top, *colour = torch.rand(5, generator=draw).tolist()
    x, y = (0.1 + 0.8 * left) * (image.width - side), (0.1 + 0.8 * top) * (image.height - side)
    fill = tuple(int(255 * value) for value in colour)
    ImageDraw.Draw(image).ellipse((x, y, x + side, y + 0.7 * side), fill=fill)
    return image


def read(learner: StrataLearner, files: list[Path], opened: Callable[[Path, int], Any], place: Path) -> Read:
    """Return what the network says of image files, from `place` if it is kept there."""
    if not place.is_file():
        view, frozen = learner.preprocessing.evaluation(), learner.backbone.frozen
        found: dict[str, list[Tensor]] = {"tokens": [], "features": [], "patches": [], "middle": []}
        blocks, norm = learner.settings.blocks, frozen.network.norm
        for first in range(0, len(files), 64):
            batch = torch.stack([view(opened(path, first + i)) for i, path in enumerate(files[first : first + 64])])
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                plain, mirrored = (frozen.token_parts(own, 6) for own in (batch, batch.flip(-1)))
            # Class token and patches of each block, one after the other: what `block_tokens` and `features` give.
            read = [torch.cat([p.values.mean(1) for p in own[-2 * blocks :]], 1) for own in (plain, mirrored)]
            found["tokens"].append(torch.stack(read, 1))
            found["features"].append(plain[-2].values[:, 0] * norm.weight + norm.bias)
            found["patches"].append(plain[-1].values.half())
            both = torch.cat([plain[1].values, plain[7].values], -1).unflatten(1, plain[1].grid).movedim(-1, 1)
            near = avg_pool2d(both, 3, 1, 1, count_include_pad=False)
            found["middle"].append(near.flatten(2).mT.half())
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: torch.cat(own) for name, own in found.items()}, place)
    return torch.load(place, weights_only=True)


def part(of: Read, rows: Tensor) -> Read:
    """Return what was read of some of the images."""
    return {name: values[rows] for name, values in of.items()}


def learned(learner: RegressionLearner, views: Tensor) -> RegressionState:
    """Return the state that a learner has after good images (n, v, D')."""
    n, v, _ = views.shape
    rows, labels = views.flatten(0, 1), torch.zeros(n * v, dtype=torch.int64)
    readings = torch.tensor([[1.0, 0.0], [0.5, 0.5]]) if v == 2 else None
    sums = GramStatistics.of(rows, labels, 1).scaled(1 / v)
    state = RegressionState(classes=("good",), class_experience=(0,), experiences=1, updates=1, sums=sums)
    return learner.solved(state, Rows(rows, labels, v, 1 / v, readings))


def scores(strata: StrataLearner, ridge: RidgeLearner, good: Read) -> tuple[dict[str, Score], dict[str, int]]:
    """Return the scores by name, of what was read of good images, and the bytes that each needs."""
    found: dict[str, Score] = {}
    size: dict[str, int] = {}
    for learner, views, asked in (
        (strata, good["tokens"], lambda x: x["tokens"].mean(1)),
        (ridge, good["features"][:, None], lambda x: x["features"]),
    ):
        learner.state = learned(learner, views)
        known = learner.variant()
        found[learner.method] = lambda x, known=known, asked=asked: known.scores_of(asked(x)).anomaly
        size[learner.method] = sum(n for name, n in learner.memory().items() if "backbone" not in name)
    found["nearest image"] = lambda x: torch.cdist(x["features"], good["features"]).amin(-1)
    size["nearest image"] = 4 * good["features"].numel()
    for name, kind in (("PatchCore", "patches"), ("PatchCore, two blocks", "middle")):
        rows = good[kind].flatten(0, 1).float()
        for of in ("strata", "ridge"):
            kept = coreset(rows, size[of] // (4 * rows.shape[1]))
            label = f"{name}, bytes of {of}"
            found[label] = lambda x, kept=kept, kind=kind: strangest(x[kind], lambda p: torch.cdist(p, kept).amin(-1))
            size[label] = 4 * kept.numel()
    rows = good["patches"].flatten(0, 1)
    sums = GramStatistics.of(rows.float(), torch.zeros(len(rows), dtype=torch.int64), 1)
    gaussian = Standardised.of(sums, len(sums.total) / 3)
    found["patches, one Gaussian"] = lambda x: strangest(
        x["patches"], lambda p: gaussian.white(p.double()).square().sum(-1)
    )
    size["patches, one Gaussian"] = 8 * (sums.triangle.numel() + sums.total.numel())
    return found, size


def strangest(patches: Tensor, distance: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the largest distance of an image's patches (n, P, D): (n,)."""
    return torch.cat(
        [distance(own.flatten(0, 1).float()).unflatten(0, own.shape[:2]) for own in patches.split(200)]
    ).amax(1)


def coreset(rows: Tensor, most: int) -> Tensor:
    """Return at most so many rows, each the farthest from those before it: PatchCore's greedy choice."""
    if len(rows) <= most:
        return rows
    chosen, far = [0], torch.full((len(rows),), torch.inf)
    while len(chosen) < most:
        far = torch.minimum(far, (rows - rows[chosen[-1]]).square().sum(-1))
        chosen.append(int(far.argmax()))
    return rows[chosen]


def auroc(usual: Tensor, unusual: Tensor) -> float:
    """Return the AUROC [%]."""
    return 100 * float(roc_auc_score([0] * len(usual) + [1] * len(unusual), torch.cat([usual, unusual]).double()))


def files_of(asked: Any) -> dict[str, tuple[list[Path], Tensor, Tensor]]:
    """Return by data set: image files, their classes (n,), and which of them may be learned (n,)."""
    found = {}
    for folder in asked.flat:
        own = enumerate(sorted(p for p in folder.iterdir() if p.is_dir()))
        listed = [(p, c) for c, place in own for p in sorted(place.iterdir())]
        paths, classes = zip(*listed, strict=True)
        found[folder.name] = list(paths), torch.tensor(classes), torch.ones(len(paths), dtype=torch.bool)
    for name, folder, half in (("tiny_imagenet", asked.tiny, "report"), ("cifar10", asked.cifar, "all")):
        if folder is not None:
            names = half_of(folder, half)[:CLASSES]
            each = [(c, s, folder / s / n) for s in ("train", "test") for c, n in enumerate(names)]
            most = {"train": POOL, "test": TEST}
            listed = [(p, c, s) for c, s, place in each for p in sorted(place.iterdir())[: most[s]]]
            paths, classes, parts = zip(*listed, strict=True)
            found[name] = list(paths), torch.tensor(classes), torch.tensor([s == "train" for s in parts])
    return found


def measured(
    learners: tuple[StrataLearner, RidgeLearner], whole: Read, blots: Read, classes: Tensor, pool: Tensor, seed: int
) -> list[dict[str, Any]]:
    """Return a record for each score: AUROC [%] of the other classes and of blots, false alarms [%], and bytes."""
    order = torch.randperm(len(classes), generator=generator(seed, "good"))
    ranks = torch.empty_like(order)
    for c in range(int(classes.max()) + 1):
        own = order[(classes == c)[order] & pool[order]]
        ranks[own] = torch.arange(len(own))
    held = (ranks >= GOOD) if bool(pool.all()) else ~pool
    rows: dict[str, dict[str, Any]] = {}
    for c in range(KINDS):
        known, size = scores(*learners, part(whole, ((classes == c) & pool & (ranks < GOOD)).nonzero()[:, 0]))
        good, others = (part(whole, (held & own).nonzero()[:, 0]) for own in (classes == c, classes != c))
        blot = part(blots, held[classes < KINDS].logical_and(classes[classes < KINDS] == c).nonzero()[:, 0])
        for name, score in known.items():
            row = rows.setdefault(name, {"others": [], "blot": [], "alarms": [], "bytes": size.get(name)})
            with torch.no_grad():
                usual = score(good)
                row["others"].append(auroc(usual, score(others)))
                row["blot"].append(auroc(usual, score(blot)))
            for learner in learners:
                if name == learner.method:
                    row["alarms"].append(100 * float((usual > learner.anomaly_threshold(RATE)).float().mean()))
    means = {name: {k: v for k, v in row.items() if v} for name, row in rows.items()}
    return [
        {"score": name, **{k: sum(v) / len(v) if isinstance(v, list) else v for k, v in row.items()}}
        for name, row in means.items()
    ]


def tables(found: list[dict[str, Any]]) -> str:
    """Return a Markdown table for other classes, and one for blots: rows are scores, columns data sets."""
    text, sets = "", list(dict.fromkeys(r["data"] for r in found))
    for kind, title in (
        ("others", "other classes, AUROC [%]"),
        ("blot", "blot, AUROC [%]"),
        ("alarms", "false alarms [%]"),
    ):
        lines = []
        for name in dict.fromkeys(r["score"] for r in found if kind in r):
            own = [r for r in found if r["score"] == name]
            each = [[r[kind] for r in own if r["data"] == data] for data in sets]
            size = f"{own[0]['bytes'] / 2**20:.1f}" if own[0].get("bytes") else ""
            mean = [sum(values) / len(values) for values in zip(*each, strict=True)]
            lines.append([name, size, *(spread(values) for values in (*each, mean))])
        text += f"\n{title}\n\n{table(['score', 'MiB', *sets, 'mean'], lines)}"
    return text


def main() -> None:
    """Write one record per data set, seed and score, and print tables."""
    parser = arguments.parser(__doc__, "out", "weights", "seeds", pixels={"default": 70})
    parser.add_argument("--tiny", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--flat", type=Path, nargs="*", default=[], help="folders of class folders")
    parser.add_argument("--features", type=Path, required=True, help="a folder where what the network says is kept")
    asked = parser.parse_args()

    backbone = load_backbone(weights=asked.weights, img_size=asked.pixels)
    learners = StrataLearner(backbone, precision="bfloat16"), RidgeLearner(backbone, precision="bfloat16")
    found: list[dict[str, Any]] = records_in(asked.out)
    there = {(r["data"], r["seed"]) for r in found}
    for data, (files, classes, pool) in files_of(asked).items():
        if all((data, seed) in there for seed in asked.seeds):
            continue
        whole = read(learners[0], files, open_image, asked.features / f"{data}.pt")
        own = [path for path, c in zip(files, classes.tolist(), strict=True) if c < KINDS]
        blots = read(learners[0], own, blotted, asked.features / f"{data}-blots.pt")
        for seed in asked.seeds:
            if (data, seed) in there:
                continue
            records: list[dict[str, Any]] = []
            taken = seconds(lambda: records.extend(measured(learners, whole, blots, classes, pool, seed)))  # noqa: B023
            on = surroundings()
            found += [{"data": data, "seed": seed, **r, "pixels": asked.pixels, "on": on["processor"]} for r in records]
            asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{data}, seed {seed}: {taken:.0f} s", flush=True)
    print(tables(found))


if __name__ == "__main__":
    main()
