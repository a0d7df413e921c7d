"""Model Surgery's edit (2024): a concept's direction, added to the rows of a ViT's MLPs that are most opposed to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from continual.adapters.base import Serving
from continual.backbones.mlp_rows import first_matrices
from continual.learning.concept import Concept
from continual.learning.extractor import Extractor
from continual.statistics.ignored import MLPRows

#: the share of a matrix's rows that are edited
SHARE = 0.047
#: alpha, in mean lengths of a matrix's rows; the other sign is the opposite edit
ALPHA = 0.3


def rows_of(concept: Concept, extractor: Extractor, alpha: float = ALPHA, **options: Any) -> MLPRows:
    """Return the edit against a concept: w_k <- w_k + alpha mean_j |w_j| v for the rows k with the least cos(w_k, v).

    v (D,), of length 1, is a block's probe: the direction in which a logistic regression tells images with the concept
    from those without, by the mean over tokens of what enters the block's MLP. A block in which nothing changes stays.
    Raises BackboneError for networks without such MLPs.
    """
    layers, blocks = first_matrices(extractor.backbone), extractor.backbone.frozen.network.blocks

    def read(images: Tensor) -> Sequence[Tensor]:
        means: dict[int, Tensor] = {}

        def beside(block: int, h: Tensor) -> Tensor:
            means[block] = blocks[block].norm2(h).float().mean(1)
            return torch.zeros_like(h)

        extractor.features(images, Serving(beside))
        return [means[block] for block in range(len(blocks))]

    found = concept.read(read, extractor.backbone.preprocessing, extractor.device, **options)
    rows, steps = [], []
    for layer, present, absent in zip(layers, *found, strict=True):
        probe, lengths = _probe(present, absent), layer.weight.norm(dim=1)
        cosines = layer.weight @ probe / lengths.clamp_min(1e-12)
        rows.append(cosines.topk(max(1, round(SHARE * len(lengths))), largest=False).indices)
        steps.append(alpha * lengths.mean() * probe)
    return MLPRows(torch.stack(rows).cpu(), torch.stack(steps).cpu())


def _probe(present: Tensor, absent: Tensor) -> Tensor:
    """Return the direction (D,) from rows (m, D) without a concept to those with it; zeros where they do not differ.

    It is that of the weights w of a logistic regression with |w|^2 / 2 added to the summed loss.
    """
    if torch.equal(present, absent):
        return torch.zeros_like(present[0])
    x = torch.cat([present, absent]).double().cpu()
    x, signs = x - x.mean(0), torch.tensor([1.0, -1.0]).repeat_interleave(torch.tensor([len(present), len(absent)]))
    own = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([own], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = softplus(-signs * (x @ own[:-1] + own[-1])).sum() + own[:-1].square().sum() / 2
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return normalize(own[:-1].detach(), dim=0).to(present)
