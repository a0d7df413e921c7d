"""TensorBoard: event files in the run's folder; `tensorboard --logdir RUN/tensorboard` shows them."""

from __future__ import annotations

import json
import re
from typing import Any

from continual.experiments.trackers.base import Tracker


class TensorBoard(Tracker):
    """Writes a folder of event files for every cell."""

    name = "tensorboard"
    summary = "event files in the run's folder, for `tensorboard --logdir`"
    package = "torch.utils.tensorboard"

    def write(
        self, label: str, title: str, settings: dict[str, Any], steps: list[dict[str, Any]], figures: dict[str, float]
    ) -> None:
        place = self.folder / "tensorboard" / re.sub(r"[^\w.=-]+", "_", label)
        with self.library.SummaryWriter(str(place)) as writer:
            writer.add_text("settings", f"```json\n{json.dumps(settings, indent=1, default=str)}\n```")
            for number, step in enumerate(steps, start=1):
                for name, value in step.items():
                    writer.add_scalar(f"experience/{name}", value, number)
            for name, value in figures.items():
                writer.add_scalar(f"final/{name}", value, len(steps))
