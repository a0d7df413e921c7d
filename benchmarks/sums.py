"""What running sums can do on real images: uneven classes, weighed or not, and classes learned and forgotten again.

    python benchmarks/sums.py uneven --images DIR --weights FILE --features CACHE --out uneven.json
    python benchmarks/sums.py forget --images DIR --weights FILE --features CACHE --out forget.json

`DIR` holds train/CLASS and test/CLASS, cut in two halves as in benchmarks/strata.py. 25 classes of a half are learned
in one experience; 25 of the other half are unknown, or come and go. Features are read once and kept in `CACHE`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from arguments import Images, Out, Weights
from measuring import table
from real_streams import backbone_of, half_of
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import nll_loss

from continual.data.images import open_image
from continual.methods.ridge import RidgeLearner
from continual.methods.strata import StrataLearner
from continual.metrics.calibration import expected_calibration_error, reliability_table
from continual.seeding import generator
from continual.statistics.fields import without
from continual.statistics.penalties import choose_penalty
from continual.statistics.ridge import (
    GramStatistics,
    LinearHead,
    Standardised,
    expected_best,
    lower_triangle,
    solve,
)
from continual.uncertainty.certainty import certainty

CLASSES, TRAIN, TEST = 25, 40, 25
PROJECTION = 2000  #: of ranpac, on frozen features
#: images of the classes, before they are distributed
COUNTS: dict[str, list[int]] = {
    "20 each": [20] * CLASSES,
    "3 or 20": [3 if k % 2 else 20 for k in range(CLASSES)],
    "2 to 20": [round(2 + 18 * k / (CLASSES - 1)) for k in range(CLASSES)],
    "5 or 40": [5 if k % 2 else 40 for k in range(CLASSES)],
}
EXPONENTS = (0.0, 0.5, 1.0)

Half = Annotated[str, typer.Option(help="tune, on which things were chosen, or report.")]
Features = Annotated[Path, typer.Option(help="A folder where features are kept.")]
app = typer.Typer()


def features_of(images: Path, weights: Path, half: str, cache: Path) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return strata's features (n, D'), the frozen ones (n, D) and class indices of 25 classes, for train and test."""
    path = cache / f"{half}.pt"
    if not path.is_file():
        backbone = backbone_of(weights)
        learners = [kind(backbone, precision="bfloat16") for kind in (StrataLearner, RidgeLearner)]
        view, names, found = backbone.preprocessing.evaluation(), half_of(images, half)[:CLASSES], {}
        for part, count in (("train", TRAIN), ("test", TEST)):
            own = [(p, c) for c, name in enumerate(names) for p in sorted((images / part / name).iterdir())[:count]]
            rows: list[list[Tensor]] = [[], []]
            for first in range(0, len(own), 64):
                batch = torch.stack([view(open_image(p)) for p, _ in own[first : first + 64]])
                for learner, kept in zip(learners, rows, strict=True):
                    with torch.no_grad():
                        kept.append(learner.design_features(learner.extractor, batch))
            found[part] = (torch.cat(rows[0]), torch.cat(rows[1]), torch.tensor([c for _, c in own]))
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(found, path)
    return dict(torch.load(path, weights_only=True))


def designed(method: str, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return what a method regresses on (n, D'), and class indices."""
    tokens, frozen, labels = features
    if method == "ranpac":
        draw = generator(0, "projection")
        return torch.relu(frozen @ torch.randn(frozen.shape[1], PROJECTION, generator=draw)), labels
    return (tokens if method == "strata" else frozen), labels


def penalty_of(method: str, sums: GramStatistics) -> float:
    """Return the penalty with which strata or ridge solves sums."""
    return len(sums.total) / 3 if method == "strata" else expected_best(sums)


def discriminant(sums: GramStatistics) -> LinearHead:
    """Return linear discriminant analysis with even priors, the pooled covariance shrunk as OAS says."""
    mean, deviation = sums.moments()
    means = (sums.targets / sums.counts - mean[:, None]) / deviation[:, None]
    count, width = sums.counts.sum(), len(mean)
    free = float(count - len(sums.counts))
    scatter = (sums.gram() - count * torch.outer(mean, mean)) / torch.outer(deviation, deviation)
    covariance = (scatter - (means * sums.counts) @ means.mT) / free
    trace, square = float(covariance.trace()), float(covariance.square().sum())
    top = (1 - 2 / width) * square + trace**2
    rho = min(1.0, top / ((free + 1 - 2 / width) * (square - trace**2 / width)))
    covariance *= 1 - rho
    covariance.diagonal().add_(rho * trace / width)
    weight = torch.cholesky_solve(means, torch.linalg.cholesky(covariance))
    bias = -(means * weight).sum(0) / 2
    weight = weight / deviation[:, None]
    return LinearHead(weight, bias - mean @ weight)


def drawn(labels: Tensor, counts: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Return rows of as many images of each class as `counts` says in the order of the seed, and these counts."""
    draw = generator(seed, "uneven")
    dealt = torch.tensor(counts)[torch.randperm(len(counts), generator=draw)]
    own = [(labels == c).nonzero().squeeze(1) for c in range(len(counts))]
    rows = [r[torch.randperm(len(r), generator=draw)[:n]] for r, n in zip(own, dealt.tolist(), strict=True)]
    return torch.cat(rows), dealt


def shares(values: Tensor, labels: Tensor, counts: Tensor) -> dict[str, float]:
    """Return the accuracy with classes as often in the test as one another, and as often as in training."""
    right = (values.argmax(1) == labels).float()
    each = torch.stack([right[labels == c].mean() for c in range(len(counts))])
    return {"even test": 100 * float(each.mean()), "test as training": 100 * float(each @ (counts / counts.sum()))}


def judged(
    method: str, learned: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], strange: Tensor, balance: float, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """Return values (n, C) of test images under an exponent, and what strata and ridge say beside them."""
    sums = GramStatistics.of(*learned, CLASSES)
    weighted = sums.balanced(balance)
    if method == "ranpac":
        draw = generator(seed, "ridge")
        penalty = choose_penalty(None, *learned, CLASSES, standardise=False, generator=draw, balance=balance)
        return solve(weighted, penalty, standardise=False)(test[0]), {}
    system = Standardised.of(weighted, penalty_of(method, weighted))
    head = system.solve(weighted)
    known = certainty(sums, system, head, learned, None, generator(seed, "sketch"), balance)
    values = head(test[0])
    likely, p_value = known.judge(values, test[0])
    _, of_strange = known.judge(head(strange), strange)
    assert likely is not None
    assert p_value is not None
    assert of_strange is not None
    right = (likely.argmax(1) == test[1]).tolist()
    unlike = [0] * len(p_value) + [1] * len(of_strange)
    return values, {
        "ECE": 100 * (expected_calibration_error(reliability_table(likely.amax(1).clamp(max=1), right)) or 0),
        "log loss": float(nll_loss(likely.log(), test[1])),
        "AUROC of unknown": 100 * float(roc_auc_score(unlike, -torch.cat([p_value, of_strange]))),
        "false alarms at 5 %": 100 * float((p_value <= 0.05).float().mean()),
    }


@app.command()
def uneven(
    images: Images, weights: Weights, features: Features, out: Out, half: Half = "report", draws: int = 3
) -> None:
    """Compare exponents of `balance`, and shrunk discriminant analysis."""
    ours = features_of(images, weights, half, features)
    theirs = features_of(images, weights, "tune" if half == "report" else "report", features)
    records: list[dict[str, Any]] = []
    for method in ("ridge", "strata", "ranpac"):
        (x, y), test = designed(method, ours["train"]), designed(method, ours["test"])
        strange = designed(method, theirs["test"])[0]
        for name, counts in COUNTS.items():
            for seed in range(draws):
                rows, dealt = drawn(y, counts, seed)
                place = {"method": method, "images": name, "seed": seed}
                for balance in EXPONENTS:
                    values, more = judged(method, (x[rows], y[rows]), test, strange, balance, seed)
                    records.append({**place, "row": f"balance {balance:g}", **shares(values, test[1], dealt), **more})
                values = discriminant(GramStatistics.of(x[rows], y[rows], CLASSES))(test[0])
                records.append({**place, "row": "LDA, OAS", **shares(values, test[1], dealt)})
            out.write_text(json.dumps(records, indent=1) + "\n")
    print(summary(records, ("method", "images", "row")))


def with_its_scatter(sums: GramStatistics, index: int) -> GramStatistics:
    """Return sums without a class, except for its scatter, as the library did before."""
    own, count = sums.targets[:, index], sums.counts[index]
    triangle = sums.triangle - lower_triangle(torch.outer(own, own)) / count
    return replace(without(sums, index), total=sums.total - own, triangle=triangle)


#: name -> (directions that are kept, how a class is taken out)
WAYS: dict[str, tuple[int, Callable[[GramStatistics, int], GramStatistics]]] = {
    "scatter stays (before)": (0, with_its_scatter),
    "scatter estimated": (0, GramStatistics.without),
    "exact_forget 8": (8, GramStatistics.without),
    "exact_forget 19": (19, GramStatistics.without),
}


def answers(method: str, sums: GramStatistics, features: Tensor) -> Tensor:
    """Return values (n, C) of features (n, D') under the sums' head."""
    return Standardised.of(sums, penalty_of(method, sums)).solve(sums)(features)


@app.command()
def forget(
    images: Images, weights: Weights, features: Features, out: Out, half: Half = "report", cycles: int = 20
) -> None:
    """Learn 25 classes of 20 images, then learn and forget another one, again and again."""
    ours = features_of(images, weights, half, features)
    theirs = features_of(images, weights, "tune" if half == "report" else "report", features)
    records: list[dict[str, Any]] = []
    for method in ("ridge", "strata"):
        (x, y), (z, truth) = designed(method, ours["train"]), designed(method, ours["test"])
        more, other = designed(method, theirs["train"])
        rows, dealt = drawn(y, COUNTS["20 each"], 0)
        never = answers(method, GramStatistics.of(x[rows], y[rows], CLASSES), z)
        for name, (directions, leave) in WAYS.items():
            sums = GramStatistics.of(x[rows], y[rows], CLASSES, directions)
            for cycle in range(cycles):
                own = more[other == cycle % CLASSES][:20]
                label = torch.full((len(own),), CLASSES)
                sums = leave(GramStatistics.of(own, label, CLASSES + 1, directions).plus(sums), CLASSES)
            values = answers(method, sums, z)
            kept = 0 if sums.scatter is None else sums.scatter[0].numel() * sums.scatter.element_size()
            found = {
                "accuracy": shares(values, truth, dealt)["even test"],
                "never learned": shares(never, truth, dealt)["even test"],
                "answers changed": 100 * float((values.argmax(1) != never.argmax(1)).float().mean()),
                "KiB per class": kept / 1024,
            }
            records.append({"method": method, "row": name, "cycles": cycles, **found})
            out.write_text(json.dumps(records, indent=1) + "\n")
    print(summary(records, ("method", "row", "cycles")))


def summary(records: list[dict[str, Any]], keys: tuple[str, ...]) -> str:
    """Return means over the seeds as a Markdown table."""
    columns = [name for name in records[0] if name not in (*keys, "seed")]
    rows = []
    for key in dict.fromkeys(tuple(r[k] for k in keys) for r in records):
        own = [r for r in records if tuple(r[k] for k in keys) == key]
        means = [statistics.mean(r[c] for r in own) if c in own[0] else None for c in columns]
        rows.append([*map(str, key), *("" if m is None else f"{m:.2f}" if m < 10 else f"{m:.1f}" for m in means)])
    return table([*keys, *columns], rows)


if __name__ == "__main__":
    app()
