"""Runs brought together: one board for all cells that may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from continual.console import named
from continual.errors import InputError
from continual.experiments import published
from continual.experiments.config import networks_of
from continual.experiments.published import Protocol
from continual.experiments.results import keeps_images
from continual.experiments.run_folder import Run
from continual.methods import METHODS
from continual.metrics.cell import Cell


@dataclass(frozen=True)
class Board:
    """Cells on the same data, stream and backbone."""

    title: str
    config: dict[str, Any]  #: of its first run
    cells: tuple[Cell, ...]
    protocol: Protocol | None  #: what was published for the same data and stream

    @property
    def seeds(self) -> list[int]:
        """The seeds of its cells."""
        return sorted({cell.seed for cell in self.cells})

    def notes(self) -> list[str]:
        """Say which methods have no probabilities or keep images, and which conditions are unlike the published."""
        known, lines = METHODS.all(), []
        shown = {cell.label: cell.method for cell in self.cells}
        if without := [named(m) for m, kind in shown.items() if kind in known and not known[kind].probabilities]:
            lines.append(
                f"Without probabilities, and so without a calibration error: {', '.join(without)}. Nothing that they "
                "remember says how often an answer is right."
            )
        if bounds := [named(label) for label, method in shown.items() if keeps_images(method)]:
            lines.append(
                f"Kept images: {', '.join(bounds)}. That is a bound for the others, and is not marked as best."
            )
        if self.protocol is None:
            return lines
        config, sources = {**self.config, "seeds": self.seeds}, dict.fromkeys(f.source for f in self.protocol.figures)
        lines += [f"Published for {self.protocol.title}: {source.text}." for source in sources]
        unlike = dict.fromkeys(d for source in sources for d in published.differences(config, source))
        return lines + [f"Not the published conditions: {difference}." for difference in unlike]


def boards(runs: Sequence[Run]) -> list[Board]:
    """Gather the cells of runs on the same data, stream and backbone, in the order of the runs.

    Raises InputError if there is no cell, if a label stands for different settings, images or weights, and
    if a cell is there twice.
    """
    grouped: dict[str, list[tuple[Run, Cell]]] = {}
    for run in runs:
        key = json.dumps(_comparable(run.config), sort_keys=True)
        grouped.setdefault(key, []).extend((run, cell) for cell in run.cells)
    if not any(grouped.values()):
        places = ", ".join(str(run.path) for run in runs)
        raise InputError(f"no cell is finished in {places}: resume with `equimos run`")
    kept = [found for found in grouped.values() if found]
    titles, made = [str(found[0][0].config.get("title", "")) for found in kept], []
    for title, found in zip(titles, kept, strict=True):
        _check(found)
        first, cell = found[0]
        unique = title if titles.count(title) == 1 else f"{title} ({first.path.name})"
        protocol = published.find(first.config["data"]["source"], cell.class_counts)
        made.append(Board(unique, first.config, tuple(c for _, c in found), protocol))
    return made


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a config must be the same for cells to be compared; where files lie is not part of it."""
    data = config.get("data") or {}
    return {
        "data": {k: v for k, v in data.items() if k != "root"},
        "stream": config.get("stream"),
        "backbone": [{k: v for k, v in one.items() if k != "weights"} for one in networks_of(config)],
    }


def _check(found: Sequence[tuple[Run, Cell]]) -> None:
    first: dict[str, tuple[Run, Cell]] = {}
    seen: dict[tuple[str, int], Run] = {}
    images: dict[int, tuple[Run, Any]] = {}
    for run, cell in found:
        name = f"{cell.label!r} with seed {cell.seed}"
        if (other := seen.setdefault((cell.label, cell.seed), run)) is not run:
            raise InputError(f"{name} is in {other.path} and in {run.path}: leave one of them out")
        before, model = first.setdefault(cell.label, (run, cell))
        if problem := _difference(model, cell, pretrained=any(one.get("pretrain") for one in networks_of(run.config))):
            raise InputError(
                f"{name} in {run.path} is not the {cell.label!r} of {before.path}: {problem}; rename one in its "
                f"config, or make two reports"
            )
        data = (run.record.get("data") or {}).get(str(cell.seed)), cell.test_counts
        before, known = images.setdefault(cell.seed, (run, data))
        if known != data:
            raise InputError(
                f"{run.path} and {before.path} used other images for seed {cell.seed}: make two reports, one for each"
            )


def _difference(one: Cell, other: Cell, *, pretrained: bool) -> str | None:
    """Say in what two cells of a label differ that should not."""
    for key in (k for k in (*one.settings, *other.settings) if k != "seed"):
        left, right = (cell.settings.get(key, "absent") for cell in (one, other))
        if left != right:
            return f"{key} is {right}, not {left}"
    if one.method != other.method:
        return f"its method is {other.method}, not {one.method}"
    if one.class_counts != other.class_counts:
        return "its experiences bring other numbers of classes"
    # A backbone trained by the run itself is another one for each seed.
    if one.backbone != other.backbone and not pretrained:
        return f"the backbone's weights have SHA-256 {other.backbone[:12]}…, not {one.backbone[:12]}…"
    return None
