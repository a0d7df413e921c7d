"""How right angles and mirrors move an image of any shape, and what was found in it.

An image is (C, H, W). What was found in it is a dict of tensors with one row for each object, as torchvision's
detectors return it and take it in training. Coordinates are (x, y) in pixels, x to the right and y down, from (0, 0) to
(W, H).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equivariant.actions import turn_vectors
from equivariant.errors import InputError
from equivariant.motions import Motion
from equivariant.sampling import moved_exactly

#: height and width in pixels
Size = tuple[int, int]
Found = Mapping[str, Tensor]

#: How a field moves: "boxes" (N, 4) as x0, y0, x1, y1; "points" (N, K, 2), or (N, K, 3) with a visibility; "values"
#: (N, K) of such points; "masks" (N, …, H, W); "same" is not changed.
KINDS = ("boxes", "points", "values", "masks", "same")
FIELDS = {
    "boxes": "boxes",
    "masks": "masks",
    "keypoints": "points",
    "keypoints_scores": "values",
    **dict.fromkeys(("labels", "scores", "image_id", "area", "iscrowd"), "same"),
}


@dataclass(frozen=True)
class Moving:
    """How the fields of a detector move.

    - `fields`: field -> one of `KINDS`, beside those of torchvision.
    - `mirrored_points`: the point that each of the K points becomes in a mirror image, as the left eye becomes the
      right one: a permutation of 0 … K - 1 that is its own inverse.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    mirrored_points: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, kind in self.fields.items():
            if kind not in KINDS:
                raise InputError(f"fields={{{name!r}: {kind!r}}}: choose one of {', '.join(KINDS)}")
        points = self.mirrored_points
        if points is not None:
            inside = all(isinstance(p, int) and 0 <= p < len(points) for p in points)
            if not inside or any(points[points[i]] != i for i in range(len(points))):
                raise InputError(
                    f"mirrored_points={list(points)} must name the mirror image of every point, and that of the mirror "
                    f"image must be the point itself, e.g. [0, 2, 1] for nose, left eye, right eye"
                )

    def found(self, motion: Motion, found: Found, size: Size) -> dict[str, Tensor]:
        """Return what was found in an image of `size` as it lies in the image moved by `motion`.

        Raises InputError for a field that is not known, or does not have its kind's shape.
        """
        new = moved_size(motion, size)
        return {name: self._mover(name)(motion, tensor, size, new, name) for name, tensor in found.items()}

    def kind(self, name: str) -> str:
        """Return how a field moves; raises InputError if nobody says."""
        kinds = {**FIELDS, **self.fields}
        if name not in kinds:
            raise InputError(
                f"the detector returns {name!r}, and how that moves is not known: say fields={{{name!r}: 'same'}}, or "
                f"one of {', '.join(KINDS[:-1])}"
            )
        return kinds[name]

    def _mover(self, name: str) -> Callable[[Motion, Tensor, Size, Size, str], Tensor]:
        kind = self.kind(name)
        return {
            "boxes": _boxes,
            "points": self._points,
            "values": self._values,
            "masks": _masks,
            "same": lambda motion, tensor, size, new, name: tensor,
        }[kind]

    def _points(self, motion: Motion, points: Tensor, size: Size, new: Size, name: str) -> Tensor:
        _check(points, name, points.ndim == 3 and points.shape[-1] in (2, 3), "(N, K, 2) or (N, K, 3)")
        points = torch.cat([_move(motion, points[..., :2], size, new), points[..., 2:]], dim=-1)
        return self._values(motion, points, size, new, name)

    def _values(self, motion: Motion, values: Tensor, size: Size, new: Size, name: str) -> Tensor:
        _check(values, name, values.ndim >= 2, "(N, K)")
        if not motion.mirror:
            return values
        if self.mirrored_points is None or len(self.mirrored_points) != values.shape[1]:
            raise InputError(
                f"a mirror image swaps points such as left and right eyes: say mirrored_points=[…], the mirror image "
                f"of each of the {values.shape[1]} points of {name!r} (range({values.shape[1]}) if each is its own)"
            )
        return values[:, list(self.mirrored_points)]


def moved_image(motion: Motion, image: Tensor) -> Tensor:
    """Return an image (C, H, W) moved by right angles, mirrors and channel permutations; no value is changed."""
    exact(motion)
    if motion.channels:
        if image.shape[0] != len(motion.channels):
            raise InputError(
                f"{motion.name} permutes {len(motion.channels)} channels, but an image has {image.shape[0]}"
            )
        image = image[sorted(range(len(motion.channels)), key=motion.channels.__getitem__)]
    return moved_exactly(image, motion)


def size_of(image: Tensor) -> Size:
    """Return the height and width of an image (C, H, W)."""
    return image.shape[-2], image.shape[-1]


def moved_size(motion: Motion, size: Size) -> Size:
    """Return the height and width of a moved image."""
    height, width = size
    return (width, height) if motion.needs_square else (height, width)


def exact(motion: Motion) -> None:
    """Raise InputError for a motion that makes boxes slanted."""
    if not motion.exact:
        raise InputError(
            f"{motion.name} makes boxes slanted: use a group of right angles and mirrors, such as C4 or D4"
        )


def _move(motion: Motion, points: Tensor, size: Size, new: Size) -> Tensor:
    """Move points (…, 2) about the centre of their image to those about the centre of the moved one."""
    (height, width), (new_height, new_width) = size, new
    centre = points.new_tensor([width / 2, height / 2])
    return turn_vectors(points - centre, motion) + points.new_tensor([new_width / 2, new_height / 2])


def _boxes(motion: Motion, boxes: Tensor, size: Size, new: Size, name: str) -> Tensor:
    _check(boxes, name, boxes.ndim == 2 and boxes.shape[1] == 4 and boxes.is_floating_point(), "(N, 4)")
    corners = _move(motion, boxes.unflatten(-1, (2, 2)), size, new)
    return torch.cat([corners.amin(-2), corners.amax(-2)], dim=-1)


def _masks(motion: Motion, masks: Tensor, size: Size, new: Size, name: str) -> Tensor:
    _check(masks, name, masks.ndim >= 3 and tuple(masks.shape[-2:]) == tuple(size), f"(N, …, {size[0]}, {size[1]})")
    return moved_exactly(masks, motion)


def _check(tensor: Tensor, name: str, fits: bool, wanted: str) -> None:
    if not fits:
        raise InputError(f"{name!r} is {tensor.dtype} {tuple(tensor.shape)}, but should be {wanted}")
