"""Upright and turned test images: a frozen network, and every way of making it equivariant, on real images.

    python benchmarks/turned_images.py --images DIR --weights FILE --out DIR [--group C4 --group D4]

DIR holds train/ and test/ with one folder a class. The network is frozen; a linear head is fitted to the
features of upright training images only. λ is trained through the loss on the training images; the
canonicaliser's and the pruned orbit's small networks are trained to find the upright view. "Turned" is the
mean over all elements of the group. Every row is the wrapper itself on the images; features of an image that
was seen before are remembered, which changes no answer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import equivariant as eq
from continual.backbones import load_backbone
from continual.bench.config import DataConfig
from continual.bench.sources import load_data
from continual.bench.streams import split_classes
from continual.data import open_image
from continual.feature_cache import FeatureCache
from continual.preprocessing import Preprocessing

Images = tuple[Tensor, Tensor]  #: inputs (N, 3, H, W) and labels (N,)


class Remembered(nn.Module):
    """A frozen module that is run once on each input, unless `cache` is None."""

    def __init__(self, module: Callable[[Tensor], Tensor], name: str, cache: FeatureCache) -> None:
        super().__init__()
        self.module, self.name = module, name
        self.cache: FeatureCache | None = cache
        self.passes = 0  #: inputs asked for

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x)
        if self.cache is None:
            return self.module(x)
        with torch.no_grad():
            return self.cache.features(x, [self.name] * len(x), lambda rows: self._batches(x[rows]))

    def _batches(self, x: Tensor) -> Tensor:
        return torch.cat([self.module(part) for part in x.split(64)])


class RememberedStages(eq.Staged):
    """A staged ViT whose late part is remembered."""

    def __init__(self, staged: eq.StagedViT, cache: FeatureCache) -> None:
        super().__init__()
        self.first, self.second = staged.early, Remembered(staged.late, f"after {staged.blocks}", cache)
        self.width = staged.width

    def early(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.first(x)

    def late(self, state: Tensor) -> Tensor:
        return self.second(state)


def network(kind: str, weights: Path, size: int) -> tuple[nn.Module, Preprocessing]:
    """Return a frozen network that gives features, and its preprocessing."""
    if kind == "vit":
        backbone = load_backbone(weights=weights, img_size=size)
        return backbone.trunk.vit, backbone.preprocessing
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(weights).items()})
    features, _ = eq.take_off_head(model)
    half = (0.5, 0.5, 0.5)
    return features.requires_grad_(False).eval(), Preprocessing((size, size), half, half, "bicubic", 1.0)


def sets(folder: Path, seed: int, classes: int, per_class: int, preparation: Preprocessing) -> tuple[Images, Images]:
    """Return the training and test images of `classes` classes drawn by `seed`."""
    train, test = load_data(DataConfig(source="folder", train=folder / "train", test=folder / "test"))
    stream = split_classes("turned", train, test, sizes=classes, seed=seed, max_classes=classes, per_class=per_class)
    (e,), view = stream.experiences, preparation.evaluation()

    def prepared(images: Any, labels: Any) -> Images:
        inputs = torch.stack([view(open_image(image)) for image in images])
        return inputs, torch.tensor([e.classes.index(label) for label in labels])

    return prepared(e.train_images, e.train_labels), prepared(e.test_images, e.test_labels)


def linear_head(features: Tensor, labels: Tensor) -> nn.Linear:
    """Fit a logistic regression on standardised features, and fold the scaling into it."""
    scaler = StandardScaler().fit(features.numpy())
    fitted = LogisticRegression(C=0.01, max_iter=2000).fit(scaler.transform(features.numpy()), labels.numpy())
    head = nn.Linear(features.shape[1], len(fitted.classes_)).requires_grad_(False)
    weight = fitted.coef_ / scaler.scale_
    head.weight.copy_(torch.from_numpy(weight))
    head.bias.copy_(torch.from_numpy(fitted.intercept_ - weight @ scaler.mean_))
    return head


def batches(count: int, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(count, generator=draw).split(size)


def fit(parameters: Any, loss: Callable[[Tensor], Tensor], count: int, seed: int, epochs: int, lr: float) -> None:
    """Minimise `loss(rows)` over random minibatches with AdamW and a cosine."""
    steps = list(batches(count, 64, epochs, seed))
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(steps))
    for rows in steps:
        optimizer.zero_grad()
        loss(rows).backward()
        optimizer.step()
        schedule.step()


def find_upright(score: nn.Module, views: Tensor, identity: int, seed: int, lr: float) -> None:
    """Train a score to prefer the identity's view; `views` is what it reads of the orbit, (|G|, N, ...)."""
    target = torch.full((views.shape[1],), identity)

    def loss(rows: Tensor) -> Tensor:
        part = views[:, rows]
        scores = score(part.flatten(0, 1)).unflatten(0, part.shape[:2])
        return F.cross_entropy(scores.mT, target[rows])

    fit(score.parameters(), loss, views.shape[1], seed, 20, lr)


def wrappers(
    features: Remembered, head: nn.Linear, group: str, train: Images, seed: int, kind: str
) -> Iterator[tuple[str, nn.Module, list[Remembered]]]:
    """Yield (row, model giving class scores, where it asks for features)."""
    images, labels = train
    g = eq.as_group(group)
    torch.manual_seed(seed)
    plain = nn.Sequential(features, head)
    yield "plain", plain, [features]
    yield "equitune", eq.Equitune(plain, g), [features]
    yield "class-wise maximum", eq.OrbitMax(plain, g), [features]
    yield "equizero, entropy", eq.Equizero(plain, g, proxy="entropy"), [features]
    yield "equizero, max probability", eq.Equizero(plain, g, proxy="max_probability"), [features]
    with torch.no_grad():
        upright = features(images)
    means = torch.stack([upright[labels == c].mean(0) for c in range(head.out_features)])
    nearest = eq.Equizero(features, g, proxy=eq.Similarity(means))
    yield "equizero, similarity to class means", nn.Sequential(nearest, head), [features]
    learned = eq.LambdaEquitune(features, g, head=head, width=head.in_features)
    fit(
        learned.network.parameters(),
        lambda r: F.cross_entropy(learned(images[r]), labels[r]),
        len(labels),
        seed,
        10,
        1e-3,
    )
    yield "λ-equitune, λ only", learned, [features]
    canonical = eq.Canonicaliser(plain, g)
    find_upright(canonical.score, eq.orbit(g, images), g.identity, seed, 3e-3)
    yield "canonicaliser", canonical, [features]
    if kind == "vit":
        assert features.cache is not None
        for blocks in (2, 3, 4):
            staged = eq.StagedViT(features.module, blocks)
            score = eq.FeatureScore(staged.width)
            with torch.no_grad():
                tokens = torch.cat([staged.early(x).mean(1) for x in eq.orbit(g, images).flatten(0, 1).split(64)])
            find_upright(score, tokens.unflatten(0, (g.order, -1)), g.identity, seed, 3e-3)
            for keep in (1, 2):
                stages = RememberedStages(staged, features.cache)
                pruned = eq.PrunedOrbit(stages, g, keep=keep, score=score)
                yield f"pruned orbit, k={blocks}, m={keep}", nn.Sequential(pruned, head), [stages.second]


def fine_tuned(vit: nn.Module, head: nn.Linear, group: str, train: Images, seed: int, epochs: int) -> nn.Module:
    """Return a copy of the network under λ-equitune, trained whole at a low rate after λ."""
    images, labels = train
    model = eq.LambdaEquitune(copy.deepcopy(vit), group, head=copy.deepcopy(head), width=head.in_features)
    model.requires_grad_(True)
    loss = lambda rows: F.cross_entropy(model(images[rows]), labels[rows])  # noqa: E731
    steps = list(batches(len(labels), 16, epochs, seed))
    optimizer = torch.optim.AdamW(
        [{"params": model.network.parameters(), "lr": 1e-3}, {"params": model.head.parameters(), "lr": 1e-4},
         {"params": model.model.parameters(), "lr": 1e-5}]
    )  # fmt: skip
    for rows in track(steps, "fine-tuning"):
        optimizer.zero_grad()
        loss(rows).backward()
        optimizer.step()
    return model.eval()


def measure(model: nn.Module, group: str, test: Images, asked: list[Remembered]) -> dict[str, float]:
    """Return accuracy upright and turned, consistency, flip rate, invariance error and backbone passes an image."""
    images, labels = test
    model.eval()
    for place in asked:
        place.passes = 0
    answers = eq.orbit_answers(model, group, images.split(100))
    g = eq.as_group(group)
    passes = sum(place.passes for place in asked) / (g.order * len(labels))
    right = (answers == labels).double().mean(1)
    caches = [place.cache for place in asked]
    for place in asked:
        place.cache = None  # remembered features would hide any error
    error = eq.equivariance_error(model, g, images[:8]).largest
    for place, cache in zip(asked, caches, strict=True):
        place.cache = cache
    return {
        "upright": float(right[g.identity]),
        "turned": float(right.mean()),
        "consistency": eq.orbit_consistency(answers),
        "flips": eq.orbit_flip_rate(answers, labels, g.identity),
        "error": error,
        "late passes": passes,
    }


def main(
    images: Annotated[Path, typer.Option(help="A folder with train/ and test/.")],
    weights: Annotated[Path, typer.Option(help="The network's weights.")],
    out: Annotated[Path, typer.Option(help="Where the results go.")],
    group: Annotated[list[str] | None, typer.Option(help="C4, D4, ...; C4 and D4 by default.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of classes and training; 1993 to 1995 by default.")] = None,
    kind: Annotated[str, typer.Option(help="vit or cnn.")] = "vit",
    size: Annotated[int, typer.Option(help="Side of the input in pixels.")] = 98,
    classes: int = 20,
    per_class: int = 40,
    fine_tune_epochs: Annotated[int, typer.Option(help="0 leaves the fine-tuned row out.")] = 0,
) -> None:
    """Run the study and write results.json, results.md and upright_turned.png."""
    groups, seeds = group or ["C4", "D4"], seed or [1993, 1994, 1995]
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in groups}
    for s in seeds:
        model, preparation = network(kind, weights, size)
        train, test = sets(images, s, classes, per_class, preparation)
        cache = FeatureCache()
        features = Remembered(model, "features", cache)
        head = linear_head(features(train[0]), train[1])
        for name in groups:
            for row, wrapped, asked in track(
                wrappers(features, head, name, train, s, kind), f"{name}, seed {s}", total=14 if kind == "vit" else 8
            ):
                found[name].setdefault(row, []).append(measure(wrapped, name, test, asked))
            if fine_tune_epochs:
                tuned = fine_tuned(model, head, name, train, s, fine_tune_epochs)
                found[name].setdefault("λ-equitune, fine-tuned", []).append(measure(tuned, name, test, []))
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    text = "\n".join(f"## {name}\n\n{markdown(rows)}" for name, rows in found.items())
    (out / "results.md").write_text(text, encoding="utf-8")
    picture(found, out / "upright_turned.png")
    for name, rows in found.items():
        Console().print(terminal(name, rows))


HEADINGS = ["", "upright [%]", "turned [%]", "same answer over the orbit [%]", "orbit flips [%]", "invariance error"]


def lines(rows: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    """Return the table's lines: mean ± standard deviation over seeds; the largest error."""
    body = []
    for row, runs in rows.items():
        cells = [row]
        for key in ("upright", "turned", "consistency", "flips"):
            values = 100 * np.array([run[key] for run in runs])
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        body.append([*cells, f"{max(run['error'] for run in runs):.0e}"])
    return body


def markdown(rows: dict[str, list[dict[str, float]]]) -> str:
    rule = ["---", *["---:"] * (len(HEADINGS) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEADINGS, rule, *lines(rows))) + "\n"


def terminal(title: str, rows: dict[str, list[dict[str, float]]]) -> Table:
    table = Table(*HEADINGS, title=title)
    for line in lines(rows):
        table.add_row(*line)
    return table


def picture(found: dict[str, dict[str, list[dict[str, float]]]], path: Path) -> None:
    """Draw upright and turned accuracy as pairs of bars, a panel a group."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(found), 5), layout="constrained")
    for number, (name, rows) in enumerate(found.items()):
        axes = figure.add_subplot(1, len(found), number + 1)
        places = np.arange(len(rows))
        for shift, key in ((-0.2, "upright"), (0.2, "turned")):
            values = [100 * np.mean([run[key] for run in runs]) for runs in rows.values()]
            axes.barh(places + shift, values, height=0.4, label=key)
        axes.set_yticks(places, list(rows))
        axes.invert_yaxis()
        axes.set(title=name, xlabel="accuracy [%]")
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    typer.run(main)
