"""A kind of a user's own, in a file beside the config: learned with, saved, loaded, asked and reported, end to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import continual
from continual import adapters, losses, merging, methods, selection
from continual.registry import Registry

Equimos = Callable[..., Any]

#: folder -> its registry, a file of the user's own, and the lines of the config that name what is in it
KINDS: dict[str, tuple[Registry[Any], str, str]] = {
    "adapters": (
        adapters.KINDS,
        """
from typing import ClassVar
import torch
from continual.adapters.base import AdapterKind
class Gain(AdapterKind):
    \"\"\"A gain and a shift for each number of a token.\"\"\"
    name: ClassVar[str] = "gain"
    start: float = 0.0
    def new(self, shapes, generator):
        return {n: torch.full((shapes.depth, shapes.width), self.start) for n in ("gain", "shift")}
    def block(self, weights, h, keep=None):
        gain, shift = (w.unsqueeze(-2) for w in (weights["gain"], weights["shift"]))
        return h * gain + shift
""",
        '[methods.mos]\nadapter = "own.py:Gain"\nadapter_args = {start = 0.0}\nepochs = 2\nalignment_epochs = 1\n',
    ),
    "merging": (
        merging.RULES,
        """
from continual.merging.base import rule
@rule("newest")
def newest(stacks, start, *, share=1.0):
    \"\"\"Take the newest.\"\"\"
    return start + share * (stacks[-1] - start)
""",
        '[methods.mos]\nanchor = "own.py:newest"\nanchor_args = {share = 0.5}\nepochs = 2\nalignment_epochs = 1\n'
        '[methods.mos.variants."merged"]\nconsolidate = "newest"\n',
    ),
    "losses": (
        losses.TERMS,
        """
from typing import ClassVar
from continual.losses.base import LossTerm
class Confident(LossTerm):
    \"\"\"Punishes long logits, and looks at the images.\"\"\"
    name: ClassVar[str] = "confident"
    power: float = 2.0
    def observe(self, images):
        return {"light": images.mean((1, 2, 3))}
    def __call__(self, batch):
        assert len(batch.extra["light"]) == len(batch.logits)
        return batch.logits.abs().pow(self.power).mean()
""",
        '[methods.finetune]\nepochs = 2\nlosses = {"own.py:Confident" = {weight = 0.1, power = 1.0}}\n',
    ),
    "selection": (
        selection.RULES,
        """
import torch
from continual.selection.base import rule
@rule("longest")
def longest(features, count, generator):
    \"\"\"Keep the longest features.\"\"\"
    return features.norm(dim=1).argsort(descending=True, stable=True)[:count]
""",
        '[methods.joint]\nepochs = 1\nkept = 2\nselection = "own.py:longest"\n',
    ),
    "methods": (
        methods.METHODS,
        """
from continual.methods.simple_cil import SimpleCILLearner
class Own(SimpleCILLearner):
    \"\"\"Prototypes of the user's own.\"\"\"
    method, summary = "own", "prototypes again"
""",
        '[methods.mine]\nmethod = "own.py:Own"\n',
    ),
}


@pytest.fixture
def _forgotten() -> Iterator[None]:
    """Kinds that a test adds are gone after it."""
    before = {name: dict(registry._added) for name, (registry, *_) in KINDS.items()}
    yield
    for name, (registry, *_) in KINDS.items():
        registry._added = before[name]


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in ("methods", "adapters") else pytest.mark.slow) for kind in KINDS]
)
def test_a_kind_of_ones_own_is_one_file(
    kind: str, equimos: Equimos, config: Path, weights: Path, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, code, lines = KINDS[kind]
    assert code.count("\n") <= 20, "a kind of one's own takes at most 20 lines"
    (config.parent / "own.py").write_text(code)
    text = config.read_text()
    config.write_text(text[: text.index("[methods.")] + lines)
    monkeypatch.chdir(flowers)  # a file is looked up beside the config, wherever the command is run

    out = config.parent / "out"
    ran = equimos("run", config, "--out", out, "device=cpu")
    assert ran.exit_code == 0, ran.stderr
    assert equimos("report", out).exit_code == 0
    (cells,) = [json.loads(path.read_text()) for path in (out / "cells").glob("*.json")]
    settings = cells[0]["settings"]
    (name,) = registry._added
    assert name in json.dumps({**settings, "method": cells[0]["method"]})
    listed = equimos("list", kind).stdout
    assert name in listed
    assert "own.py" in listed

    # The file of a model has the kind's name, and is of use once the kind is known.
    learner = continual.method(cells[0]["method"])(
        continual.load_backbone(weights=weights, crop_scale=(0.5, 1.0)), **settings
    )
    pictures = sorted(flowers.rglob("*.png"))
    learner.learn(pictures, [path.parent.name for path in pictures])
    learner.save(config.parent / "model.safetensors")
    images = [Image.open(path) for path in pictures]
    expected = learner.predict(images).labels
    assert continual.load(config.parent / "model.safetensors").predict(images).labels == expected
    registry._added.clear()
    with pytest.raises(continual.EquimosError, match=f"unknown .*{name!r}"):
        continual.load(config.parent / "model.safetensors")
