"""Concepts that answers are not to follow, such as a watermark: what they change in features, and heads without that.

A concept is given by pairs of images with and without it. D (m, D) are the changes of their features. A regression with
squares of the values' changes, |D W|^2, in what it minimises follows them less; no image that was learned is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from continual.statistics.class_statistics import ClassStatistics
from continual.statistics.head import Head

#: gamma, how much the changes of values cost, where those of all images' values have a cost of 1
STRENGTH = 10.0


@dataclass(frozen=True)
class MLPRows:
    """Rows of the first MLP matrix of each of a ViT's blocks to which something is added while it answers."""

    rows: Tensor  #: (L, K) int64
    step: Tensor  #: (L, D), what is added to each of them

    def check_shapes(self) -> None:
        """Raise ValueError for rows and steps that are not of the same blocks."""
        if self.rows.ndim != 2 or self.step.ndim != 2 or len(self.rows) != len(self.step):
            raise ValueError(f"rows are of shape {tuple(self.rows.shape)}, steps of {tuple(self.step.shape)}")
        if self.rows.dtype != torch.int64:
            raise ValueError(f"rows are {self.rows.dtype}, not int64")


@dataclass(frozen=True)
class Ignored:
    """One concept."""

    name: str
    strength: float  #: gamma
    rows: Tensor | None = None  #: (m, D), what it changes in the features that are remembered
    blocks: Tensor | None = None  #: (L, D), of length 1, the direction in which it changes the tokens of each block
    final: Tensor | None = None  #: (D,), of length 1, that of a ViT's own features
    mlp: MLPRows | None = None  #: an edit of the ViT, under which answers are given

    def check_shapes(self) -> None:
        """Raise ValueError for rows or blocks that are no matrices."""
        for name, dims in (("rows", 2), ("blocks", 2), ("final", 1)):
            if (found := getattr(self, name)) is not None and found.ndim != dims:
                raise ValueError(f"{name} is of shape {tuple(found.shape)}, with other than {dims} axes")
        if not 0 < self.strength < float("inf"):
            raise ValueError(f"strength is {self.strength}, not above 0")


def check_width(ignored: Sequence[Ignored] | None, width: int | None) -> None:
    """Raise ValueError for a concept whose rows are of another width than the features."""
    for one in ignored or ():
        if one.rows is not None and width is not None and one.rows.shape[1] != width:
            raise ValueError(f"the concept {one.name!r} is of width {one.rows.shape[1]}, the features of {width}")


def penalised(ignored: Sequence[Ignored] | None, images: float) -> Tensor | None:
    """Return rows (m, D), the products of which are added to those of the features of so many images; None if no.

    gamma n / m sum_i D_i D_i^T for each concept: a change weighs as gamma images do.
    """
    found = [
        one.rows.double() * (one.strength * images / len(one.rows)) ** 0.5
        for one in ignored or ()
        if one.rows is not None and len(one.rows)
    ]
    return torch.cat(found) if found else None


def orthonormal(rows: Tensor) -> Tensor:
    """Return rows (..., k, D) of length 1 or 0, at right angles to one another, that span what the rows given span."""
    _, sizes, directions = torch.linalg.svd(rows.double().cpu(), full_matrices=False)
    return directions * (sizes > 1e-6)[..., None]


def corrected(head: Head, statistics: Sequence[ClassStatistics], ignored: Sequence[Ignored] | None) -> Head:
    """Return the head nearest to one that was trained, in what it says of its classes, that follows concepts less.

    The minimiser of E (x^T (W - W_0))^2 + gamma / m sum_i (D_i^T W)^2 with E x x^T from the class statistics, each
    class alike; of W what all classes have in common stays, as no answer depends on it.
    """
    if (rows := penalised(ignored, 1.0)) is None:
        return head
    moments = torch.stack([own.covariance_matrix() + torch.outer(own.mean, own.mean) for own in statistics])
    moments = moments.double().mean(0)
    moments.diagonal().add_(1e-6 * moments.diagonal().mean())
    weight = head.weight.double()
    common = weight.mean(0)
    solved = torch.linalg.solve(moments + rows.mT @ rows, moments @ (weight - common).mT)
    return Head((solved.mT + common).to(head.weight), head.bias)
