"""False alarms month by month, as classes come: what the unit of the score of unknown images was chosen by.

    python benchmarks/false_alarms.py --images TINY --weights FILE --features CACHE --out false_alarms.json

TINY holds train/CLASS and test/CLASS. Its half "tune" is learned by strata in ten months of five classes, in an order
that a seed draws; every month the test images of all classes so far are asked about, with 5 % of false alarms wanted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import arguments
import numpy as np
import torch
from measuring import surroundings
from real_streams import backbone_of, half_of
from strata_views import TEST, kept
from torch import Tensor

from continual.methods.strata import StrataLearner
from continual.seeding import generator
from continual.statistics.ridge import GramStatistics, Standardised
from continual.uncertainty import largest_value
from continual.uncertainty.certainty import certainty
from continual.uncertainty.left_out import Rows

RATE, MONTHLY, MOST = 0.05, 5, 40
READINGS = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
Part = tuple[Tensor, Tensor]


def months(train: Part, test: Part, order: list[int], per_class: int) -> list[float]:
    """Return the share of false alarms after every month, of tokens (n, 2, D') and class indices (n,)."""
    sums, known, found = None, None, []
    for count in range(MONTHLY, len(order) + 1, MONTHLY):
        place = {c: number for number, c in enumerate(order[:count])}
        rows = torch.cat([(train[1] == c).nonzero()[:per_class, 0] for c in order[count - MONTHLY : count]])
        labels = torch.tensor([place[c] for c in train[1][rows].tolist()]).repeat_interleave(2)
        images = Rows(train[0][rows].flatten(0, 1), labels, 2, 0.5, READINGS)
        sums = GramStatistics.of(images.features, labels, count).scaled(0.5).plus(sums)
        system = Standardised.of(sums, len(sums.total) / 3)
        head = system.solve(sums)
        known = certainty(sums, system, head, images, known, generator(0, "sketch"))
        asked = test[0][torch.isin(test[1], torch.tensor(order[:count]))].mean(1).float()
        p_value = known.judge(head(asked), asked, 1)[1]
        assert p_value is not None
        found.append(float((p_value <= RATE).float().mean()))
    return found


def main() -> None:
    """Write the shares, and print their means from the third month on."""
    parser = arguments.parser(__doc__, *("images", "weights", "pixels", "out"), seeds={"default": [1, 2, 3, 4]})
    parser.add_argument("--features", type=Path, required=True, help="a folder where tokens are kept")
    parser.add_argument("--per-class", type=int, nargs="+", default=[5, 20, MOST])
    parser.add_argument("--quantiles", type=float, nargs="+", default=[0.5, 0.75, 0.9], help="that are the unit")
    asked: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    learner = StrataLearner(backbone_of(asked.weights, asked.pixels), precision="bfloat16")
    names = list(enumerate(half_of(asked.images, "tune")))
    listed = {
        part: [(p, c) for c, name in names for p in sorted((asked.images / part / name).iterdir())[:count]]
        for part, count in (("train", MOST), ("test", TEST))
    }
    data, records = kept(learner, "months", asked.features, listed), []
    for quantile in asked.quantiles:
        largest_value.QUANTILE = quantile
        for per_class in asked.per_class:
            for seed in asked.seeds:
                order = np.random.RandomState(seed).permutation(len(names)).tolist()
                shares = months(data["train"], data["test"], order, per_class)
                records.append({"quantile": quantile, "per class": per_class, "seed": seed, "false alarms": shares})
            own = 100 * np.array([r["false alarms"][2:] for r in records[-len(asked.seeds) :]])
            off = np.sqrt(np.square(own - 100 * RATE).mean())
            print(f"| {quantile} | {per_class} | {own.mean():.1f} | {off:.1f} | {own.max():.1f} |", flush=True)
        about = {"ran on": surroundings(), "records": records}
        asked.out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
