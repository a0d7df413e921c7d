"""Unknown images and probabilities on real images: AUROC, false alarms, calibration.

    python benchmarks/unknowns.py --images DIR --weights FILE --out results.json [--far FOLDER ...]

`DIR` holds train/CLASS and test/CLASS. Classes are permuted with seed 0 and cut in two, as in benchmarks/strata.py:
what `strata` says of unknown images was chosen on the half `tune`; the half `report` is for figures. A seed draws the
classes that are learned, in experiences of `--size`; test images of these are known, those of the others unknown and
near. Images of a FOLDER/CLASS are far. "Before" is the score that `strata` and `ridge` had before: the largest value in
standard errors, of the same model and images.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import arguments
import numpy as np
import torch
from measuring import records_in, spread
from real_streams import half_of
from sklearn.metrics import roc_auc_score
from torch import Tensor

import continual
from continual.backbones.loading import Backbone
from continual.data.images import open_image
from continual.learning.answers import Prediction
from continual.learning.feature_cache import FeatureCache
from continual.methods.bases.regression_update import RegressionState
from continual.metrics.calibration import expected_calibration_error, reliability_table

RATES = (0.05, 0.1)  #: of false alarms asked for
#: what MOS was trained with in benchmarks/year.py; the others train nothing
SETTINGS: dict[str, dict[str, Any]] = {"mos": {"epochs": 4, "batch_size": 16, "lr": 0.03}}


def files(folder: Path, classes: list[str], per_class: int) -> tuple[list[Path], list[str]]:
    """Return the first images of some classes, and their labels."""
    found = [(path, name) for name in classes for path in sorted((folder / name).iterdir())[:per_class]]
    return [path for path, _ in found], [name for _, name in found]


def before(learner: Any, paths: list[Path], cache: FeatureCache) -> Tensor:
    """Return the score (B,) that strata and ridge had before, of images: the less, the more unlike all classes."""
    view, rows = learner.preprocessing.evaluation(), []
    for first in range(0, len(paths), 64):
        batch = torch.stack([view(open_image(path)) for path in paths[first : first + 64]])
        with torch.no_grad():
            features = learner.design_features(learner.extractor, batch, cache)
        values, known = learner.current.head(features), learner.current.certainty
        leverage = known.errors(features).square().sum(-1) + known.share
        rows.append((values / leverage.sqrt()[:, None]).amax(-1))
    return torch.cat(rows).float()


def apart(known: Tensor, unlike: Tensor) -> float:
    """Return the AUROC [%] of what is less for unlike images."""
    return 100 * float(roc_auc_score([0] * len(known) + [1] * len(unlike), -torch.cat([known, unlike])))


def measured(mine: Prediction, labels: list[str], theirs: Prediction) -> dict[str, float]:
    """Return the measures, in percent, from answers for images of known classes and of others."""
    assert mine.p_value is not None
    assert theirs.p_value is not None
    assert mine.probabilities is not None
    right = [a == b for a, b in zip(mine.labels, labels, strict=True)]
    answered = mine.probabilities[range(len(labels)), [mine.classes.index(label) for label in mine.labels]]
    unlike = [0] * len(labels) + [1] * len(theirs.labels)
    found = {"accuracy": sum(right) / len(right)}
    found["AUROC"] = float(roc_auc_score(unlike, -torch.cat([mine.p_value, theirs.p_value])))
    scores = torch.cat([mine.scores.amax(-1), theirs.scores.amax(-1)])
    found["AUROC of the score"] = float(roc_auc_score(unlike, -scores))
    for rate in RATES:
        found[f"false alarms at {rate:.0%}"] = float((mine.p_value <= rate).float().mean())
        found[f"unknown found at {rate:.0%}"] = float((theirs.p_value <= rate).float().mean())
    for name, confidence in (("ECE", answered), ("ECE of the score", mine.scores.amax(-1))):
        found[name] = float(expected_calibration_error(reliability_table(confidence.clamp(max=1), right)) or 0)
    return {name: 100 * value for name, value in found.items()}


def record(
    asked: argparse.Namespace,
    backbone: Backbone,
    names: list[str],
    cache: FeatureCache,
    method: str,
    per_class: int,
    seed: int,
) -> dict[str, Any]:
    """Learn, and ask."""
    order = [names[i] for i in np.random.RandomState(seed).permutation(len(names))]
    known, others = order[: asked.classes], order[asked.classes :]
    settings = {"precision": "bfloat16", "seed": seed, **SETTINGS.get(method, {})}
    learner, started = continual.method(method)(backbone, **settings), time.process_time()
    for first in range(0, len(known), asked.size):
        learner.learn(*files(asked.images / "train", known[first : first + asked.size], per_class))
    learning = time.process_time() - started
    paths, labels = files(asked.images / "test", known, asked.test)
    near = files(asked.images / "test", others, asked.test)[0]
    mine, theirs = learner.predict(paths, cache=cache), learner.predict(near, cache=cache)
    found = measured(mine, labels, theirs)
    old = isinstance(learner.state, RegressionState)
    if old:
        usual = before(learner, paths, cache)
        found["AUROC before"] = apart(usual, before(learner, near, cache))
    for folder in asked.far:
        far = files(folder, sorted(p.name for p in folder.iterdir() if p.is_dir()), asked.test)[0]
        strange = learner.predict(far, cache=cache).p_value
        found[f"AUROC {folder.name}"] = apart(mine.p_value, strange)
        found[f"{folder.name} found at 5%"] = 100 * float((strange <= 0.05).float().mean())
        if old:
            found[f"AUROC before {folder.name}"] = apart(usual, before(learner, far, cache))
    options = {name: getattr(asked, name) for name in ("half", "classes", "size", "test", "pixels")}
    return {
        **options,
        "per_class": per_class,
        "method": method,
        "seed": seed,
        "settings": settings,
        "learning": learning,
        **found,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Return mean and deviation over the seeds, a row for a method and a number of images."""
    columns = [
        name
        for name in records[0]
        if name == "accuracy" or name.startswith(("AUROC", "ECE", "false")) or " found at" in name
    ]
    lines = [" | ".join(["| method", "images per class", "seeds", *(f"{name} [%]" for name in columns)]) + " |"]
    lines.append("| --- |" + " ---: |" * (len(columns) + 2))
    for key in dict.fromkeys((r["method"], r["per_class"]) for r in records):
        own = [r for r in records if (r["method"], r["per_class"]) == key]
        values = [[r[name] for r in own if name in r] for name in columns]
        lines.append(
            "| " + " | ".join([key[0], str(key[1]), str(len(own)), *(spread(v) if v else "" for v in values)]) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Write one record per method, number of images and seed, and print a Markdown table."""
    parser = arguments.parser(
        __doc__,
        *("images", "weights", "pixels", "half", "test", "seeds"),
        out={"help": "read, and added to, if it is there"},
        per_class={"nargs": "+", "default": [20]},
    )
    parser.add_argument("--methods", nargs="+", default=["strata", "ridge", "mos"])
    parser.add_argument(
        "--far", type=Path, nargs="*", default=[], help="folders of classes that are far from all known"
    )
    parser.add_argument("--classes", type=int, default=25, help="known; the others of the half are unknown")
    parser.add_argument("--size", type=int, default=5, help="classes per experience")
    asked = parser.parse_args()

    chosen = half_of(asked.images, asked.half)
    backbone = continual.load_backbone(weights=asked.weights, img_size=asked.pixels, crop_scale=(0.4, 1.0))
    records: list[dict[str, Any]] = records_in(asked.out)
    frozen = FeatureCache()
    for method, per_class, seed in product(asked.methods, asked.per_class, asked.seeds):
        # Features under trained adapters are a seed's own.
        cache = FeatureCache() if method in SETTINGS else frozen
        records.append(record(asked, backbone, chosen, cache, method, per_class, seed))
        asked.out.write_text(json.dumps(records, indent=1) + "\n")
        print(table(records[-1:]).splitlines()[-1], flush=True)
    print(table(records))


if __name__ == "__main__":
    main()
