"""Accuracy against passes: an any-time orbit, its order and its features, beside plain, equitune and λ-equitune.

    python benchmarks/anytime.py --images DIR --weights FILE --cache DIR --out anytime_SET.json [--group D4]

DIR holds train/ and test/, as for `turned_images.py`, whose protocol this is, or one folder per class. The network is
frozen, and what it says of every view is kept in the cache. Heads are logistic regressions: "upright head" on training
images as they are, "all views" on every view. The held-out images choose λ, and when an any-time orbit stops for each
mean number of passes. Views are scored by a small network of pixels: untrained, which is any order that content
decides, or trained to find the upright view of the training images; "upright first" knows it. "Distilled" features are
`distil_orbit`'s, of the training images. Rows are the wrappers themselves, on remembered features.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from anytime_views import PARTS, Looked, looked, study
from arguments import Figures, Size, Weights
from torch import Tensor, nn
from turned_images import find_upright, network

import equivariant as eq
from continual.experiments.equivariance.study import linear_head
from equivariant.tuning.distillation import Sums, chosen_map
from equivariant.tuning.orbit_cache import CachedOrbit

PASSES = (1.1, 1.2, 1.4, 1.6, 2.0, 2.5, 3.0, 4.0, 6.0)


class First(nn.Module):
    """What is remembered of the view as given: the features, or the score beside them."""

    def __init__(self, identity: int, place: slice | int) -> None:
        super().__init__()
        self.identity, self.place = identity, place

    def forward(self, cache: Tensor) -> Tensor:
        return cache[:, self.identity, self.place]


@dataclass(frozen=True)
class Views:
    """Features of all views of the parts of a study, (n, |G|, D), and classes."""

    group: eq.FiniteGroup
    features: dict[str, Tensor]
    labels: dict[str, Tensor]

    def head(self, upright: bool) -> nn.Linear:
        """Return a head fitted to the training images, as they are or every view of them."""
        features, labels = self.features["train"], self.labels["train"]
        seen = features[:, [self.group.identity]] if upright else features
        rows = seen.flatten(0, 1).numpy(), labels.repeat_interleave(seen.shape[1]).numpy()
        return linear_head(*rows, int(labels.max()) + 1)

    def measured(self, model: nn.Module, data: dict[str, Tensor] | None = None) -> dict[str, float]:
        """Return what a model of caches answers on the test images, and its passes."""
        given = (data or self.features)["test"], self.labels["test"]
        with torch.no_grad():
            answers = eq.orbit_answers(model, self.group, given[0], input=CachedOrbit())
        right = (answers == given[1]).double().mean(1)
        found = eq.evaluate(model, given, self.group, input=CachedOrbit(), batch_size=len(given[1]))
        upright = float(right[self.group.identity])
        same = eq.orbit_consistency(answers)
        return {"upright": upright, "transformed": float(right.mean()), "same": same, "passes": found.passes}


def scores(parts: dict[str, Looked], g: eq.FiniteGroup, order: str, seed: int) -> dict[str, Tensor]:
    """Return a score of every view (n, |G|) of each part, by which they are ordered."""
    if order == "upright first":
        return {name: torch.eye(g.order)[g.identity].expand(len(part.labels), -1) for name, part in parts.items()}
    torch.manual_seed(seed)
    score = eq.ImageScore()
    if order == "trained":
        find_upright(score, eq.orbit(g, parts["train"].small), g.identity, seed)
    return scored(score, parts, g)


@torch.no_grad()
def scored(score: nn.Module, parts: dict[str, Looked], g: eq.FiniteGroup) -> dict[str, Tensor]:
    """Return what a network of small images says of every view (n, |G|) of each part."""
    return {
        name: score(eq.orbit(g, part.small).flatten(0, 1)).unflatten(0, (g.order, -1)).T for name, part in parts.items()
    }


def distilled(parts: dict[str, Looked]) -> dict[str, Tensor]:
    """Return features of all views as `distil_orbit` gives them, after blocks 8 and 11, fitted to training images."""
    rows = {name: torch.cat([part.means[:, :, 3:].flatten(2), part.final], 2) for name, part in parts.items()}
    goals, last = parts["train"].final.double().mean(1), torch.arange(len(parts["train"].labels)) % 5 == 4
    train = rows["train"].double().transpose(0, 1)
    weight, bias = chosen_map(*(Sums.of(train[:, own], goals[own]) for own in (~last, last)))
    return {name: (row.double() @ weight.T + bias).float() for name, row in rows.items()}


def anytime(views: Views, ordered: dict[str, Tensor], head: nn.Linear) -> Iterator[tuple[float, dict[str, float]]]:
    """Yield what an any-time orbit measures for each mean number of passes."""
    data = {name: torch.cat([views.features[name], ordered[name][..., None]], 2) for name in PARTS}
    identity = views.group.identity
    model = nn.Sequential(First(identity, slice(-1)), head)
    wrapper = eq.AnytimeOrbit(model, views.group, score=First(identity, -1), input=CachedOrbit(), output=eq.Trivial())
    for passes in PASSES:
        if passes <= views.group.order:
            wrapper.fit_limit(data["held_out"], passes=passes)
            yield passes, views.measured(wrapper.eval(), data)


def weighted(views: Views, head: nn.Linear, seed: int) -> nn.Module:
    """Return λ-equitune with λ trained through the loss, as in `turned_images.py`."""
    torch.manual_seed(seed)
    model = First(views.group.identity, slice(None))
    options = {"input": CachedOrbit(), "output": eq.Trivial(), "width": head.in_features}
    wrapper = eq.LambdaEquitune(model, views.group, head=head, **options)
    recipe = eq.Recipe((eq.Stage("weights", 200, 1e-3, weight_decay=1e-2),), validate_every=10, seed=seed, turn=False)
    eq.tune(wrapper, *((views.features[name], views.labels[name]) for name in ("train", "held_out")), recipe)
    return wrapper


def rows(parts: dict[str, Looked], g: eq.FiniteGroup, seed: int, known: Container[str]) -> Iterator[tuple[str, Any]]:
    """Yield the figures of every row that is not known."""
    labels = {name: part.labels for name, part in parts.items()}
    views = Views(g, {name: part.final for name, part in parts.items()}, labels)
    options = {"input": CachedOrbit(), "output": eq.Trivial()}
    heads = {"upright head": views.head(True), "all views": views.head(False)}
    for name, head in heads.items():
        model = nn.Sequential(First(g.identity, slice(None)), head)
        if f"λ-equitune, {name}" not in known:
            yield f"plain, {name}", views.measured(model)
            yield f"equitune, {name}", views.measured(eq.Equitune(model, g, **options))
            yield f"λ-equitune, {name}", views.measured(weighted(views, head, seed))
    near = Views(g, distilled(parts), labels)
    made = {"": (views, heads["all views"]), ", distilled": (near, near.head(False))}
    for order in ("untrained", "trained", "upright first"):
        ordered = scores(parts, g, order, seed)
        for name, (own, head) in made.items():
            if f"any-time, {order}{name}" not in known:
                yield f"any-time, {order}{name}", dict(anytime(own, ordered, head))


def main(
    images: Annotated[Path, typer.Option(help="A folder with train/ and test/, or with one folder per class.")],
    weights: Weights,
    cache: Annotated[Path, typer.Option(help="A folder that keeps what the network says.")],
    out: Figures,
    group: Annotated[str, typer.Option(help="C4 or D4, say.")] = "C4",
    seed: Annotated[list[int] | None, typer.Option(help="Of classes, splits and scores; 1993 by default.")] = None,
    size: Size = 98,
    classes: int = 25,
    per_class: Annotated[int, typer.Option(help="Images of each class, every fifth held out.")] = 25,
) -> None:
    """Measure what is not in the file of figures yet."""
    found = json.loads(out.read_text()) if out.exists() else {}
    g, made = eq.as_group(group), lru_cache(lambda: network("vit", weights, size))
    for s in seed or [1993]:
        own = found.setdefault(str(s), {})
        parts = looked(
            cache / f"{images.name}-{s}-{g.name}",
            g,
            lambda s=s: study(images, s, classes, per_class, made()[1]),  # type: ignore[misc]
            lambda: made()[0],
        )
        for row, figures in rows(parts, g, s, own):
            own[row] = figures
            print(s, row, json.dumps(figures), flush=True)
            out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
