"""Cells and run folders of random answers, as a run would leave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from continual.metrics.cell import Cell, Evaluation

IMAGES = 10  #: of each experience, which brings two classes


def made_up(
    label: str,
    seed: int,
    experiences: int = 3,
    stacks: bool = True,
    groups: Sequence[str] = (),
    right: float = 0.75,
) -> Cell:
    """A whole cell of random answers, of which about the share `right` is right."""
    draw = np.random.default_rng(seed)
    truth = np.arange(IMAGES * experiences) // (IMAGES // 2)

    def guessed(truth: Any, known: int) -> list[int]:
        other = draw.integers(0, known, len(truth))
        return np.where(draw.random(len(truth)) < right, truth, other).tolist()

    cell = Cell(label, label, seed, {"seed": seed}, "ab", [IMAGES] * experiences, [2] * experiences, truth.tolist())
    evaluations = []
    for n in range(1, experiences + 1):
        seen = truth[: IMAGES * n]
        evaluation = Evaluation(
            learning_seconds=1.0 + n,
            evaluation_seconds=0.5 * n,
            inference_seconds=0.01 * n,
            waiting=0.1 * n,
            memory=1000 * n,
            parameters=250 * n,
            passes=1.5,
            answers=guessed(seen, 2 * n),
            confidence=draw.uniform(0.3, 1, len(seen)).tolist(),
            transformed={group: guessed(seen, 2 * n) for group in groups},
        )
        if stacks:
            chosen = {name: guessed(seen // 2, n) for name in ("stack", "first_stack")}
            evaluation = replace(evaluation, **chosen, refinements=draw.integers(0, 3, len(seen)).tolist())
        evaluations.append(evaluation)
    return replace(cell, groups=dict.fromkeys(groups, 4), evaluations=tuple(evaluations))


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
        (path / "cells" / f"{number}.json").write_text(json.dumps([cell.to_json()]))
    return path
