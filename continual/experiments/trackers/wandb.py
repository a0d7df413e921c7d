"""Weights & Biases: a run for every cell, grouped by benchmark; WANDB_MODE=offline keeps them in the run's folder."""

from __future__ import annotations

from typing import Any

from continual.experiments.trackers.base import Tracker


class WeightsAndBiases(Tracker):
    """Makes a run for every cell in the project `equimos`, or that of WANDB_PROJECT."""

    name = "wandb"
    summary = "a run of Weights & Biases for every cell; WANDB_MODE=offline needs no account"
    package = "wandb"

    def write(
        self, label: str, title: str, settings: dict[str, Any], steps: list[dict[str, Any]], figures: dict[str, float]
    ) -> None:
        import os

        project = os.environ.get("WANDB_PROJECT", "equimos")
        own = {"project": project, "name": label, "group": title, "config": settings, "dir": str(self.folder)}
        quiet = self.library.Settings(console="off", silent=True)
        with self.library.init(**own, reinit="create_new", settings=quiet) as run:
            for number, step in enumerate(steps, start=1):
                run.log({"experience": number, **step}, step=number)
            run.summary.update(figures)
