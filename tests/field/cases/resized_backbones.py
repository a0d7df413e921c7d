"""Files of compressed and grown backbones, as people and strangers have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continual import files
from continual.backbones.loading import load_backbone, save_backbone
from continual.errors import BackboneError, ModelFileError
from continual.methods.ridge import RidgeLearner
from continual.resizing.compressing import compressed
from continual.testing import coloured_squares, tiny_backbone
from tests.field.case import Case

IMAGES = coloured_squares(range(8), 3)[0]


def _changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write a compressed backbone whose recipe was changed by hand."""
    save_backbone(compressed(tiny_backbone(), IMAGES, epochs=0), folder / "small.safetensors")
    tensors, metadata = files.fetch(folder / "small.safetensors")
    recipe = json.loads(metadata["recipe"])
    change(recipe)
    files.store(folder / "changed.safetensors", tensors, {**metadata, "recipe": json.dumps(recipe)})
    return folder / "changed.safetensors"


def _strangers_recipe(folder: Path) -> None:
    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "is damaged": lambda recipe: recipe.update(run="os.system"),
        "is damaged .recipe.compressed.ranks": lambda recipe: recipe["ranks"].update({"blocks.0.attn.qkv": 10**9}),
        "a rank of 32 at most": lambda recipe: recipe["ranks"].update({"blocks.0.attn.qkv": 33}),
        "no such linear layer": lambda recipe: recipe["ranks"].update({"blocks.9.attn.qkv": 3}),
        "up.weight is": lambda recipe: recipe["ranks"].update({"blocks.0.attn.qkv": 5}),
        "is damaged .recipe": lambda recipe: recipe.update(kind="pickled"),
    }
    for said, change in changes.items():
        with pytest.raises(BackboneError, match=said):
            load_backbone(weights=_changed(folder, change))


def _without_recipe(folder: Path) -> None:
    save_backbone(compressed(tiny_backbone(), IMAGES, epochs=0), folder / "small.safetensors")
    tensors, metadata = files.fetch(folder / "small.safetensors")
    files.store(folder / "bare.safetensors", tensors, {k: v for k, v in metadata.items() if k != "recipe"})
    with pytest.raises(BackboneError, match=r"does not fit .* is missing"):
        load_backbone(weights=folder / "bare.safetensors")


def _never_written(folder: Path) -> None:
    learner = RidgeLearner(compressed(tiny_backbone(), IMAGES, epochs=0))
    learner.learn(*coloured_squares([0, 1], 3))
    with pytest.raises(ModelFileError, match="save_backbone"):
        learner.save(folder / "m.safetensors")
    assert list(folder.iterdir()) == []
    learner.save(folder / "m.safetensors", embed_backbone=True)


SECTION = "Checkpoints and backbones"
CASES = [
    Case(
        SECTION,
        "a compressed backbone's file with a recipe that somebody changed: other ranks, layers, kinds or fields",
        "it is refused by the schema or by the network's shapes, before memory is taken; nothing in it runs",
        "model files whose configuration names code or sizes, in reports on security",
        _strangers_recipe,
        row="",
    ),
    Case(
        SECTION,
        "its tensors alone, without the header",
        "they do not fit the network that is named, and are refused with the names of layers",
        "weights converted by a tool that drops metadata, a common question in trackers of file formats",
        _without_recipe,
        row="",
    ),
    Case(
        SECTION,
        "a model on a backbone that was compressed in Python and never written",
        "saving it is refused, and says both ways out: `save_backbone`, or the backbone inside the model",
        "checkpoints that only the session that made them can load, in trackers of compression tools",
        _never_written,
    ),
]
