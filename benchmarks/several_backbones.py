r"""Features of two frozen networks side by side, beside each alone and beside the sum of two models' values.

    python benchmarks/several_backbones.py --weights VIT LITE0 --names "" tf_efficientnet_lite0 --sizes 98 128 \
        --tiny TINY --cifar CIFAR --flat AID PLANKTON --features CACHE --out several_backbones.json

`TINY` (its reporting half, see `strata.py`) and `CIFAR` hold train/CLASS and test/CLASS: a seed draws which training
images of each class are learned, of the first `POOL`, and all test images are asked about. Folders CLASS/image of
`--flat` are cut by every seed into the images that are learned and the others. What each network says is read once and
kept in `CACHE`. As the regressions do not depend on the order of classes, there is one figure a draw: the accuracy over
all classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import arguments
import torch
from measuring import seconds, spread, table
from real_streams import half_of
from strata import answers
from torch import Tensor

from continual.backbones.joined import levelled
from continual.backbones.loading import load_backbone
from continual.data.images import open_image
from continual.learning.extractor import Extractor
from continual.methods.strata import StrataLearner
from continual.seeding import generator
from continual.statistics.head import cosine_scores
from continual.statistics.ridge import GramStatistics, expected_best, solve

#: what one network says of images: tokens (n, 2, D') of image and mirror image, features (n, D); and classes (n,)
Read = dict[str, Tensor]
#: images learned of each class
PER_CLASS = {"tiny_imagenet": 20, "cifar10": 30, "aid": 20, "plankton": 20}
#: training images of each class, the first by name, from which a seed draws
POOL = {"tiny_imagenet": 40, "cifar10": 60}


def read(learner: StrataLearner, files: list[tuple[Path, int]], place: Path) -> Read:
    """Return what a network says of image files, from `place` if it is kept there."""
    if not place.is_file():
        view, extractor = learner.preprocessing.evaluation(), learner.extractor
        found: dict[str, list[Tensor]] = {"tokens": [], "features": []}
        for first in range(0, len(files), 64):
            batch = torch.stack([view(open_image(path)) for path, _ in files[first : first + 64]])
            with torch.no_grad():
                found["tokens"].append(torch.stack(list(learner.learned_features(extractor, batch)), 1))
                found["features"].append(plain(extractor, batch))
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: torch.cat(parts) for name, parts in found.items()}, place)
    return {**torch.load(place, weights_only=True), "classes": torch.tensor([c for _, c in files])}


def plain(extractor: Extractor, batch: Tensor) -> Tensor:
    """Return the features (B, D) as the network gives them."""
    return extractor.features(batch)


def milliseconds(learner: StrataLearner, images: int = 16, rounds: int = 5) -> float:
    """Return the processor time of one image's pass."""
    batch = torch.zeros(images, *learner.preprocessing.shape)
    with torch.no_grad():
        taken = [seconds(lambda: learner.extractor.features(batch)) for _ in range(rounds + 1)]
    return 1000 * min(taken[1:]) / images


def drawn(classes: Tensor, trainable: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return places of `count` images of each class that a seed learns, and of those that are asked about.

    Where some images are for training alone, the others are asked about; else those that are not learned.
    """
    order = torch.randperm(len(classes), generator=generator(seed, "split"))
    order = order[trainable[order]]
    place = torch.stack([(classes[order] == c).cumsum(0) for c in range(int(classes.max()) + 1)])
    learned = order[place[classes[order], torch.arange(len(order))] <= count]
    asked = torch.ones(len(classes), dtype=torch.bool)
    asked[learned if bool(trainable.all()) else trainable] = False
    return learned, asked.nonzero().squeeze(1)


def strata(tokens: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    """Return strata's values: image and mirror image are samples that weigh half, asked about is their mean."""
    rows, labels, width = tokens.flatten(0, 1), y.repeat_interleave(2), tokens.shape[2]
    return answers(rows, labels, asked.mean(1), int(y.max()) + 1, 2 * width / 3)


def ridge(features: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    """Return the values of `ridge`."""
    sums = GramStatistics.of(features, y, int(y.max()) + 1)
    return solve(sums, expected_best(sums), standardise=True)(asked.double())


def simple_cil(features: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    """Return cosines to class means."""
    return cosine_scores(asked, torch.stack([features[y == c].mean(0) for c in range(int(y.max()) + 1)]))


#: method -> (what it reads, how that of several networks is put side by side, its values)
METHODS: Mapping[str, tuple[str, Callable[[list[Tensor]], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "strata": ("tokens", lambda parts: torch.cat(parts, -1), strata),
    "ridge": ("features", levelled, ridge),
    "simple_cil": ("features", levelled, simple_cil),
}


def records(parts: Mapping[str, Read], trainable: Tensor, count: int, seed: int) -> list[dict[str, Any]]:
    """Return accuracies [%] by method and by what is read."""
    classes = next(iter(parts.values()))["classes"]
    learned, asked = drawn(classes, trainable, count, seed)
    y, truth, found = classes[learned], classes[asked], []
    for method, (kind, beside, values) in METHODS.items():
        alone = {name: values(own[kind][learned], y, own[kind][asked]) for name, own in parts.items()}
        both = [beside([own[kind][rows] for own in parts.values()]) for rows in (learned, asked)]
        rows = {**alone, "side by side": values(both[0], y, both[1]), "sum of values": sum(alone.values())}
        for row, own in rows.items():
            right = 100 * float((torch.as_tensor(own).argmax(1) == truth).float().mean())
            found.append({"method": method, "row": row, "seed": seed, "accuracy": right})
    return found


def files_of(asked: Any) -> dict[str, tuple[list[tuple[Path, int]], Tensor]]:
    """Return by data set: image files with class indices, and which of them may be learned (n,)."""
    found = {}
    for name, folder, half in (("tiny_imagenet", asked.tiny, "report"), ("cifar10", asked.cifar, "all")):
        if folder is not None:
            names = list(enumerate(sorted(half_of(folder, half))))
            most = {"train": POOL[name], "test": None}
            places = [(c, s, folder / s / n) for s in most for c, n in names]
            listed = [(p, c, s) for c, s, place in places for p in sorted(place.iterdir())[: most[s]]]
            found[name] = [(p, c) for p, c, _ in listed], torch.tensor([s == "train" for *_, s in listed])
    for folder in asked.flat:
        own = enumerate(sorted(p for p in folder.iterdir() if p.is_dir()))
        listed = [(p, c) for c, place in own for p in sorted(place.iterdir())]
        found[folder.name] = listed, torch.ones(len(listed), dtype=torch.bool)
    return found


def tables(found: list[dict[str, Any]]) -> str:
    """Return a Markdown table per method, rows by data set and their mean; gains over the better network, paired."""
    text = ""
    sets = list(dict.fromkeys(r["data"] for r in found))
    for method in METHODS:
        value = {(r["data"], r["row"], r["seed"]): r["accuracy"] for r in found if r["method"] == method}
        rows, seeds = list(dict.fromkeys(row for _, row, _ in value)), sorted({seed for *_, seed in value})
        for seed in seeds:
            value |= {("mean", row, seed): sum(value[d, row, seed] for d in sets) / len(sets) for row in rows}
        lines = []
        for data in (*sets, "mean"):
            each = {row: [value[data, row, seed] for seed in seeds] for row in rows}
            better = max(rows[:2], key=lambda row: sum(each[row]))
            gains = [[a - b for a, b in zip(each[row], each[better], strict=True)] for row in rows[2:]]
            lines.append([data, *(spread(own) for own in each.values()), *(spread(own, "+.1f") for own in gains)])
        text += f"\n{method}\n\n{table(['data', *rows, *(f'gain, {row}' for row in rows[2:])], lines)}"
    return text


def main() -> None:
    """Write one record per data set, method, row and seed, and print tables."""
    parser = arguments.parser(__doc__, "out", weights={"nargs": 2}, seeds={"default": [1993, 1994, 1995, 1996, 1997]})
    parser.add_argument("--names", nargs=2, default=["", ""], help='timm\'s names; "" where the weights file has it')
    parser.add_argument("--sizes", type=int, nargs=2, default=[98, 128], help="pixels")
    parser.add_argument("--tiny", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--flat", type=Path, nargs="*", default=[], help="folders of class folders")
    parser.add_argument("--features", type=Path, required=True, help="a folder where tokens and features are kept")
    asked = parser.parse_args()

    given = zip(asked.weights, asked.names, asked.sizes, strict=True)
    made = [load_backbone(name or None, weights=file, img_size=size) for file, name, size in given]
    learners = {one.name: StrataLearner(one, precision="bfloat16") for one in made}
    for name, one in learners.items():
        exact = milliseconds(one.variant(precision="float32"))
        print(f"{name}: {exact:.1f} ms a pass, {milliseconds(one):.1f} in bfloat16", flush=True)
    found: list[dict[str, Any]] = []
    for data, (files, trainable) in files_of(asked).items():
        parts = {n: read(one, files, asked.features / f"{data}-{n}.pt") for n, one in learners.items()}
        for seed in asked.seeds:
            found += [{"data": data, **r} for r in records(parts, trainable, PER_CLASS[data], seed)]
            asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{data}, seed {seed}", flush=True)
    print(tables(found))


if __name__ == "__main__":
    main()
