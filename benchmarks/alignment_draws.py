"""What drawing fewer features for alignment costs in accuracy, on frozen features of a small real stream.

    OMP_NUM_THREADS=1 python benchmarks/alignment_draws.py --weights weights.safetensors --images tiny_imagenet_100 \
        --out benchmarks/results/alignment_draws.json

Fifty classes in ten experiences, 20 training and 20 test images each, DINOv2 ViT-S/14 at 70 px. A head's new rows are
trained on the newest experience alone, as MOS trains them, and the head is aligned on all classes' statistics of rank
32, with the default of 5 batch_size draws of every class and epoch, and with shares of that.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import arguments
import torch
import torch.nn.functional as F
from measuring import spread, table

from continual.backbones.loading import load_backbone
from continual.data.inputs import as_experience, list_folder
from continual.learning.extractor import Extractor, extract
from continual.methods.bases.alignment import AlignmentSettings, ClassFits, align
from continual.seeding import generator
from continual.statistics.head import Head

CLASSES, NEW, EACH = 50, 5, 20
SHARES = [None, 1 / 2, 1 / 4, 1 / 16, 1 / 64]


def trained(features: torch.Tensor, labels: torch.Tensor, before: Head | None, classes: int) -> Head:
    """Return a head with rows for new classes, trained on their features alone."""
    old = 0 if before is None else len(before.weight)
    weight = torch.zeros(classes - old, features.shape[1], requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.01, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(features @ weight.mT, labels - old).backward()
        optimizer.step()
    rows, bias = weight.detach(), torch.zeros(classes)
    return Head(rows if before is None else torch.cat([before.weight, rows]), bias)


def accuracies(train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor], share: float | None,
               seed: int) -> tuple[float, float]:  # fmt: skip
    """Return the accuracy after the last experience, in percent, and the seconds of all alignments."""
    statistics, head, spent = [], None, 0.0
    for first in range(0, CLASSES, NEW):
        classes = first + NEW
        rows = (train[1] >= first) & (train[1] < classes)
        features, labels = train[0][rows], train[1][rows]
        draws = None if share is None else max(1, round(share * classes * 5 * AlignmentSettings().batch_size))
        own = AlignmentSettings(statistics="low_rank", statistics_components=32, alignment_draws=draws)
        fits = ClassFits(own)
        fits.add(features, labels)
        statistics += [fits.of_class[label] for label in range(first, classes)]
        head = trained(features, labels, head, classes)
        if first:
            started = time.process_time()
            head = align(head, statistics, own, generator=generator(seed, "alignment", first))
            spent += time.process_time() - started
    assert head is not None
    return 100 * float((head(test[0]).argmax(-1) == test[1]).float().mean()), spent


def main() -> None:
    """Measure, and write the figures."""
    given = arguments.parser(__doc__, "weights", "images", "seeds", "out").parse_args()
    preprocessing = {"crop_scale": (0.4, 1.0)}
    backbone = load_backbone(weights=given.weights, img_size=70, **preprocessing)
    extractor, parts = Extractor(backbone), []
    for split in ("train", "test"):
        files, names = list_folder(given.images / split)
        kept = sorted({*names})[:CLASSES]
        chosen = [i for name in kept for i in [j for j, other in enumerate(names) if other == name][:EACH]]
        data = as_experience([files[i] for i in chosen], [kept.index(names[i]) for i in chosen], backbone.preprocessing)
        (found,), labels = extract(data.evaluation, lambda x, _: [extractor.features(x)], 64, extractor.device)
        parts.append((found, torch.tensor(labels)))
    rows = []
    for share in SHARES:
        results = []
        for seed in given.seeds:
            order = torch.tensor(random.Random(seed).sample(range(CLASSES), CLASSES))
            train, test = ((features, order[labels]) for features, labels in parts)
            results.append(accuracies(train, test, share, seed))
        accuracy, seconds = (list(column) for column in zip(*results, strict=True))
        rows.append({"share": share, "accuracy": accuracy, "seconds": seconds})
        print(rows[-1], flush=True)
    Path(given.out).write_text(json.dumps({"seeds": given.seeds, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    lines = [[f"{r['share'] or 1:g}", spread(r["accuracy"]), spread(r["seconds"])] for r in rows]
    print(table(["draws of the default's", "final accuracy [%]", "alignment [s]"], lines))


if __name__ == "__main__":
    main()
