"""How group elements transform tensors: one `Action` for each kind of input or output.

An action is a callable `action(group, g, x)` with `action(g, action(h, x)) == action(gh, x)`. Values only change
places, without arithmetic, if the group is exact (right angles, mirrors, channels).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor

from equivariant.colours import Colour
from equivariant.errors import InputError
from equivariant.groups import FiniteGroup, as_group
from equivariant.motions import Motion
from equivariant.sampling import INTERPOLATIONS, PADDINGS, Interpolation, Padding, check_square, crop_circle, move


class Action(ABC):
    """How the elements of a group transform one kind of tensor. Subclass it for a kind of your own."""

    #: Whether values only change places, so that an elementwise maximum commutes with the action.
    permutes: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        """Return element number g applied to `x` (B, …); raises InputError if `x` does not fit."""

    def check(self, group: FiniteGroup, x: Tensor) -> None:
        """Raise InputError if not every element of the group can act on `x`; by default, try them all."""
        for g in range(group.order):
            self(group, g, x)


def act(group: FiniteGroup | str, element: int | str, x: Tensor, action: Action | None = None) -> Tensor:
    """Return an element, by number or name, applied to `x`: images (B, C, H, W) unless `action` says otherwise.

    >>> act("C4", "r90", torch.tensor([[[[1, 2], [3, 4]]]]))
    tensor([[[[2, 4],
              [1, 3]]]])
    """
    group = as_group(group)
    return (action or Images())(group, group.index(element), x)


def motion_of(group: FiniteGroup, g: int) -> Motion:
    """Return what element g does to a picture; raises InputError if the group does not say."""
    element = group.elements[g]
    if not isinstance(element, Motion):
        raise InputError(
            f"element {group.names[g]} of {group.name} is {element!r}, which says nothing about pictures: build the "
            f"group from Motions, or pass an Action of your own"
        )
    return element


@dataclass(frozen=True)
class Trivial(Action):
    """Nothing changes: class scores, pooled features, any invariant answer (B, …)."""

    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class Maps(Action):
    """Feature maps, score maps and masks (…, H, W): transformed in the plane, channels as they are.

    Integer and boolean maps are interpolated by the nearest value. `crop="circle"` puts zeros outside the inscribed
    circle, for the identity too: with interpolated rotations this removes most of what gets lost at the corners;
    `equivariant.checks.equivariance.action_error` measures what remains.
    """

    interpolation: Interpolation = "bilinear"
    padding: Padding = "zeros"
    crop: Literal["circle"] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("interpolation", INTERPOLATIONS), ("padding", PADDINGS), ("crop", ("circle", None))):
            if (value := getattr(self, name)) not in allowed:
                raise InputError(f"{name}={value!r} is unknown: choose one of {', '.join(map(repr, allowed))}")

    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        if x.ndim < 3:
            raise InputError(
                f"maps are (B, …, H, W), but this tensor has shape {tuple(x.shape)}: for class scores or pooled "
                f"features say output=Trivial(), for patch tokens output=Tokens()"
            )
        return self._plane(motion_of(group, g), x)

    def _plane(self, motion: Motion, x: Tensor) -> Tensor:
        # Cropped before as well, so that nothing from outside the circle is blended in at its edge.
        crop = crop_circle if self.crop else lambda x: x
        return crop(move(crop(x), motion, self.interpolation, self.padding))


@dataclass(frozen=True)
class Masks(Maps):
    """Label masks (B, H, W) or (B, 1, H, W) of any dtype: as maps, never blending two labels."""

    interpolation: Interpolation = "nearest"


@dataclass(frozen=True)
class Images(Maps):
    """Images (B, C, H, W): transformed in the plane, and their channels permuted if the element says so."""

    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        motion = self._fitting(group, g, x)
        sources = sorted(range(len(motion.channels)), key=motion.channels.__getitem__)
        return self._plane(motion, x[:, sources] if sources else x)

    def _fitting(self, group: FiniteGroup, g: int, x: Tensor) -> Motion:
        if x.ndim != 4:
            raise InputError(f"images are (B, C, H, W), but this tensor has shape {tuple(x.shape)}")
        motion = motion_of(group, g)
        if motion.channels and x.shape[1] != len(motion.channels):
            raise InputError(
                f"{group.name} permutes {len(motion.channels)} channels, but the images have {x.shape[1]}, their shape "
                f"being {tuple(x.shape)}"
            )
        check_square(motion, *x.shape[-2:])
        return motion

    def check(self, group: FiniteGroup, x: Tensor) -> None:
        """Raise InputError unless `x` is floating-point and fits every element of the group."""
        for g in range(group.order):
            self._fitting(group, g, x)
        if not x.is_floating_point():
            raise InputError(f"a model wants floating-point images, not {x.dtype}: scale and normalise them first")


@dataclass(frozen=True)
class Colours(Action):
    """Colours of images (B, 3, …) under `hue(n)`, `negative()` and their products with motions, as "C4 x hue6".

    Hue and negative are those of intensities in [0, 1]; of images normalised as (x - mean) / std give the `mean` and
    `std`. Rotated hues may leave [0, 1], and nothing is cut off there, as that could not be undone.
    """

    permutes: ClassVar[bool] = False
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[1] != 3 or not x.is_floating_point():
            raise InputError(f"colours are floating-point (B, 3, …), not {x.dtype} {tuple(x.shape)}")
        for part in _parts(group.elements[g]):
            if isinstance(part, Colour):
                x = self._coloured(part, x)
            elif isinstance(part, Motion) and not part.channels:
                x = move(x, part)
            else:
                raise InputError(f"element {group.names[g]} of {group.name} says nothing about colours: use hue(n)")
        return x

    def _coloured(self, colour: Colour, x: Tensor) -> Tensor:
        mean, std = (x.new_tensor(one).reshape(1, 3, *[1] * (x.ndim - 2)) for one in (self.mean, self.std))
        x = x * std + mean
        if colour.turn:
            x = torch.einsum("cd,bd...->bc...", x.new_tensor(colour.matrix()), x)
        return ((1 - x if colour.negative else x) - mean) / std


def _parts(element: Any) -> list[Any]:
    """Return the elements that a product of groups made one of."""
    return [one for part in element for one in _parts(part)] if isinstance(element, tuple) else [element]


@dataclass(frozen=True)
class Tokens(Action):
    """Patch tokens (…, P + h·w, D): the h x w grid is transformed, the first P tokens (class, registers) stay.

    Without `grid`, it must be square. Interpolation as for `Maps`.
    """

    prefix: int = 0
    grid: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"

    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        if x.ndim < 3:
            raise InputError(f"tokens are (B, N, D), but this tensor has shape {tuple(x.shape)}")
        count = x.shape[-2] - self.prefix
        side = math.isqrt(max(count, 0))
        height, width = self.grid or (side, side)
        if count < 1 or height * width != count:
            wanted = f"{height} x {width}" if self.grid else "square"
            raise InputError(
                f"{x.shape[-2]} tokens with {self.prefix} in front leave {count}, which is not a {wanted} grid: set "
                f"Tokens(prefix=…, grid=(h, w)), prefix being the number of class and register tokens"
            )
        patches = rearrange(x[..., self.prefix :, :], "... (h w) d -> ... d h w", h=height)
        patches = rearrange(move(patches, motion_of(group, g), self.interpolation), "... d h w -> ... (h w) d")
        return torch.cat([x[..., : self.prefix, :], patches], dim=-2)


@dataclass(frozen=True)
class Regular(Action):
    """Features with one value for each element of the group: (B, C·|G|, …), the group axis innermost.

    Element g carries the value at h to the place of gh; with `spatial`, a regular field (B, C·|G|, H, W), it transforms
    the picture as well.
    """

    spatial: bool = False
    interpolation: Interpolation = "bilinear"

    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] % group.order:
            raise InputError(
                f"regular features of {group.name} are (B, C·{group.order}, …), but this tensor has shape "
                f"{tuple(x.shape)}"
            )
        source = [group.product(group.inverse(g), h) for h in range(group.order)]
        x = rearrange(x, "b (c g) ... -> b c g ...", g=group.order)[:, :, source]
        x = rearrange(x, "b c g ... -> b (c g) ...")
        return move(x, motion_of(group, g), self.interpolation) if self.spatial else x


@dataclass(frozen=True)
class VectorField(Action):
    """Fields of 2-D vectors (B, 2·C, H, W), pairs (x to the right, y down), rotated with the picture: optical flow."""

    permutes: ClassVar[bool] = False
    interpolation: Interpolation = "bilinear"

    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] % 2:
            raise InputError(f"vector fields are (B, 2·C, H, W), but this tensor has shape {tuple(x.shape)}")
        motion = motion_of(group, g)
        field = rearrange(move(x, motion, self.interpolation), "b (c v) h w -> b c h w v", v=2)
        return rearrange(turn_vectors(field, motion), "b c h w v -> b (c v) h w")


def turn_vectors(vectors: Tensor, motion: Motion) -> Tensor:
    """Return vectors (…, 2), x to the right and y down, rotated and mirrored by the motion."""
    (a, b), (c, d) = motion.matrix()
    x, y = vectors.unbind(-1)
    return torch.stack([a * x + b * y, c * x + d * y], dim=-1)
