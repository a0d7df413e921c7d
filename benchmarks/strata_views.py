"""Image and mirror image for strata: learned as a mean or as samples, asked about alone or together.

    python benchmarks/strata_views.py --images TINY --flat AID PLANKTON --weights FILE --features CACHE --out FILE

`TINY` holds train/CLASS and test/CLASS: 25 classes of a half, as benchmarks/strata.py cuts it, drawn by every seed.
Folders CLASS/image of `--flat` are cut into 20 images per class to learn and the others. Tokens are read once and kept
in `CACHE`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import arguments
import numpy as np
import torch
from measuring import spread
from real_streams import backbone_of, half_of
from torch import Tensor

from continual.data.images import open_image
from continual.methods.strata import StrataLearner
from continual.metrics.calibration import expected_calibration_error, reliability_table
from continual.seeding import generator
from continual.statistics.ridge import GramStatistics, Standardised
from continual.uncertainty.certainty import certainty
from continual.uncertainty.left_out import Rows

CLASSES, TRAIN, TEST = 25, 20, 25
MEASURES = ("accuracy", "ECE", "false alarms")
#: how it is learned: the tokens (n, v, D') of tokens (n, 2, D') of image and mirror image
LEARNED = {"image": lambda t: t[:, :1], "mean": lambda t: t.mean(1, keepdim=True), "samples": lambda t: t}

Part = tuple[Tensor, Tensor]  #: tokens (n, 2, D') of image and mirror image, and class indices (n,)


def tokens(learner: StrataLearner, files: list[tuple[Path, int]]) -> Part:
    """Return tokens and class indices of image files."""
    view, rows = learner.preprocessing.evaluation(), []
    for first in range(0, len(files), 64):
        batch = torch.stack([view(open_image(path)) for path, _ in files[first : first + 64]])
        with torch.no_grad():
            rows.append(torch.stack(list(learner.learned_features(learner.extractor, batch)), 1))
    return torch.cat(rows), torch.tensor([c for _, c in files])


def kept(learner: StrataLearner, name: str, cache: Path, listed: dict[str, list[tuple[Path, int]]]) -> dict[str, Part]:
    """Return `tokens` of lists of files by their names, from the cache where it has them."""
    path = cache / f"{name}.pt"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        torch.save({part: tokens(learner, files) for part, files in listed.items()}, path)
    return dict(torch.load(path, weights_only=True))


def drawn(data: dict[str, Part], seed: int) -> tuple[Part, Part]:
    """Return what a seed learns and is asked: 25 classes of a half, or 20 images of every class and the others."""
    if "all" not in data:
        classes = int(data["train"][1].max()) + 1
        known = torch.tensor(np.random.RandomState(seed).permutation(classes)[:CLASSES]).sort().values
        rows = {part: torch.isin(y, known) for part, (_, y) in data.items()}
        train, test = ((x[rows[p]], torch.searchsorted(known, y[rows[p]])) for p, (x, y) in data.items())
        return train, test
    x, y = data["all"]
    draw = generator(seed, "split")
    order = torch.randperm(len(y), generator=draw)
    place = torch.stack([(y[order] == c).cumsum(0) for c in range(int(y.max()) + 1)])[y[order], torch.arange(len(y))]
    train, test = order[place <= TRAIN], order[place > TRAIN]
    return (x[train], y[train]), (x[test], y[test])


def record(train: Part, test: Part, form: str) -> list[dict[str, Any]]:
    """Learn in one form, and ask about the image alone and about both."""
    x, y = LEARNED[form](train[0]), train[1]
    views, classes = x.shape[1], int(y.max()) + 1
    readings = torch.tensor([[1.0, 0.0], [0.5, 0.5]]) if views == 2 else None
    rows = Rows(x.flatten(0, 1), y.repeat_interleave(views), views, 1 / views, readings)
    sums = GramStatistics.of(rows.features, rows.labels, classes).scaled(1 / views)
    system = Standardised.of(sums, len(sums.total) / 3)
    head = system.solve(sums)
    known, found = certainty(sums, system, head, rows, None, generator(0, "sketch")), []
    for reading, asked in enumerate((test[0][:, 0], test[0].mean(1))):
        likely, p_value = known.judge(head(asked), asked, reading)
        assert likely is not None
        assert p_value is not None
        right = (likely.argmax(1) == test[1]).tolist()
        error = expected_calibration_error(reliability_table(likely.amax(1).clamp(max=1), right)) or 0.0
        measures = (sum(right) / len(right), error, float((p_value <= 0.05).float().mean()))
        named = dict(zip(MEASURES, (100 * value for value in measures), strict=True))
        found.append({"learned": form, "asked": ("image", "both")[reading], **named})
    return found


def main() -> None:
    """Write one record per folder, form and seed, and print a Markdown table."""
    parser = arguments.parser(__doc__, *("images", "weights", "pixels", "half", "seeds", "out"))
    parser.add_argument("--flat", type=Path, nargs="*", default=[], help="folders of class folders")
    parser.add_argument("--features", type=Path, required=True, help="a folder where tokens are kept")
    asked: argparse.Namespace = parser.parse_args()

    learner = StrataLearner(backbone_of(asked.weights, asked.pixels), precision="bfloat16")
    places: dict[str, dict[str, list[tuple[Path, int]]]] = {}
    names = list(enumerate(half_of(asked.images, asked.half)))
    places[asked.half] = {
        part: [(p, c) for c, name in names for p in sorted((asked.images / part / name).iterdir())[:count]]
        for part, count in (("train", TRAIN), ("test", TEST))
    }
    for folder in asked.flat:
        own = enumerate(sorted(p for p in folder.iterdir() if p.is_dir()))
        places[folder.name] = {"all": [(p, c) for c, name in own for p in sorted(name.iterdir())]}
    records = []
    for name, listed in places.items():
        data = kept(learner, name, asked.features, listed)
        for seed in asked.seeds:
            train, test = drawn(data, seed)
            records += [{"data": name, "seed": seed, **one} for form in LEARNED for one in record(train, test, form)]
    asked.out.write_text(json.dumps(records, indent=1) + "\n")
    print("| data | learned | asked about |", " | ".join(f"{m} [%]" for m in MEASURES), "|")
    print("| --- | --- | --- |" + " ---: |" * len(MEASURES))
    for key in dict.fromkeys((r["data"], r["learned"], r["asked"]) for r in records):
        own_records = [r for r in records if (r["data"], r["learned"], r["asked"]) == key]
        print("|", " | ".join([*key, *(spread([r[m] for r in own_records]) for m in MEASURES)]), "|")


if __name__ == "__main__":
    main()
