"""How often a cheap score finds the upright one of an image's views, and what it costs: orders of an any-time orbit.

    python benchmarks/anytime_orders.py --images DIR --cache CACHE --out anytime_orders.json [--seed 1993]

The cache is that of `anytime.py`, of images with train/ and test/. Scores are trained on upright training images
without labels: the small network of pixels, and a linear score of what early blocks say of a view, its class token and
mean patch, whose strength held-out images choose. A score of k blocks costs k/depth passes for every view; the blocks
of a view that is finished count once. `--more N` trains the small network on N images of every class of the half
"tune" as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from anytime import scored, scores
from anytime_views import BLOCKS, PARTS, Looked, looked
from arguments import Figures, Size, Weights
from measuring import surroundings
from real_streams import backbone_of, half_of
from torch import Tensor
from turned_images import find_upright

import equivariant as eq
from continual.data.inputs import open_image

Parts = dict[str, Looked]


def found(ordered: dict[str, Tensor], identity: int) -> dict[str, float]:
    """Return the share of images of each part whose view as given has the best score (n, |G|)."""
    return {name: float((values.argmax(1) == identity).double().mean()) for name, values in ordered.items()}


def linear(parts: Parts, place: int, identity: int) -> dict[str, float]:
    """Return how often a linear score of a block finds the upright view; of four strengths, the best of held-out."""
    seen = {name: part.means[:, :, place].flatten(2) for name, part in parts.items()}
    every = seen["train"].flatten(0, 1)
    seen = {name: (rows - every.mean(0)) / (every.std(0) + 1e-6) for name, rows in seen.items()}
    target = torch.full((len(seen["train"]),), identity)
    tried = []
    for strength in (1e-3, 1e-2, 1e-1, 1.0):
        weights = torch.zeros(every.shape[1], requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

        def loss(w: Tensor = weights, s: float = strength, o: Any = optimizer) -> Tensor:
            o.zero_grad()
            value = torch.nn.functional.cross_entropy(seen["train"] @ w, target) + s * w.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        tried.append(found({name: (rows @ weights).detach() for name, rows in seen.items()}, identity))
    return max(tried, key=lambda shares: shares["held_out"])


def of_more(parts: Parts, g: eq.FiniteGroup, seed: int, small: Tensor) -> dict[str, float]:
    """Return how often the small network finds it, trained on more upright images (n, 3, 32, 32) as well."""
    torch.manual_seed(seed)
    score = eq.ImageScore()
    find_upright(score, eq.orbit(g, torch.cat([parts["train"].small, small])), g.identity, seed)
    return found(scored(score, parts, g), g.identity)


def main(
    images: Annotated[Path, typer.Option(help="A folder with train/ and test/.")],
    cache: Annotated[Path, typer.Option(help="The cache of anytime.py.")],
    out: Figures,
    weights: Weights,
    group: str = "C4",
    seed: Annotated[list[int] | None, typer.Option(help="1993 and 1994 by default.")] = None,
    size: Size = 98,
    more: Annotated[int, typer.Option(help="Images of each class of the half 'tune', for the small network.")] = 0,
) -> None:
    """Measure, print and write."""
    g, records = eq.as_group(group), []
    backbone = backbone_of(weights, size)
    view = backbone.preprocessing.evaluation()
    files = [f for n in half_of(images, "tune") for f in sorted((images / "train" / n).iterdir())[:more]]
    small = [torch.nn.functional.adaptive_avg_pool2d(view(open_image(file)).float(), 32) for file in files]
    for s in seed or [1993, 1994]:
        parts = looked(cache / f"{images.name}-{s}-{g.name}", g, None, None)  # type: ignore[arg-type]
        rows = {"small network": (found(scores(parts, g, "trained", s), g.identity), 0.0)}
        for place, block in enumerate(BLOCKS):
            rows[f"block {block}"] = linear(parts, place, g.identity), g.order * block / backbone.depth
        if more:
            rows[f"small network, {len(small)} more images"] = of_more(parts, g, s, torch.stack(small)), 0.0
        for row, (shares, passes) in rows.items():
            records.append({"seed": s, "row": row, "passes": passes, **{n: shares[n] for n in PARTS}})
            print(json.dumps(records[-1]), flush=True)
    out.write_text(json.dumps({"ran on": surroundings(), "rows": records}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
