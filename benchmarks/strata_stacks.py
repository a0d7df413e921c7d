"""What `strata` would gain from an adapter that is trained on the first experience and then frozen.

    OMP_NUM_THREADS=1 python benchmarks/strata_stacks.py --images DIR --weights FILE --out results.json

Streams of the half of the classes that things are chosen on (see `strata.py`). The adapter is MOS's first, or RanPAC's;
then strata reads the tokens under it, or the frozen ones and those side by side.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any, ClassVar

import torch
import typer
from arguments import SEEDS, Figures, Images, PerClass, Seeds, Size
from arguments import Weights as WeightsFile
from measuring import spread, surroundings, table
from mos_diagnosis import answered, tuning_stream
from real_streams import backbone_of
from torch import Tensor

from continual.adapters.bank import shared
from continual.adapters.base import AdapterKind, Weights
from continual.backbones.loading import Backbone
from continual.datasets.streams import Experience
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.methods.mos.learner import MOSLearner
from continual.methods.ranpac import RanPACLearner
from continual.methods.strata import StrataLearner

TRAINING = {"epochs": 6, "batch_size": 16, "precision": "bfloat16"}
FROZEN = "strata"


class StackedStrata(StrataLearner):
    """Strata whose blocks have adapters beside their MLPs; see `stacked`, for learners copy themselves."""

    stack: ClassVar[Weights]
    kind: ClassVar[AdapterKind]
    beside: ClassVar[bool]

    def _tokens(self, extractor: Extractor, images: Tensor, mirrored: bool, cache: FeatureCache | None) -> Tensor:
        frozen: Any = extractor.backbone.frozen
        adapters, own = shared(self.kind, self.stack), frozen._mlp
        own_tokens = [super()._tokens(extractor, images, mirrored, None)] if self.beside else []
        # The first block's stem is without gradients computed by the same half: it gets its adapter here, too.
        frozen._mlp = lambda index, h: own(index, h) + adapters(index, h)
        try:
            return torch.cat([*own_tokens, super()._tokens(extractor, images, mirrored, None)], 1)
        finally:
            del frozen._mlp


def stacked(stack: Weights, kind: AdapterKind, beside: bool) -> type[StackedStrata]:
    """Return strata under an adapter; with `beside`, it reads the frozen tokens as well."""
    return type("Stacked", (StackedStrata,), {"stack": stack, "kind": kind, "beside": beside})


def stacks_of(backbone: Backbone, first: Experience, seed: int) -> dict[str, tuple[Weights, AdapterKind]]:
    """Return adapters trained on an experience, by the method that trained them, with their kind."""
    mos = MOSLearner(backbone, seed=seed, alignment_epochs=0, **TRAINING)
    mos.learn(first.train_images, first.train_labels)
    ranpac = RanPACLearner(backbone, seed=seed, projection=64, **TRAINING)
    ranpac.learn(first.train_images, first.train_labels)
    return {
        "MOS's": (mos.state.bank[0], mos.settings.adapter_kind),
        "RanPAC's": (ranpac.state.stack or {}, ranpac.settings.adapter_kind),
    }


def rows_of(backbone: Backbone, stacks: dict[str, tuple[Weights, AdapterKind]]) -> dict[str, StrataLearner]:
    """Return the learners that are compared, by name."""
    rows: dict[str, StrataLearner] = {FROZEN: StrataLearner(backbone, precision="bfloat16")}
    for whose, (stack, kind) in stacks.items():
        for beside in (False, True):
            learner = stacked(stack, kind, beside)(backbone, precision="bfloat16")
            rows[f"frozen tokens and those under {whose} stack" if beside else f"under {whose} stack"] = learner
    return rows


def main(
    images: Images,
    weights: WeightsFile,
    out: Figures,
    size: Size = 70,
    classes: int = 30,
    experiences: int = 5,
    per_class: PerClass = 20,
    seeds: Seeds = SEEDS,
) -> None:
    """Measure, print a table and keep every figure."""
    torch.set_num_threads(1)
    backbone, records = backbone_of(weights, size), []
    for seed in seeds:
        stream = tuning_stream(images, seed, classes, experiences, per_class)
        for name, learner in rows_of(backbone, stacks_of(backbone, stream.experiences[0], seed)).items():
            started = time.perf_counter()
            curve = [100 * found["as it is"] for found in answered(learner, stream)]
            records.append({"seed": seed, "row": name, "average": statistics.fmean(curve), "final": curve[-1]})
            print(records[-1], f"{time.perf_counter() - started:.0f} s", flush=True)
    out.write_text(json.dumps({"ran on": surroundings(), "per class": per_class, "records": records}, indent=1) + "\n")
    print(summary(records))


def summary(records: list[dict[str, Any]]) -> str:
    """Return a table of means, and of gains over strata, paired over the seeds."""
    found = {name: [r for r in records if r["row"] == name] for name in dict.fromkeys(r["row"] for r in records)}
    lines = []
    for name, rows in found.items():
        line = [name.replace("stack", "adapter")]
        for figure in ("average", "final"):
            gains = [mine[figure] - plain[figure] for mine, plain in zip(rows, found[FROZEN], strict=True)]
            line += [f"{statistics.fmean(r[figure] for r in rows):.1f}", spread(gains, "+.1f")]
        lines.append(line)
    return table(["row", "Ā [%]", "gain", "final [%]", "gain"], lines)


if __name__ == "__main__":
    typer.run(main)
