"""A frozen ViT with other weights in some rows of its blocks' first MLP matrices; the one given stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from timm.layers import Mlp
from torch import nn

from continual.backbones.loading import Backbone
from continual.backbones.vit import FrozenViT
from continual.errors import BackboneError
from continual.statistics.ignored import MLPRows


def first_matrices(backbone: Backbone) -> list[nn.Linear]:
    """Return the first linear layer of every block's MLP, (H, D) each.

    Raises BackboneError for networks whose blocks have no such layer: a CNN, several backbones, gated or factored MLPs.
    """
    plain = len(backbone.parts) == 1 and isinstance(backbone.frozen, FrozenViT)
    mlps: list[Any] = [getattr(block, "mlp", None) for block in backbone.frozen.network.blocks] if plain else []
    if not mlps or any(type(mlp) is not Mlp or type(mlp.fc1) is not nn.Linear for mlp in mlps):
        raise BackboneError(
            f"rows of MLPs cannot be edited in {backbone.name}: that takes one ViT with plain MLPs that is not "
            "compressed (vit_*, deit*, *_dinov2); leave the edit to the head"
        )
    return [mlp.fc1 for mlp in mlps]


def with_rows(backbone: Backbone, edits: Sequence[MLPRows]) -> Backbone:
    """Return a copy of a backbone whose first MLP matrices have something added to some rows.

    Raises BackboneError as `first_matrices` does, ValueError for rows that it does not have.
    """
    first_matrices(backbone)
    frozen = FrozenViT(copy.deepcopy(backbone.frozen.network))
    made = replace(backbone, frozen=frozen, sha256="", fit=None)
    layers = first_matrices(made)
    for edit in edits:
        height, width = layers[0].weight.shape
        fits = edit.step.shape == (len(layers), width) and len(edit.rows) == len(layers)
        if not fits or not ((edit.rows >= 0) & (edit.rows < height)).all():
            raise ValueError(f"the edit of MLPs is of other blocks than the {len(layers)} of {height} rows x {width}")
        for layer, rows, step in zip(layers, edit.rows, edit.step, strict=True):
            layer.weight.data[rows] += step.to(layer.weight)
    return replace(made, sha256="")
