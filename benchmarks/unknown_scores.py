"""Scores of unknown images from strata's sums: what they are chosen by, on images that no reported figure is of.

    python benchmarks/unknown_scores.py --images TINY --flat AID CIFAR --weights FILE --features CACHE --out FILE

25 classes of the half "tune" of TINY are learned, 20 images each, drawn by every seed. Test images of these are known,
those of the other 25 unknown and near; images of `--flat` CLASS/image folders are far. All scores follow from the
values f of the regression, the leverage h, and a C x C matrix of the class means.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import arguments
import numpy as np
import torch
from real_streams import backbone_of, half_of
from sklearn.metrics import roc_auc_score
from strata_views import CLASSES, TEST, TRAIN, kept
from torch import Tensor

from continual.methods.strata import StrataLearner
from continual.statistics.ridge import GramStatistics, LinearHead, Standardised

MOST = 600  #: images of a far folder, at most


def within(sums: GramStatistics, system: Standardised, values: Tensor, leverage: Tensor) -> Tensor:
    """Return the distance (B, C) to every class mean under the pooled scatter within classes and the penalty.

    That scatter is A - M N M^T, M the class means and N their images: by Woodbury's identity all follows from A^-1, of
    which values f = N M^T A^-1 x and leverages x^T A^-1 x are known.
    """
    count = sums.counts.sum()
    means = ((sums.targets / sums.counts) - system.mean[:, None]) / system.deviation[:, None]
    white = torch.linalg.solve_triangular(system.lower, means, upper=False)
    k = white.mT @ white
    gain = torch.linalg.inv(torch.diag(1 / sums.counts) - k)
    g = (values - sums.counts / count) / sums.counts
    own = leverage - 1 / count + ((g @ gain) * g).sum(1)
    return own[:, None] - 2 * (g + g @ gain @ k) + (k + k @ gain @ k).diagonal()


def scores(sums: GramStatistics, system: Standardised, head: LinearHead, asked: Tensor) -> dict[str, Tensor]:
    """Return scores (B,) of tokens (B, D'): the more, the more unlike all classes."""
    x = asked.double()
    white = torch.linalg.solve_triangular(system.lower, ((x - system.mean) / system.deviation).mT, upper=False)
    leverage, values = white.square().sum(0) + 1 / sums.counts.sum(), head(x)
    f, h = values.amax(1).clamp(min=1e-6).log(), leverage.log()
    distance = within(sums, system, values, leverage).amin(1)
    found = {"f": -f} | {f"f / h^{power}": power * h - f for power in (0.5, 1, 1.25, 1.5, 2)}
    found |= {"1 / h": h, "1 / distance": distance.log()}
    return found | {f"f / distance^{power}": power * distance.log() - f for power in (1, 1.5, 3)}


def main() -> None:
    """Write every AUROC, and print a Markdown table of means."""
    parser = arguments.parser(__doc__, *("images", "weights", "pixels", "out"), seeds={"default": [0, 1, 2]})
    parser.add_argument("--flat", type=Path, nargs="*", default=[], help="folders of class folders")
    parser.add_argument("--features", type=Path, required=True, help="a folder where tokens are kept")
    asked: argparse.Namespace = parser.parse_args()

    learner = StrataLearner(backbone_of(asked.weights, asked.pixels), precision="bfloat16")
    names = list(enumerate(half_of(asked.images, "tune")))
    listed = {
        part: [(p, c) for c, name in names for p in sorted((asked.images / part / name).iterdir())[:count]]
        for part, count in (("train", TRAIN), ("test", TEST))
    }
    data, far = kept(learner, "tune", asked.features, listed), {}
    for folder in asked.flat:
        every = [(p, 0) for name in sorted(folder.iterdir()) if name.is_dir() for p in sorted(name.iterdir())]
        tokens = kept(learner, folder.name, asked.features, {"all": every})["all"][0].mean(1)
        far[folder.name] = tokens[:: len(tokens) // MOST + 1]
    records = []
    for seed in asked.seeds:
        known = torch.tensor(np.random.RandomState(seed).permutation(len(names))[:CLASSES]).sort().values
        (x, y), (z, w) = ((tokens.mean(1), labels) for tokens, labels in (data["train"], data["test"]))
        rows, mine = torch.isin(y, known), torch.isin(w, known)
        sums = GramStatistics.of(x[rows], torch.searchsorted(known, y[rows]), CLASSES)
        system = Standardised.of(sums, len(sums.total) / 3)
        head = system.solve(sums)
        usual = scores(sums, system, head, z[mine])
        for place, images in {"near": z[~mine], **far}.items():
            for name, unlike in scores(sums, system, head, images).items():
                truth = [0] * len(usual[name]) + [1] * len(unlike)
                auroc = 100 * float(roc_auc_score(truth, torch.cat([usual[name], unlike])))
                records.append({"seed": seed, "unknown": place, "score": name, "AUROC": auroc})
    asked.out.write_text(json.dumps(records, indent=1) + "\n")
    places = ["near", *far]
    print("| score |", " | ".join(f"AUROC {place} [%]" for place in places), "|")
    print("| --- |" + " ---: |" * len(places))
    for name in dict.fromkeys(r["score"] for r in records):
        own = [np.mean([r["AUROC"] for r in records if (r["score"], r["unknown"]) == (name, p)]) for p in places]
        print("|", " | ".join([name, *(f"{value:.1f}" for value in own)]), "|")


if __name__ == "__main__":
    main()
