"""What the estimate of broken answers makes of mirror images, which `strata` learns as samples of their own.

    python benchmarks/gone_mirror.py --images DIR --weights FILE --out gone_mirror.json

Parts: a ViT with random weights learns three kinds of parts, and a fourth without the images of these, as on the page
"Your folder in five minutes". Images: of the first twelve classes of DIR, one folder each, four are learned, then two
others; a pretrained ViT at 98 px. Twelve images of each class are learned. What broke in the first classes is estimated
from sums alone (`IncrementalLearner.simulation`), and counted on other images of them, 100 of each part and all but 12
of each class; means of eight draws of classes and images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
from arguments import Out, Weights
from measuring import surroundings
from PIL import Image, ImageDraw
from remembered import remembering

import continual
from continual.backbones.loading import Backbone, load_backbone
from continual.lifecycle.review import DRAWN
from continual.seeding import generator

PARTS = {"bolt": (4, "slategray"), "ring": (40, "goldenrod"), "nut": (6, "sienna"), "shim": (3, "indigo")}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "image and mirror image, two samples (default)": ("strata", {}),
    "their mean, one sample": ("strata", {"mirror_as": "mean"}),
    "the image alone": ("strata", {"mirror": False}),
    "ridge, the image alone": ("ridge", {}),
}
PER_CLASS, TEST, DRAWS = 12, 100, 8
CLASSES, FIRST, LATER = 12, 4, 2

Labelled = tuple[list[Any], list[str]]


def photos(names: list[str], count: int, random: np.random.Generator) -> Labelled:
    """Draw so many photos of each part, each of which lies somewhere on a table."""
    images, labels = [], [name for name in names for _ in range(count)]
    for corners, colour in (PARTS[name] for name in labels):
        image = Image.fromarray(random.normal(200, 15, (64, 64, 3)).clip(0, 255).astype(np.uint8))
        x, y, radius, angle = random.integers([24, 24, 13, 0], [40, 40, 20, 360]).tolist()
        ImageDraw.Draw(image).regular_polygon((x, y, radius), corners, angle, colour, "black")
        images.append(image)
    return images, labels


def toy() -> Backbone:
    """Return a tiny ViT with random weights."""
    torch.manual_seed(0)
    shape = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 4, "num_heads": 4}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **shape).eval()
    return continual.assemble(vit, "vit_tiny_patch16_224", shape)


def shares(was: torch.Tensor, now: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Return which shares of answers were right, and broke, in percent."""
    known = was == truth
    return {"right": 100 * float(known.double().mean()), "broke": 100 * float((known & (now != truth)).double().mean())}


def parts(seed: int) -> tuple[Labelled, Labelled, Labelled]:
    """Return what is learned first and later, and what is asked about."""
    random, (*known, new) = np.random.default_rng(seed), PARTS
    return photos(known, PER_CLASS, random), photos([new], PER_CLASS, random), photos(known, TEST, random)


def files(folder: Path, seed: int) -> tuple[Labelled, Labelled, Labelled]:
    """Return the same of a folder's images."""
    random = np.random.default_rng(seed)
    places = sorted(place for place in folder.iterdir() if place.is_dir())[:CLASSES]
    chosen = [places[place] for place in random.permutation(len(places))[: FIRST + LATER]]
    own = {place.name: [str(path) for path in random.permutation(sorted(place.iterdir()))] for place in chosen}

    def taken(names: list[str], part: slice) -> Labelled:
        return [path for name in names for path in own[name][part]], [name for name in names for _ in own[name][part]]

    first, later = [*own][:FIRST], [*own][FIRST:]
    learned, others = slice(PER_CLASS), slice(PER_CLASS, None)
    return taken(first, learned), taken(later, learned), taken(first, others)


def draw(
    learner: continual.IncrementalLearner[Any], first: Labelled, later: Labelled, test: Labelled
) -> dict[str, dict[str, float]]:
    """Return what broke, counted and estimated, in one draw."""
    learner.learn(*first)
    before = learner.variant()
    learner.learn(*later)
    images, labels = test
    was, now = (learner.indices(one.predict(images).labels) for one in (before, learner))
    simulation = before.simulation(learner)
    assert simulation is not None
    drawn = [simulation(index, DRAWN, generator(0, "review", index)) for index in range(len(before.classes))]
    told = [torch.cat([answers[side] for answers in drawn]) for side in (0, 1)]
    own = torch.arange(len(before.classes)).repeat_interleave(DRAWN)
    return {"counted": shares(was, now, learner.indices(labels)), "estimated": shares(*told, own)}


def main(
    images: Annotated[Path, typer.Option(help="A folder with one folder per class.")], weights: Weights, out: Out
) -> None:
    """Write and print the means."""
    pretrained, found = remembering(load_backbone(weights=weights, img_size=98)), dict[str, Any]()
    for of, backbone in (("parts", toy()), (images.name, pretrained)):
        for name, (method, settings) in WAYS.items():
            sets = [parts(seed) if of == "parts" else files(images, seed) for seed in range(DRAWS)]
            draws = [draw(continual.method(method)(backbone, **settings), *one) for one in sets]
            found[f"{of}: {name}"] = own = {
                side: {key: float(np.mean([one[side][key] for one in draws])) for key in ("right", "broke")}
                for side in ("counted", "estimated")
            }
            print(of, name, json.dumps(own), flush=True)
    out.write_text(json.dumps({"surroundings": surroundings(), "means": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
