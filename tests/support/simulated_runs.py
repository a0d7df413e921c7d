"""Cells and run folders of random measurements, as a run would leave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from continual.experiments.results import Cell


def made_up(label: str, seed: int, experiences: int = 3, stacks: bool = True) -> Cell:
    """A whole cell of random measurements."""
    draw = np.random.default_rng(seed)
    cell = Cell(label, label, seed, {"seed": seed}, "ab", [10] * experiences, [2] * experiences)
    names = ("negative", "positive", "inconsistency", "backward_trust", "relative_negative")
    for n in range(1, experiences + 1):
        cell.accuracy.append(draw.uniform(0.5, 1, n).tolist())
        cell.reliability.append([[4.0, 3.0, 2.0], [6.0, 5.0, 5.0]])
        cell.flips.append(None if n == 1 else {name: float(draw.uniform(0, 0.2)) for name in names})
        cell.answers = [[0] * 10] * n
        cell.learning_seconds.append(1.0 + n)
        cell.waiting.append(0.1 * n)
        cell.evaluation_seconds.append(0.5 * n)
        cell.inference_seconds.append(0.01 * n)
        cell.memory.append(1000 * n)
        cell.parameters.append(250 * n)
        if stacks:
            counts = (draw.integers(0, 5, (n, n)) + 8 * np.eye(n, dtype=int)).tolist()
            cell.first_confusion.append(counts)
            cell.confusion.append(counts)
            cell.refinements.append(0.1 * n)
    return cell


def run_folder(path: Path, cells: Sequence[Cell], **changes: Any) -> Path:
    """Write a run folder of cells; `changes` are to tables of the config, or values in it."""
    config: dict[str, Any] = {
        "title": "Made up",
        "data": {"source": "digits"},
        "stream": {"classes": 2},
        "backbone": {"name": "vit_tiny_patch16_224"},
        "methods": {cell.label: {"method": cell.method} for cell in cells},
        "seeds": sorted({cell.seed for cell in cells}),
    }
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (path / "cells").mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"config": config, "versions": {"torch": "2.9"}}))
    for number, cell in enumerate(cells):
        (path / "cells" / f"{number}.json").write_text(json.dumps([asdict(cell)]))
    return path
