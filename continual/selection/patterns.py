"""FreeSel: which images to label, by patterns of what a ViT attends to (Xie et al., NeurIPS 2023, arXiv 2309.17342).

The patches that get most of the class token's attention are grouped by a spectral clustering; a pattern is the mean of
a group. Images are drawn one after the other, each in proportion to the squared distance of a pattern of it to the
nearest pattern of those drawn before. After the paper's outline; the Laplacian is the normalised one of cosines.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

#: groups of patches of an image, at most
PATTERNS = 5
#: share of the class token's attention that the kept patches have
ATTENDED = 0.5
#: steps of k-means among the few patches of an image
STEPS = 20


def attended(attention: Tensor, share: float = ATTENDED) -> Tensor:
    """Return the fewest patches (m,) whose attention (N,), which sums to 1, is `share` together; most first."""
    order = attention.argsort(descending=True, stable=True)
    reached = attention[order].cumsum(0) < share * attention.sum()
    return order[: int(reached.sum()) + 1]


def spectral_groups(patches: Tensor, count: int) -> Tensor:
    """Return which of at most `count` groups each of patches (n, D) belongs to, (n,).

    The groups of the rows of the eigenvectors of I - D^-1/2 W D^-1/2 with the least eigenvalues, scaled to length 1,
    W being the cosines, none below 0. Starting points are the farthest ones, so that nothing is random.
    """
    count = min(count, len(patches))
    rows = normalize(patches.double(), dim=1)
    likeness = (rows @ rows.mT).clamp(min=0)
    scale = likeness.sum(1).rsqrt()
    _, vectors = torch.linalg.eigh((torch.eye(len(rows)).to(rows) - scale[:, None] * likeness * scale).cpu())
    return _k_means(normalize(vectors[:, :count], dim=1), count)


def _k_means(rows: Tensor, count: int) -> Tensor:
    """Return groups (n,) of rows (n, K) by Lloyd's steps, from rows far apart."""
    starts = [0]
    for _ in range(count - 1):
        starts.append(int(torch.cdist(rows, rows[starts]).amin(1).argmax()))
    centres = rows[starts]
    for _ in range(STEPS):
        groups = torch.cdist(rows, centres).argmin(1)
        means = [rows[groups == k].mean(0) if (groups == k).any() else centres[k] for k in range(count)]
        if torch.equal(moved := torch.stack(means), centres):
            break
        centres = moved
    return groups


def patterns_of(patches: Tensor, attention: Tensor, count: int = PATTERNS, share: float = ATTENDED) -> Tensor:
    """Return the patterns (K, D) of an image's patches (N, D), which the class token attends to so much (N,)."""
    kept = patches[attended(attention, share)]
    groups = spectral_groups(kept, count).to(kept.device)
    return torch.stack([kept[groups == group].mean(0) for group in groups.unique()])


def by_patterns(
    patterns: Sequence[Tensor], count: int, generator: torch.Generator, weights: Tensor | None = None
) -> list[int]:
    """Return the places of at most `count` images, each of which has patterns (K_i, D): fewer are the first of more.

    The distance is 1 - cosine. `weights` (n,) say how likely an image is drawn beside that. Images whose patterns are
    all there already come last, in order.
    """
    rows = normalize(torch.cat([*patterns]).double(), dim=1).cpu()
    owner = torch.repeat_interleave(torch.arange(len(patterns)), torch.tensor([len(own) for own in patterns]))
    weigh = torch.ones(len(patterns)) if weights is None else weights.cpu()
    weigh = weigh.double()[owner]
    squared, left = torch.ones(len(rows), dtype=torch.float64), torch.ones(len(patterns), dtype=torch.bool)
    chosen: list[int] = []
    while len(chosen) < min(count, len(patterns)):
        chances = squared * weigh * left[owner]
        if not (chances > 1e-12).any():
            chosen += left.nonzero()[:, 0].tolist()[: count - len(chosen)]
            break
        image = int(owner[torch.multinomial(chances, 1, generator=generator)])
        chosen.append(image)
        left[image] = False
        squared = squared.minimum((1 - rows @ rows[owner == image].mT).clamp(min=0).amin(1).square())
    return chosen
