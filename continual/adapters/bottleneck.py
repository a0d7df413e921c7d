"""The bottleneck adapter, and a stack of them: one for every block of the backbone.

MOS (arXiv 2412.09441) section 3; the shape is AdaptFormer's, parallel to the MLP. For the tokens `h`
that enter a block's MLP half,

    out = h + MLP(norm2(h)) + s * up(dropout(relu(down(h))))

where `down` maps D to r and `up` maps r to D, both with a bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from continual.distributed import Rows

#: (block index, tokens h (B, N, D)) -> what to add to the block's output (B, N, D)
Adapters = Callable[[int, Tensor], Tensor]

#: The tensors of one stack; the leading axis L runs over the blocks.
StackWeights = Mapping[str, Tensor]


def bottleneck(
    h: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    *,
    scale: float,
    dropout: float = 0.0,
    keep: Tensor | None = None,
) -> Tensor:
    """Return `s * up(dropout(relu(down(h))))`, of shape (B, N, D).

    Weights are (r, D), (r,), (D, r), (D,), shared by the batch, or carry a leading axis B: one adapter
    an image. Dropout happens if, and only if, its mask is given, `keep` (B, N, r) of zeros and ones, so there is
    no training mode to forget to leave.
    """
    z = torch.relu(_affine(h, down_weight, down_bias))
    if keep is not None:
        z = z * keep / (1 - dropout)
    return _affine(scale * z, up_weight, scale * up_bias)  # z is D / r times smaller than what it becomes


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `x @ weight.T + bias` in one operation, the weights shared by the batch or one for each image."""
    if weight.dim() == 2:
        return linear(x, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


class AdapterStack(nn.Module):
    """One adapter for each of `depth` blocks of width `width`; a fresh stack is the identity.

    Parameters are stacked over the blocks: `down_weight` (L, r, D), `down_bias` (L, r),
    `up_weight` (L, D, r), `up_bias` (L, D). For ViT-B/16 and r = 16 they are 304,320 numbers.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        bottleneck: int = 16,
        *,
        scale: float = 0.1,
        dropout: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.dropout = scale, dropout
        # Kaiming-uniform with a = sqrt(5) over a fan-in of D is the uniform law on +-1/sqrt(D).
        bound = 1 / math.sqrt(width)
        down = torch.empty(depth, bottleneck, width).uniform_(-bound, bound, generator=generator)
        self.down_weight = nn.Parameter(down)
        self.down_bias = nn.Parameter(torch.zeros(depth, bottleneck))
        self.up_weight = nn.Parameter(torch.zeros(depth, width, bottleneck))
        self.up_bias = nn.Parameter(torch.zeros(depth, width))

    def weights(self) -> dict[str, Tensor]:
        """Return the live tensors by name (not copies)."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def frozen(self) -> dict[str, Tensor]:
        """Return a copy of the weights that later training cannot reach."""
        return {name: tensor.clone() for name, tensor in self.weights().items()}

    def masks(self, images: int, tokens: int, noise: torch.Generator, rows: Rows | None = None) -> list[Tensor] | None:
        """Draw the dropout of a batch of images (B, N, D): a mask (B, N, r) for each block; None without dropout.

        It is drawn for a whole batch; `rows` says which of it the `images` are, if not all. Drawn before the
        forward pass, so that this can be compiled and its blocks run again.
        """
        if self.dropout == 0:
            return None
        shape = (images if rows is None else rows.total, tokens, self.down_bias.shape[1])
        whole = [self.down_bias.new_empty(shape).bernoulli_(1 - self.dropout, generator=noise) for _ in self.down_bias]
        return whole if rows is None else [mask[rows.slice] for mask in whole]

    def bind(self, masks: Sequence[Tensor] | None = None) -> Adapters:
        """Return the stack as a function of (block, tokens), with dropout if its `masks` are given."""
        return shared(dict(self.named_parameters()), self.scale, dropout=self.dropout, masks=masks)


_NAMES = ("down_weight", "down_bias", "up_weight", "up_bias")


def shared(
    weights: StackWeights,
    scale: float,
    *,
    dropout: float = 0.0,
    masks: Sequence[Tensor] | None = None,
) -> Adapters:
    """Serve one stack to every image of the batch, with dropout if its `masks` are given, one a block."""
    blocks = list(zip(*(weights[name].unbind(0) for name in _NAMES), strict=True))

    def adapters(block: int, h: Tensor) -> Tensor:
        keep = None if masks is None else masks[block]
        return bottleneck(h, *blocks[block], scale=scale, dropout=dropout, keep=keep)

    return adapters


def per_image(bank: StackWeights, chosen: Tensor, scale: float) -> Adapters:
    """Serve image `i` of the batch with stack `chosen[i]` of a bank, in one batched product a block.

    `bank` has a leading axis T over the stacks (see `stacked`); `chosen` is (B,) int64 in [0, T).
    """

    def adapters(block: int, h: Tensor) -> Tensor:
        return bottleneck(h, *(bank[name][chosen, block] for name in _NAMES), scale=scale)

    return adapters


def grouped(bank: StackWeights, chosen: Tensor, scale: float) -> Adapters:
    """Do what `per_image` does for images in the order of their stacks: `chosen` (B,) int64 ascends.

    One product for all images of a stack, where `per_image` has one for each.
    """
    stacks, sizes = chosen.unique_consecutive(return_counts=True)
    own = [shared({name: bank[name][stack] for name in _NAMES}, scale) for stack in stacks.tolist()]
    parts = sizes.tolist()

    def adapters(block: int, h: Tensor) -> Tensor:
        return torch.cat([serve(block, part) for serve, part in zip(own, h.split(parts), strict=True)])

    return adapters


def stacked(stacks: Sequence[StackWeights]) -> dict[str, Tensor]:
    """Stack T finished stacks along a new leading axis: each tensor becomes (T, L, ...)."""
    return {name: torch.stack([stack[name] for stack in stacks]) for name in _NAMES}
