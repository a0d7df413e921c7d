"""What tuning did: its course, and the accuracy before and after; as a table, a picture and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from equivariant.checks.evaluation import Evaluation
from equivariant.files import save_figure, written


@dataclass(frozen=True)
class Record:
    """One score of the validation split."""

    stage: int  #: counted from 0
    step: int  #: optimizer steps taken in this stage
    loss: float | None  #: mean training loss since the last record; None before the first step
    validation_loss: float
    validation_accuracy: float  #: in [0, 1]; of a stage "upright": images whose upright view alone scores best
    passes: float = 1.0  #: of the backbone, for an image of the validation split
    finished: float = 1.0  #: its views that went through all of the backbone


@dataclass(frozen=True)
class TuningResult:
    """The course of the tuning, and the evaluations on test images, if there were any."""

    group: str
    history: list[Record] = field(default_factory=list)
    before: Evaluation | None = None
    after: Evaluation | None = None

    @property
    def _evaluations(self) -> list[tuple[str, Evaluation]]:
        return [(n, e) for n, e in (("before", self.before), ("after", self.after)) if e is not None]

    def table(self) -> str:
        """Return accuracies in percent, untransformed and transformed, and backbone passes per image, as Markdown."""
        rows = [f"| {n} | {e.upright:.2%} | {e.turned:.2%} | {e.passes:.2f} |" for n, e in self._evaluations]
        head = ["| | untransformed | transformed | passes |", "|---|---|---|---|"]
        return "\n".join([*head, *(row.replace("%", " %") for row in rows)])

    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        with written(path) as place:
            place.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    def plot(self, path: str | Path) -> None:
        """Draw the course, the accuracies, and the learned weight of each element; needs matplotlib."""
        from matplotlib.figure import Figure

        from equivariant.style import COLOURS, FAINT, ink

        evaluations, weights = self._evaluations, self.after.weights if self.after else {}
        count = 1 + bool(evaluations) + bool(weights)
        figure = Figure(figsize=(4 * count, 3.2), layout="constrained")
        panels = iter(figure.subplots(1, count, squeeze=False)[0])
        axes, done = next(panels), 0
        for stage in sorted({record.stage for record in self.history}):
            records = [record for record in self.history if record.stage == stage]
            steps = [done + record.step for record in records]
            axes.plot(
                steps,
                [record.validation_accuracy for record in records],
                label=f"stage {stage}",
                color=COLOURS[stage % len(COLOURS)],
            )
            done += records[-1].step
        axes.set(xlabel="step", ylabel="validation accuracy")
        axes.legend(frameon=False)
        if evaluations:
            axes = next(panels)
            for i, (name, found) in enumerate(evaluations):
                bars = [found.upright, found.turned]
                axes.bar([0.4 * i, 1.5 + 0.4 * i], bars, 0.38, label=name, color=COLOURS[i])
            ticks = {"xticks": [0.2, 1.7], "xticklabels": ["untransformed", "transformed"]}
            axes.set(ylabel="test accuracy", ylim=(0, 1), **ticks)
            axes.legend(frameon=False)
        if weights:
            axes = next(panels)
            axes.bar(list(weights), list(weights.values()), color=COLOURS[0])
            axes.axhline(1 / len(weights), color=FAINT, linewidth=0.8, linestyle=":")
            axes.set(xlabel=f"element of {self.group}", ylabel="mean weight, images as they are")
            axes.tick_params(axis="x", rotation=45)
        for axes in figure.axes:
            ink(axes)
        save_figure(figure, path)
