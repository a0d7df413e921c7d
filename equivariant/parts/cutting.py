"""Cut a network in two by itself: plain and rotary ViTs by blocks, CNNs and hierarchical ViTs by stages."""

from __future__ import annotations

import copy
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from equivariant.errors import InputError
from equivariant.parts.following import channels_of
from equivariant.parts.staged import Staged, StagedViT
from equivariant.parts.surgery import evaluating


def staged(model: nn.Module, blocks: int) -> Staged:
    """Return a network as a staged one that stops after so many blocks, or stages; its weights are not copied.

    A ViT like timm's is cut by blocks, with rotary positions as well (`StagedViT`, `StagedRotaryViT`), any other that
    runs one module after the other by what it is made of (`StagedChain`). Raises InputError, with the reasons, if it is
    neither.
    """
    reasons = []
    for kind in (StagedViT, StagedRotaryViT, StagedChain):
        try:
            return kind(model, blocks)
        except InputError as error:
            if "must be from 1" in str(error):
                raise
            reasons.append(str(error).partition(": cut")[0])
    why = "; ".join(dict.fromkeys(reasons))
    raise InputError(
        f"cannot cut this {type(model).__name__} in two by itself ({why}): cut it in two yourself and use "
        f"StagedPair(first, second, width)"
    )


class StagedRotaryViT(StagedViT):
    """A timm ViT with rotary positions (EVA, DINOv3, …), cut after its first `blocks` blocks.

    Their angles are the same for all images of a size, and are made again for the late part.
    """

    def early(self, x: Tensor) -> Tensor:
        """Return the tokens after the first blocks, (n, N, D)."""
        x, angles = self.vit._pos_embed(self.vit.patch_embed(x))
        return self._through(self.vit.norm_pre(x), angles, 0, self.blocks)

    def late(self, state: Tensor) -> Tensor:
        """Return scores (n, K), features (n, D), or tokens (n, N, D)."""
        state = self.vit.norm(self._through(state, self._angles(state), self.blocks, self.depth))
        return state if self.tokens else self.vit.forward_head(state)

    def _through(self, x: Tensor, angles: Any, first: int, last: int) -> Tensor:
        mixed = getattr(self.vit, "rope_mixed", False)
        for number in range(first, last):
            x = self.vit.blocks[number](x, rope=angles[number] if mixed else angles)
        return x

    def _angles(self, tokens: Tensor) -> Any:
        """Return what the ViT made of positions for these tokens (n, N, D); of images of another size, for squares."""
        grid, patches = self.vit.patch_embed.grid_size, tokens.shape[1] - self.vit.num_prefix_tokens
        if grid[0] * grid[1] != patches:
            grid = (isqrt(patches), isqrt(patches))
            if grid[0] ** 2 != patches:
                raise InputError(f"{patches} patches are no square: give square images, or those the ViT was made for")
        if getattr(self.vit, "dynamic_img_size", False) or not hasattr(self.vit.rope, "feat_shape"):
            return self.vit.rope.get_embed(shape=grid)
        return self.vit.rope.get_embed()


class StagedChain(Staged):
    """A network that runs one module after the other, cut after its first `blocks` blocks or stages.

    What counts is what its containers hold and is made of parts itself: the blocks of a ResNet, the stages of a
    ConvNeXt. The late part ends as the network does. Raises InputError unless, taken one by one, its modules give what
    its own `forward` gives for an image, to rounding.
    """

    def __init__(self, model: nn.Module, blocks: int) -> None:
        super().__init__()
        units, self._headed = _chain(model)
        places = _places(units)
        if not 1 <= blocks < len(places):
            raise InputError(f"blocks={blocks!r} must be from 1 to {len(places) - 1}: the model has {len(places)}")
        place = places[blocks - 1]
        self.model: Any = model
        self.training = model.training
        self._first, self._second = ([unit for unit, _ in part] for part in (units[:place], units[place:]))
        with evaluating(model):
            state = _run(self._first, _probe(model))
        # Maps whose last axis is their channels, as of a Swin, are permuted for a score, and back.
        self._channels_last = state.ndim == 4 and state.shape[1] == state.shape[2] != state.shape[3]
        self.width = int(state.shape[-1] if self._channels_last or state.ndim == 3 else state.shape[1])

    def early(self, x: Tensor) -> Tensor:
        """Return what the first blocks make of images, maps (n, D, h, w) or tokens (n, N, D)."""
        x = _run(self._first, x)
        return x.permute(0, 3, 1, 2) if self._channels_last else x

    def late(self, state: Tensor) -> Any:
        """Return the network's output."""
        state = state.permute(0, 2, 3, 1) if self._channels_last else state
        state = _run(self._second, state)
        return self.model.forward_head(state) if self._headed else state


def _chain(model: nn.Module) -> tuple[list[tuple[nn.Module, bool]], bool]:
    """Return a network's modules in the order they run, whether each is of a container, and whether a head follows.

    What is compared are its features, where it says which they are: a new head gives the same for all of them. They are
    those of a copy whose gains and biases are moved: a block of a new network may change nothing yet, and would not be
    missed. The longest chain counts that gives them.
    """
    moved, x = _moved(model), _probe(model)
    features = getattr(moved, "forward_features", None)
    headed = callable(features) and callable(getattr(model, "forward_head", None))
    with evaluating(moved):
        try:
            expected = features(x) if headed else moved(x)  # type: ignore[misc]
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"it cannot be tried on {tuple(x.shape)}") from error
        units: list[tuple[nn.Module, bool]] = []
        whole = 0
        for child, its_copy in zip(model.children(), moved.children(), strict=True):
            try:
                x = _run(_units(its_copy), x)
            except Exception:  # whatever a module raises that does not run here
                break
            units += [(unit, unit is not child) for unit in _units(child)]
            whole = len(units) if _same(x, expected) else whole
    if not whole:
        raise InputError("it is more than one module after the other")
    return units[:whole], headed


def _moved(model: nn.Module) -> nn.Module:
    """Return a copy of which every parameter of one axis is another."""
    found, noise = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.ndim == 1 and parameter.is_floating_point():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise).to(parameter))
    return found


def _units(child: nn.Module) -> list[nn.Module]:
    return list(child) if isinstance(child, nn.Sequential | nn.ModuleList) else [child]


def _places(units: list[tuple[nn.Module, bool]]) -> list[int]:
    """Return after how many modules a block or stage ends: what containers hold and has parts, else all with parts."""
    made = [any(True for _ in unit.children()) for unit, _ in units]
    for counts in ([m and held for m, (_, held) in zip(made, units, strict=True)], made, [True] * len(units)):
        if sum(counts) > 1:
            return [place for place, own in enumerate(counts, 1) if own]
    return []


def _same(x: Any, expected: Any) -> bool:
    tensors = isinstance(x, Tensor) and isinstance(expected, Tensor) and x.shape == expected.shape
    return bool(tensors and (x - expected).abs().max() <= 1e-4 * expected.abs().max())


def _run(units: list[nn.Module], x: Tensor) -> Tensor:
    for unit in units:
        x = unit(x)
    return x


def _probe(model: nn.Module) -> Tensor:
    """Return an image that the model takes, of its own size if it says one."""
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "img_size", None) or (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (64,))
    side = int(size if isinstance(size, int) else tuple(size)[-1])
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    channels = channels_of(model)
    return torch.linspace(-1, 1, channels * side * side).reshape(1, channels, side, side).to(weight)
