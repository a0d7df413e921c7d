"""Which methods give the same bits twice on a device: two learners of one seed, images and order, tensor by tensor.

    python benchmarks/device_bits.py --device cuda --out DIR

A small ViT with random weights, 16 px, three experiences of two classes; on a GPU, sums that many threads add up at
once differ from run to run. Shown is the largest difference of a tensor, as a share of its largest value.
"""

from __future__ import annotations

from typing import Any

import torch
import typer
from arguments import Device, Out
from measuring import surroundings, table, write

from continual.methods import methods
from continual.testing import coloured_squares, tiny_backbone

#: settings of all methods that have them
SMALL = {"epochs": 3, "batch_size": 8, "alignment_epochs": 3, "projection": 500, "seed": 1}


def learned(name: str, device: str, precision: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the tensors of a model, and its scores of test images."""
    kind = methods()[name]
    given = {key: value for key, value in SMALL.items() if key in kind.settings_type.model_fields}
    learner: Any = kind(tiny_backbone(), device=device, precision=precision, **given)
    for classes in ([0, 1], [2, 3], [4, 5]):
        learner.learn(*coloured_squares(classes, 20))
    return learner.export()[0], learner.predict(coloured_squares(range(6), 10, seed=1)[0]).scores


def main(out: Out, device: Device = "cpu") -> None:
    """Measure, and write device_bits.json and device_bits.md."""
    rows, lines = [], []
    for name in methods():
        for precision in ("float32", "bfloat16"):
            (first, scores), (second, again) = (learned(name, device, precision) for _ in range(2))
            same = [key for key in first if torch.equal(first[key], second[key])]
            gaps = [
                float((first[key].double() - second[key].double()).abs().max() / first[key].double().abs().max())
                for key in first
                if key not in same and first[key].is_floating_point()
            ]
            row = {"method": name, "precision": precision, "tensors": len(first), "same": len(same)}
            row |= {"largest": max(gaps, default=0.0), "scores": float((scores - again).abs().max())}
            rows.append(row)
            lines.append(
                [name, precision, f"{len(same)} of {len(first)}", f"{row['largest']:.0e}", f"{row['scores']:.0e}"]
            )
            print(row, flush=True)
    headings = ["method", "precision", "tensors of the same bits", "largest difference", "of scores"]
    write(out, "device_bits", {"ran on": surroundings(), "rows": rows}, table(headings, lines))


if __name__ == "__main__":
    typer.run(main)
