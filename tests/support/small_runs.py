"""Configs of runs that take seconds, and what their folders must agree on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: a tiny backbone that is pretrained on the run's own images
PRETRAINED = """
[backbone]
name = "vit_tiny_patch16_224"
args = { img_size = 16, patch_size = 8, embed_dim = 32, depth = 2, num_heads = 2 }
[backbone.pretrain]
epochs = 2
"""


def config_text(rest: str, seeds: Sequence[int] = (1,)) -> str:
    """A config of the folders `train` and `test`, two classes an experience; `rest` is backbone, settings, methods."""
    data = '[data]\nsource = "folder"\ntrain = "train"\ntest = "test"\n[stream]\nclasses = 2\n'
    return f'title = "Small"\nseeds = {list(seeds)}\n{data}{rest}'


def results(out: Path) -> dict[str, Any]:
    """Everything in a run folder's cells and records but times and circumstances."""
    found: dict[str, Any] = {}
    for path in sorted(out.glob("cells/*.json")):
        cells = json.loads(path.read_text())
        for cell in cells:
            cell["evaluations"] = [
                {k: v for k, v in evaluation.items() if not k.endswith("seconds") and k != "waiting"}
                for evaluation in cell["evaluations"]
            ]
        found[path.name] = cells
    for path in sorted(out.glob("records/*.json")):
        record = json.loads(path.read_text())
        found[f"record of {path.name}"] = {k: v for k, v in record.items() if k != "circumstances"}
    return found
