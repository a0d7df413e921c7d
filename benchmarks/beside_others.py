"""Beside `ttach` and `equiadapt`: accuracy in every position, passes and processor time, on the same images and heads.

    pip install ttach equiadapt
    python benchmarks/beside_others.py --images DIR --weights FILE --cache DIR --out beside_others.json

Images, heads and remembered features are those of `anytime.py` (run it first), C4. `ttach` averages class scores over
quarter turns. `equiadapt` chooses one view by a group-equivariant network of small pictures (its
`GroupEquivariantImageCanonicalization`), trained here by its own prior loss to leave upright training images as they
are; which view it chose is found by the pixels, and its features are looked up. Time is processor time of one thread
for eight images of the whole models, over plain's, in float32, the median of three.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
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

G = eq.as_group("C4")
Figure = dict[str, float]


def canonicaliser(images: Tensor, seed: int, epochs: int = 8) -> Any:
    """Return equiadapt's canonicaliser of small pictures, trained on upright ones (n, 3, 32, 32)."""
    from equiadapt.images.canonicalization.discrete_group import GroupEquivariantImageCanonicalization
    from equiadapt.images.canonicalization_networks.escnn_networks import ESCNNEquivariantNetwork

    torch.manual_seed(seed)
    chooser = ESCNNEquivariantNetwork((3, 32, 32), 16, 5, group_type="rotation", num_rotations=4, num_layers=3)
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
def chosen_views(made: Any, images: Tensor) -> Tensor:
    """Return which view (n, |G|) equiadapt takes of images (n, 3, 32, 32) in every position."""
    views = eq.orbit(G, images)
    found = torch.stack([made(view) for view in views])  # (|G|, n, …), each canonical
    distance = (found[:, None] - views[None]).flatten(3).square().mean(3)  # (position, view, n)
    return distance.argmin(1).T


def measured(answers: Tensor, labels: Tensor, passes: float) -> Figure:
    """Return the figures of answers (n, |G|)."""
    right = (answers == labels[:, None]).double()
    same = (answers == answers[:, :1]).all(1).double()
    shares = {"upright": right[:, G.identity], "transformed": right.mean(1), "same": same}
    return {name: float(share.mean()) for name, share in shares.items()} | {"passes": passes}


def ours(views: Views, ordered: dict[str, Tensor], head: nn.Linear, passes: float) -> Figure:
    """Return the figures of an any-time orbit."""
    data = {name: torch.cat([views.features[name], ordered[name][..., None]], 2) for name in PARTS}
    model = nn.Sequential(First(G.identity, slice(-1)), head)
    wrapper = eq.AnytimeOrbit(
        model, G, score=First(G.identity, -1), input=CachedOrbit(), output=eq.Trivial(), passes=passes
    )
    wrapper.fit_limit(data["held_out"])
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


def rows(parts: dict[str, Looked], seed: int) -> tuple[dict[str, Figure], Any, nn.Linear]:
    """Return the figures of every row, equiadapt's canonicaliser, and the head of all views."""
    labels = {name: part.labels for name, part in parts.items()}
    views, truth = Views(G, {name: part.final for name, part in parts.items()}, labels), labels["test"]
    made = canonicaliser(parts["train"].small, seed)
    chosen, found = chosen_views(made, parts["test"].small), {}
    for name, upright in (("upright head", True), ("head of all views", False)):
        head = views.head(upright)
        logits = head(parts["test"].final)
        found[f"plain, {name}"] = measured(logits.argmax(2), truth, 1)
        mean = logits.mean(1).argmax(1)[:, None].expand(-1, G.order)
        found[f"ttach, mean, {name}"] = measured(mean, truth, G.order)
        taken = logits.argmax(2).gather(1, chosen)
        found[f"equiadapt, {name}"] = measured(taken, truth, 1)
    near, ordered = Views(G, distilled(parts), labels), scores(parts, G, "trained", seed)
    found["any-time, 1.4 passes"] = ours(views, ordered, head, 1.4)
    found["any-time, distilled, 1.4 passes"] = ours(near, ordered, near.head(False), 1.4)
    return found, made, head


def main(
    images: Annotated[Path, typer.Option(help="A folder with train/ and test/, or with one folder per class.")],
    weights: Weights,
    cache: Annotated[Path, typer.Option(help="The cache of anytime.py.")],
    out: Figures,
    seed: int = 1993,
    size: Size = 98,
    classes: int = 25,
    per_class: int = 25,
) -> None:
    """Measure, and print a table."""
    import ttach

    vit, preparation = network("vit", weights, size)
    place = cache / f"{images.name}-{seed}-C4"
    parts = looked(place, G, lambda: study(images, seed, classes, per_class, preparation), lambda: vit)
    found, made, head = rows(parts, seed)
    eight = nn.functional.interpolate(parts["test"].small[:8], size, mode="bilinear")
    whole = nn.Sequential(vit, head)
    quarters = ttach.ClassificationTTAWrapper(whole, ttach.Compose([ttach.Rotate90([0, 90, 180, 270])]))
    sure = eq.AnytimeOrbit(whole, G, output=eq.Trivial()).eval()
    sure.fit_limit(eight, passes=1.5)
    small = nn.AdaptiveAvgPool2d(32)
    timed = {
        "ttach": quarters,
        "equiadapt": lambda x: (made(small(x)), whole(x)),
        "any-time": sure,
    }
    base = seconds(whole, eight)
    for name, model in timed.items():
        ratio = seconds(model, eight) / base
        for row in found:
            found[row] |= {"time": ratio} if row.startswith(name) else {}
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(
        "| | upright [%] | transformed [%] | same answer [%] | passes | time |\n| --- | --: | --: | --: | --: | --: |"
    )
    for row, figures in found.items():
        cells = [f"{100 * figures[key]:.1f}" for key in ("upright", "transformed", "same")]
        print(f"| {row} | {' | '.join(cells)} | {figures['passes']:.2f} | {figures.get('time', 1):.1f} |")


if __name__ == "__main__":
    typer.run(main)
