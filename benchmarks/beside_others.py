"""Beside `ttach` and `equiadapt`, at equal passes: accuracy in every position, passes and processor time.

    pip install ttach equiadapt
    python benchmarks/beside_others.py --images DIR --weights FILE --cache DIR --out beside_others_SET.json [--group D4]

Images, heads and remembered features are those of `anytime.py` (run it first). All rows have the same head, of all
views, or one of upright images. `ttach` averages class scores over the first 1, 2, 4, ... of quarter turns (0, 180, 90
and 270 degrees) and, of D4, their mirror images. `equiadapt` chooses one view by a group-equivariant network of small
pictures (its `GroupEquivariantImageCanonicalization`), trained here by its own prior loss to leave upright training
images as they are; which view it chose is found by the pixels, and its features are looked up. Any-time orbits are
asked for as many passes in the mean, chosen on held-out images. Time is processor time of one thread for eight images
of the whole models, over plain's, in float32, the median of three.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer
from anytime import First, Views, distilled, scores
from anytime_views import PARTS, Looked, looked, study
from arguments import Figures, Size, Weights
from torch import Tensor, nn
from turned_images import network

import equivariant as eq
from equivariant.tuning.orbit_cache import CachedOrbit

Figure = dict[str, float]


def canonicaliser(g: eq.FiniteGroup, images: Tensor, seed: int, epochs: int = 8) -> Any:
    """Return equiadapt's canonicaliser of small pictures, trained on upright ones (n, 3, 32, 32)."""
    from equiadapt.images.canonicalization.discrete_group import GroupEquivariantImageCanonicalization
    from equiadapt.images.canonicalization_networks.escnn_networks import ESCNNEquivariantNetwork

    torch.manual_seed(seed)
    kind = "rotation" if g.order == 4 else "roto-reflection"
    chooser = ESCNNEquivariantNetwork((3, 32, 32), 16, 5, group_type=kind, num_rotations=4, num_layers=3)
    settings = SimpleNamespace(beta=1.0, input_crop_ratio=1.0, resize_shape=32)
    made = GroupEquivariantImageCanonicalization(chooser, settings, (3, 32, 32))
    optimizer = torch.optim.AdamW(made.parameters(), 3e-3)
    made.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            made(images[rows])
            made.get_prior_regularization_loss().backward()
            optimizer.step()
    return made.eval()


@torch.no_grad()
def chosen_views(g: eq.FiniteGroup, made: Any, images: Tensor) -> Tensor:
    """Return which view (n, |G|) equiadapt takes of images (n, 3, 32, 32) in every position."""
    views = eq.orbit(g, images)
    found = torch.stack([made(view) for view in views])  # (|G|, n, …), each canonical
    distance = (found[:, None] - views[None]).flatten(3).square().mean(3)  # (position, view, n)
    return distance.argmin(1).T


def measured(g: eq.FiniteGroup, answers: Tensor, labels: Tensor, passes: float) -> Figure:
    """Return the figures of answers (n, |G|)."""
    right = (answers == labels[:, None]).double()
    same = (answers == answers[:, :1]).all(1).double()
    shares = {"upright": right[:, g.identity], "transformed": right.mean(1), "same": same}
    return {name: float(share.mean()) for name, share in shares.items()} | {"passes": passes}


def averaged(g: eq.FiniteGroup, logits: Tensor, passes: int) -> Tensor:
    """Return `ttach`'s answers (n, |G|) by its first views, of class scores (n, |G|, C) of every view."""
    first = torch.tensor([0, 2, 1, 3, *range(4, g.order)][:passes])
    product = torch.tensor(g.table)
    return torch.stack([logits[:, product[first, moved]].mean(1).argmax(1) for moved in range(g.order)], 1)


def ours(views: Views, ordered: dict[str, Tensor], head: nn.Linear, passes: float) -> Figure:
    """Return the figures of an any-time orbit: of one pass the first view, and those that tie with it."""
    data = {name: torch.cat([views.features[name], ordered[name][..., None]], 2) for name in PARTS}
    g, score = views.group, First(views.group.identity, -1)
    model = nn.Sequential(First(g.identity, slice(-1)), head)
    wrapper = eq.AnytimeOrbit(model, g, score=score, input=CachedOrbit(), output=eq.Trivial())
    if passes == 1:
        wrapper.limit.fill_(inf)
    else:
        wrapper.fit_limit(data["held_out"], passes=passes)
    return views.measured(wrapper.eval(), data)


def seconds(model: Callable[[Tensor], Any], images: Tensor) -> float:
    """Return the median processor time of three answers."""
    found = []
    with torch.no_grad():
        for _ in range(4):
            begun = time.process_time()
            model(images)
            found.append(time.process_time() - begun)
    return statistics.median(found[1:])


def rows(g: eq.FiniteGroup, parts: dict[str, Looked], seed: int) -> tuple[dict[str, Figure], Any, nn.Linear]:
    """Return the figures of every row, equiadapt's canonicaliser, and the head of all views."""
    labels = {name: part.labels for name, part in parts.items()}
    views, truth = Views(g, {name: part.final for name, part in parts.items()}, labels), labels["test"]
    made = canonicaliser(g, parts["train"].small, seed)
    chosen, found = chosen_views(g, made, parts["test"].small), {}
    asked = [2**n for n in range(g.order.bit_length())]
    for name, upright in (("upright head", True), ("head of all views", False)):
        head = views.head(upright)
        logits = head(parts["test"].final)
        found[f"equiadapt, {name}"] = measured(g, logits.argmax(2).gather(1, chosen), truth, 1)
        for passes in asked:
            found[f"ttach, {passes}, {name}"] = measured(g, averaged(g, logits, passes), truth, passes)
    near = Views(g, distilled(parts), labels)
    made_of = {"": (views, head), ", distilled": (near, near.head(False))}
    for order in ("untrained", "trained"):
        ordered = scores(parts, g, order, seed)
        for name, (own, its) in made_of.items():
            for passes in asked[:-1]:
                found[f"any-time, {passes}, {order} order{name}"] = ours(own, ordered, its, passes)
    return found, made, head


def main(
    images: Annotated[Path, typer.Option(help="A folder with train/ and test/, or with one folder per class.")],
    weights: Weights,
    cache: Annotated[Path, typer.Option(help="The cache of anytime.py.")],
    out: Figures,
    group: Annotated[str, typer.Option(help="C4 or D4.")] = "C4",
    seed: int = 1993,
    size: Size = 98,
    classes: int = 25,
    per_class: int = 25,
) -> None:
    """Measure, and print a table."""
    import ttach

    vit, preparation = network("vit", weights, size)
    g = eq.as_group(group)
    place = cache / f"{images.name}-{seed}-{g.name}"
    parts = looked(place, g, lambda: study(images, seed, classes, per_class, preparation), lambda: vit)
    found, made, head = rows(g, parts, seed)
    eight = nn.functional.interpolate(parts["test"].small[:8], size, mode="bilinear")
    whole, small = nn.Sequential(vit, head), nn.AdaptiveAvgPool2d(32)
    base = seconds(whole, eight)
    mirrored = [ttach.HorizontalFlip()] if g.order == 8 else []
    for passes in (2**n for n in range(g.order.bit_length())):
        turns = ttach.Rotate90([0, 180, 90, 270][:passes])
        averaging = ttach.ClassificationTTAWrapper(whole, ttach.Compose([*(mirrored if passes == 8 else []), turns]))
        sure = eq.AnytimeOrbit(whole, g, output=eq.Trivial()).eval()
        if passes == 1:
            sure.limit.fill_(inf)
        elif passes < g.order:
            sure.fit_limit(eight, passes=passes)
        timed = {f"ttach, {passes},": averaging, f"any-time, {passes},": sure}
        if passes == 1:
            timed["equiadapt"] = lambda x: (made(small(x)), whole(x))
        for name, model in timed.items():
            ratio = seconds(model, eight) / base
            for row in found:
                found[row] |= {"time": ratio} if row.startswith(name) else {}
    every = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps(every | {str(seed): found}, indent=1) + "\n", encoding="utf-8")
    print(
        "| | upright [%] | transformed [%] | same answer [%] | passes | time |\n| --- | --: | --: | --: | --: | --: |"
    )
    for row, figures in found.items():
        cells = [f"{100 * figures[key]:.1f}" for key in ("upright", "transformed", "same")]
        print(f"| {row} | {' | '.join(cells)} | {figures['passes']:.2f} | {figures.get('time', 1):.1f} |")


if __name__ == "__main__":
    typer.run(main)
