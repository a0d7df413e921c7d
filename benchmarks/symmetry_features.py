"""What a symmetry is worth on frozen features: which views are used, how they are weighed, and what is remembered.

    python benchmarks/symmetry_features.py --images DIR --weights FILE --out results.json

`DIR` holds train/CLASS and test/CLASS. The features of every view are computed once; on them, ridge regressions in
closed form (with penalty D/3, as `strata`) answer 20 classes in five experiences of four, drawn by a seed from the half
of the classes on which nothing was chosen. λ is the score of `continual.symmetry`, fitted to the first experience and
frozen, fitted again to Gaussians of all classes so far, one for each position, or to all images so far, which no
learner has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import arguments
import numpy as np
import torch
from real_streams import half_of
from safetensors.torch import load_file, save_file
from strata import answers
from torch import Tensor

import continual
from continual.data.inputs import PreparedImages
from continual.data.loaders import evaluation_loader
from continual.seeding import generator
from continual.statistics.class_statistics import fit
from continual.symmetry.equitune import Equitune
from continual.symmetry.lambda_equitune import LambdaEquitune
from continual.symmetry.views import content_order, group_named

#: images (n, |G|, D): features of all views, the image as given first
Views = Tensor
#: views -> features (n, D)
Pool = Callable[[Views], Tensor]


def every_view(paths: list[Path], weights: Path, size: int) -> dict[str, Tensor]:
    """Return features (n, 8, D) of all views under D4, as given first, and places (n, 8): their order by content."""
    backbone = continual.load_backbone(weights=weights, img_size=size)
    symmetry = Equitune(group_named("D4"))
    images = PreparedImages(paths, [0] * len(paths), backbone.preprocessing, augment=False)
    features, places = [], []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for batch, _ in evaluation_loader(images, 50):
            views = symmetry.views(batch)
            features.append(torch.stack([backbone.frozen.features(view) for view in views.unbind(1)], 1))
            places.append(content_order(views))
    return {"features": torch.cat(features), "places": torch.cat(places)}


def frame(places: Tensor, keep: int) -> Pool:
    """Return the mean over the first views of the content's order, of those that are there."""

    def pool(views: Views) -> Tensor:
        own = places[places < views.shape[1]].reshape(len(views), -1)[:, :keep]
        return views[torch.arange(len(views))[:, None], own].mean(1)

    return pool


def weighed(described: Views) -> Pool:
    """Return the mean weighed by a score that is fitted to these views."""
    group = group_named("C4" if described.shape[1] == 4 else "D4")
    learned = LambdaEquitune(group).fit(described, torch.zeros(len(described), dtype=torch.int64))
    symmetry = LambdaEquitune(group, fitted=learned)
    return lambda views: symmetry.mean(views.flatten(0, 1), views.shape[1], None)


def drawn(views: Views, labels: Tensor, seed: int) -> Views:
    """Return views drawn from Gaussians of each class in each position, as many as there are."""
    draw, found = generator(seed, "views"), torch.empty_like(views)
    for c in labels.unique():
        rows = labels == c
        for place in range(views.shape[1]):
            known = fit(views[rows, place], "low_rank").sampler(1e-4)
            found[rows, place] = known.draw(int(rows.sum()), draw).to(found.dtype)
    return found


def rows(
    x: Views, y: Tensor, x_places: Tensor, z_places: Tensor, first: Tensor, seed: int
) -> Iterator[tuple[str, Pool | None, Pool | None, Pool]]:
    """Yield name, what is remembered of training images (None: every view), and what test images are asked by."""
    order = x.shape[1]
    given: Pool = lambda views: views[:, 0]  # noqa: E731
    mean: Pool = lambda views: views.mean(1)  # noqa: E731
    yield "plain", given, given, given
    yield "rotation augmentation", None, None, given
    yield "all views, means remembered", mean, mean, mean
    for keep in range(1, order):
        yield f"frame of {keep}, views remembered", None, None, frame(z_places, keep)
    yield "frame of 3, means remembered", frame(x_places, 3), None, frame(z_places, 3)
    yield "all views, views remembered", None, None, mean
    for name, pool in (
        ("first experience", weighed(x[first])),
        ("Gaussians so far", weighed(drawn(x, y, seed))),
        ("images so far", weighed(x)),
    ):
        yield f"λ of the {name}, means remembered", pool, pool, pool
        yield f"λ of the {name}, views remembered", None, None, pool


def main() -> None:
    """Extract once, then solve; prints a table and writes every figure of every seed."""
    parser = arguments.parser(__doc__, "images", "weights", "per_class", "seeds", "out", size={"default": 70})
    parser.add_argument("--features", type=Path, help="keeps the features for the next call with the same images")
    asked = parser.parse_args()

    chosen = half_of(asked.images, "report")
    found, labels = {}, {}
    for part in ("train", "test"):
        groups = [sorted((asked.images / part / name).iterdir()) for name in chosen]
        groups = [own[: asked.per_class] for own in groups] if part == "train" else groups
        labels[part] = torch.tensor([c for c, own in enumerate(groups) for _ in own])
        kept = None if asked.features is None else asked.features.with_suffix(f".{part}.safetensors")
        if kept is not None and kept.is_file():
            found[part] = load_file(kept)
            continue
        found[part] = every_view([p for own in groups for p in own], asked.weights, asked.size)
        if kept is not None:
            save_file(found[part], kept)

    records = []
    for group, order in (("C4", 4), ("D4", 8)):
        for seed in asked.seeds:
            position = torch.from_numpy(np.random.RandomState(seed).permutation(len(chosen))).argsort()
            kept_rows = {part: position[labels[part]] < 20 for part in labels}
            x, z = (found[part]["features"][kept_rows[part]][:, :order] for part in ("train", "test"))
            x_places, z_places = (found[part]["places"][kept_rows[part]] for part in ("train", "test"))
            y, truth = (position[labels[part]][kept_rows[part]] for part in ("train", "test"))
            for name, remembered, _, asked_by in rows(x, y, x_places, z_places, y < 4, seed):
                if remembered is None:
                    known, own = x.flatten(0, 1), y.repeat_interleave(order)
                else:
                    known, own = remembered(x), y
                values = answers(known, own, asked_by(z), 20, known.shape[1] / 3)
                record = {"group": group, "seed": seed, "row": name}
                record["upright"] = float((values.argmax(1) == truth).float().mean())
                if name in ("plain", "rotation augmentation"):
                    each = [
                        answers(known, own, z[:, g], 20, known.shape[1] / 3).argmax(1) == truth for g in range(order)
                    ]
                    record["turned"] = float(torch.stack(each).float().mean())
                records.append(record)
        asked.out.write_text(json.dumps(records, indent=1))
        print(table([r for r in records if r["group"] == group], group), flush=True)


def table(records: list[dict[str, object]], group: str) -> str:
    """Return a Markdown table, mean and deviation over seeds; what is invariant has the same accuracy transformed."""
    lines = [f"| {group} | upright [%] | transformed [%] |", "| --- | ---: | ---: |"]
    for row in dict.fromkeys(str(r["row"]) for r in records):
        cells = []
        for column in ("upright", "turned"):
            values = 100 * np.array([r.get(column, r["upright"]) for r in records if r["row"] == row], dtype=float)
            cells.append(f"{values.mean():.1f} ± {values.std(ddof=1):.1f}")
        lines.append(f"| {row} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
