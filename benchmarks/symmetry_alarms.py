"""How many known images are called unknown under every symmetry, where 5 and 20 % are asked for.

    python benchmarks/symmetry_alarms.py configs/no_up/plankton.toml --source DIR --weights FILE --cache DIR --out FILE

`ridge` and `strata` learn the splits of 20 images per class under D4, and are asked about the test images. What is
usual of known images is noted of their views as they are looked at, and beside it of the even mean over all views.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import typer
from arguments import Figures, Weights
from measuring import records_in, surroundings
from remembered import remembering

from continual.backbones.loading import load_backbone
from continual.experiments.config import load_runs
from continual.experiments.run import streams
from continual.methods import method
from continual.methods.bases.regression_update import RegressionUpdate
from continual.symmetry import KINDS

RATES, PER_CLASS = (0.05, 0.2), 20


def even() -> Any:
    """Let what is usual be noted of the even mean over all views."""
    return mock.patch.object(RegressionUpdate, "_looked_at", lambda self, images, noted, rows: images)


def main(
    config: Annotated[Path, typer.Argument(help="A config of configs/no_up.")],
    source: Annotated[Path, typer.Option(help="A folder with one folder per class.")],
    weights: Weights,
    cache: Annotated[Path, typer.Option(help="A folder that keeps features.")],
    out: Figures,
    splits: Annotated[int, typer.Option(help="How many splits, at most.")] = 3,
) -> None:
    """Write the shares, and print them."""
    runs = load_runs(config, [f"data.source={source}", f"backbone.weights={weights}"])
    runs = {name: run for name, run in runs.items() if run.stream.per_class == PER_CLASS}
    first = next(iter(runs.values()))
    backbone = remembering(load_backbone(weights=weights, **first.backbone.args), cache / f"{config.stem}.safetensors")
    frozen: Any = backbone.frozen
    records: list[dict[str, Any]] = records_in(out)
    known = {(record["run"], record["method"], record["symmetry"]) for record in records}
    for name, run in [*runs.items()][:splits]:
        (stream,) = streams(run).values()
        (experience,) = stream.experiences
        for base, kind in ((base, kind) for base in ("ridge", "strata") for kind in KINDS.all()):
            if (name, base, kind) in known or (base == "strata" and KINDS.get(kind).reads_features):
                continue
            shares: dict[str, list[float] | None] = {}
            for side, noting in (("as looked at", nullcontext()), ("even mean", even())):
                learner = method(base)(backbone, group="D4", symmetry=kind, precision="bfloat16")
                with noting:
                    learner.learn(experience.train_images, experience.train_labels)
                p_value = learner.predict(experience.test_images).p_value
                shares[side] = None if p_value is None else [float((p_value <= rate).float().mean()) for rate in RATES]
            records.append({"run": name, "method": base, "symmetry": kind, "false alarms": shares})
            print(json.dumps(records[-1]), flush=True)
            records[-1]["ran on"] = surroundings()
            out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        frozen.keep()


if __name__ == "__main__":
    typer.run(main)
