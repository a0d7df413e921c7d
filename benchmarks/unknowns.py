"""Unknown images and probabilities of MOS on real images: AUROC, false alarms, calibration.

    python benchmarks/unknowns.py --images DIR --weights FILE

`DIR` holds train/CLASS and test/CLASS. Some classes are learned in two experiences; the test images of these are
known, those of as many others, which are never learned, unknown.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

import continual
from continual.calibration import expected_calibration_error, reliability_table


def files(folder: Path, classes: list[str], per_class: int) -> tuple[list[Path], list[str]]:
    """Return the first images of some classes, and their labels."""
    found = [(path, name) for name in classes for path in sorted((folder / name).iterdir())[:per_class]]
    return [path for path, _ in found], [name for _, name in found]


def main() -> None:
    """Learn, ask, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder with train/CLASS and test/CLASS")
    parser.add_argument("--weights", type=Path, required=True, help="of a DINOv2 ViT, say")
    parser.add_argument("--size", type=int, default=98, help="pixels")
    parser.add_argument("--classes", type=int, default=10, help="known, and as many unknown")
    parser.add_argument("--per-class", type=int, default=20, help="training images a class")
    parser.add_argument("--test", type=int, default=25, help="test images a class")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    names = sorted(p.name for p in (asked.images / "train").iterdir() if p.is_dir())
    random.Random(asked.seed).shuffle(names)
    known, others = names[: asked.classes], names[asked.classes : 2 * asked.classes]
    backbone = continual.load_backbone(weights=asked.weights, img_size=asked.size, crop_scale=(0.4, 1.0))
    learner = continual.MOSLearner(
        backbone, epochs=asked.epochs, batch_size=16, lr=0.03, precision="bfloat16", seed=asked.seed
    )
    started, half = time.process_time(), asked.classes // 2
    for classes in (known[:half], known[half:]):
        learner.learn(*files(asked.images / "train", classes, asked.per_class))
    paths, labels = files(asked.images / "test", known, asked.test)
    mine = learner.predict(paths)
    theirs = learner.predict(files(asked.images / "test", others, asked.test)[0])
    assert mine.familiarity is not None
    assert theirs.familiarity is not None
    assert mine.probabilities is not None

    right = [a == b for a, b in zip(mine.labels, labels, strict=True)]
    answered = mine.probabilities[range(len(paths)), [mine.classes.index(label) for label in mine.labels]]
    unlike = [0] * len(paths) + [1] * len(theirs.labels)
    rows: list[tuple[str, float]] = [("accuracy", sum(right) / len(right))]
    for name, a, b in (
        ("AUROC of the familiarity", mine.familiarity, theirs.familiarity),
        ("AUROC of the score", mine.scores.amax(-1), theirs.scores.amax(-1)),
    ):
        rows.append((name, float(roc_auc_score(unlike, -torch.cat([a, b])))))
    for rate in (0.05, 0.1, 0.2):
        rows.append((f"false alarms at {rate:.0%}", float((mine.familiarity <= rate).float().mean())))
        rows.append((f"unknown found at {rate:.0%}", float((theirs.familiarity <= rate).float().mean())))
    for name, confidence in (("probability", answered), ("score", mine.scores.amax(-1))):
        error = expected_calibration_error(reliability_table(confidence.clamp(max=1), right))
        rows.append((f"calibration error of the {name}", float(error or 0)))
    print("| measure | % |\n| --- | ---: |")
    for name, value in rows:
        print(f"| {name} | {100 * value:.1f} |")
    print(f"\n{time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()
