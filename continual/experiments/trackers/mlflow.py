"""MLflow: an experiment for every benchmark, a run for every cell; by default in a folder of the run's."""

from __future__ import annotations

import os
import re
from typing import Any

from continual.experiments.trackers.base import Tracker, quietly


class MLflow(Tracker):
    """Writes to the server of MLFLOW_TRACKING_URI, or to `RUN/mlruns`."""

    name = "mlflow"
    summary = "runs of MLflow, at MLFLOW_TRACKING_URI or in the run's folder"
    package = "mlflow"

    def write(
        self, label: str, title: str, settings: dict[str, Any], steps: list[dict[str, Any]], figures: dict[str, float]
    ) -> None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer releases ask before they write files
        place = os.environ.get("MLFLOW_TRACKING_URI") or (self.folder / "mlruns").resolve().as_uri()
        client = self.library.MlflowClient(tracking_uri=place)
        there = client.get_experiment_by_name(title)
        experiment = client.create_experiment(title) if there is None else there.experiment_id
        run = client.create_run(experiment, run_name=label).info.run_id
        for name, value in settings.items():
            client.log_param(run, name, quietly(value))
        for number, step in enumerate(steps, start=1):
            for name, value in step.items():
                client.log_metric(run, _plain(name), value, step=number)
        for name, value in figures.items():
            client.log_metric(run, f"final {_plain(name)}", value, step=len(steps))
        client.set_terminated(run)


def _plain(name: str) -> str:
    return re.sub(r"[^\w .:/-]", " ", name)
