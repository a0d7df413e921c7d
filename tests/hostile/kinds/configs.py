"""Configs of benchmark runs: values out of place, levers of timm, and code that must not be run to check them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from continual.cli.runs import _toml
from tests.hostile.corpus import Hostile, Materials, Words
from tests.hostile.values import LEVERS, changed

EVIL = "open('owned', 'w').close()\nimport os\nos.system('touch owned')\nclass Learner: pass\n"


def cases(draw: random.Random, materials: Materials) -> Iterator[Hostile]:
    """Yield changed configs, configs with levers, and configs that name code."""
    sound: dict[str, Any] = {
        "title": "Tiny",
        "data": {"source": "folder", "train": str(materials.images), "test": str(materials.images)},
        "stream": {"classes": 1},
        "backbone": {"weights": str(materials.weights), "args": {"img_size": 16}},
        "methods": {"simple_cil": {"method": "simple_cil"}},
        "seeds": [1],
        "device": "cpu",
    }
    while True:
        for _ in range(4):
            said, values = changed(sound, draw)
            yield _case(said, values)
        key, value = draw.choice(LEVERS)
        yield _case(f"args.{key}", {**sound, "backbone": {**sound["backbone"], "args": {key: value}}}, refused=True)
        code = draw.choice(["evil:Learner", "evil.py:Learner", "./evil.py:Learner", "evil.Learner:x"])
        rows = [
            {"method": code},
            {"method": "mos", "adapter": code},
            {"method": "mos", "losses": {code: {"weight": 1}}},
        ]
        row = draw.choice(rows)
        yield _case(f"code {row}", {**sound, "methods": {"row": row}}, refused=True)


def _case(said: str, values: dict[str, Any], refused: bool = False) -> Hostile:
    def make(folder: Path) -> Sequence[Words]:
        (folder / "evil.py").write_text(EVIL)
        (folder / "c.toml").write_text(_written(values), encoding="utf-8", errors="replace")
        return [["show", folder / "c.toml"], ["run", folder / "c.toml", "--dry-run", "--out", folder / "out"]]

    # What `show` does not look at, a dry run does.
    return Hostile(said, (lambda folder: make(folder)[1:]) if refused else make, refused)


def _written(values: dict[str, Any]) -> str:
    try:
        return _toml(values)
    except (TypeError, ValueError):
        return json.dumps(values)
