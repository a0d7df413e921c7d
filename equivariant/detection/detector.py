"""A detector made equivariant: run on views of each image, and what each view finds moved back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from equivariant.actions import motion_of
from equivariant.detection.fusion import NEEDED, agreement, fused
from equivariant.detection.moving import Found, Moving, exact, moved_image, moved_size, size_of
from equivariant.errors import InputError, first_of
from equivariant.groups import FiniteGroup, as_group
from equivariant.motions import Motion
from equivariant.orbits import random_elements
from equivariant.parts.networks import wide_scores
from equivariant.ties import ranks, top

COMBINE = ("fuse", "best")


def summed_scores(found: Found) -> Tensor:
    """Return the sum of all scores: how many objects a view is believed to show."""
    return found["scores"].sum()


class EquivariantDetector(nn.Module):
    """A detector whose boxes, masks and keypoints move with the image: f(g·x) = g∘f(x).

    It takes and returns what torchvision's detectors do: a list of images (C, H, W) of any shapes, or a batch
    (B, C, H, W); a list of dicts with "boxes" (N, 4), "labels" (N,), "scores" (N,), and "masks" and "keypoints" where
    there are any. Right angles and mirrors are exact for images of any shape, squares or not.

    - `detector`: such a model; it is not copied. Others go into a small module that returns such dicts.
    - `score`: a network that scores images (n, C, H, W) → (n,), as `ImageScore()`: the detector then sees the `keep`
      views with the highest scores alone, a canonicaliser where that is one. Without it, all |G| views are seen.
    - `agree`: instead of `keep` views, the detector sees one after the other, the highest score first, until what the
      last one shows agrees with what those before it do: objects that both found, of one label and overlapping by more
      than `iou`, have at least this share of all their scores, above 0 to 1. That takes two views or more.
    - `combine`: "fuse" makes one list of what the views found, by weighted boxes fusion (objects of one label that
      overlap by more than `iou` are one); "best" takes the view with the highest `confidence`, as equizero does.
    - `confidence`: what was found in a view -> a scalar, -inf for none; by default the sum of its scores.
    - `fields`, `mirrored_points`: how further fields move, and which keypoints a mirror swaps; see `Moving`.
    - `chunk`: how many views of one shape the detector sees at once. With more than 1 its rounding may depend on what
      else it sees.
    - `tie_tolerance`: views whose scores or confidences are this close to the last that is taken, relative to max(1,
      |score|), are taken too, and what they found is fused (see `equivariant.ties`).

    Exact up to rounding. (Boxes of one score and one area are fused in the order of the views.) In training mode,
    images and targets are moved by random elements and passed to the detector, and its losses come back.

    Raises InputError for bad options, images that are none or hold NaN, an answer without boxes, labels and scores, or
    with boxes or scores that are not finite, and for fields that not every view has, or that nobody says how to move.
    """

    def __init__(
        self,
        detector: nn.Module,
        group: FiniteGroup | str,
        *,
        score: nn.Module | None = None,
        keep: int = 1,
        agree: float | None = None,
        combine: Literal["fuse", "best"] = "fuse",
        iou: float = 0.55,
        confidence: Callable[[Found], Tensor] = summed_scores,
        fields: Mapping[str, str] | None = None,
        mirrored_points: Sequence[int] | None = None,
        chunk: int = 1,
        tie_tolerance: float | None = None,
    ) -> None:
        super().__init__()
        self.detector, self.score, self.group = detector, score, as_group(group)
        if not 1 <= keep <= self.group.order:
            raise InputError(f"keep={keep} must be a number of views, 1 to {self.group.order}")
        if agree is not None and (not 0 < agree <= 1 or score is None or keep != 1):
            raise InputError(
                f"agree={agree} must be a share above 0, at most 1, with a network that says in which order views are "
                f"seen, as score=ImageScore(), and without keep={keep}: it says when to stop"
            )
        if combine not in COMBINE:
            raise InputError(f"combine={combine!r} is unknown: choose one of {', '.join(COMBINE)}")
        if not 0 < iou < 1:
            raise InputError(f"iou={iou} must lie between 0 and 1")
        if chunk < 1:
            raise InputError(f"chunk={chunk} must be a number of views, at least 1")
        for motion in self.motions():
            exact(motion)
        self.keep, self.agree, self.combine, self.iou, self.confidence = keep, agree, combine, iou, confidence
        self.moving = Moving(fields or {}, mirrored_points)
        self.chunk, self.tie_tolerance = chunk, tie_tolerance
        self.training = detector.training

    def motions(self) -> list[Motion]:
        """Return what every element of the group does to an image."""
        return [motion_of(self.group, g) for g in range(self.group.order)]

    def forward(self, images: Tensor | Sequence[Tensor], targets: Sequence[Found] | None = None) -> object:
        """Return what is found in every image; in training mode, given `targets`, the detector's losses."""
        pictures = _checked(images)
        if self.training:
            return self._losses(pictures, targets)
        orders = [self._order(picture) for picture in pictures]
        found: list[dict[int, dict[str, Tensor]]] = [{} for _ in pictures]
        for step in range(max(map(len, orders), default=0)):
            fresh = self._found(pictures, {n: order[step] for n, order in enumerate(orders) if step < len(order)})
            for number, views in fresh.items():
                if step and self._agrees(found[number], views):
                    orders[number] = orders[number][: step + 1]  # nothing comes after it
                found[number].update(views)
        return [self._together(views) for views in found]

    def _found(
        self, pictures: list[Tensor], chosen: Mapping[int, list[int]]
    ) -> dict[int, dict[int, dict[str, Tensor]]]:
        """Return what the detector finds in the chosen views of the pictures of these numbers, moved back."""
        found: dict[int, dict[int, dict[str, Tensor]]] = {number: {} for number in chosen}
        motions = self.motions()
        for part in self._alike([(number, g) for number, elements in chosen.items() for g in elements], pictures):
            seen = [moved_image(motions[g], pictures[number]) for number, g in part]
            for (number, g), view, answer in zip(part, seen, self._detect(seen), strict=True):
                back = motions[self.group.inverse(g)]
                found[number][g] = self.moving.found(back, answer, size_of(view))
        return found

    def chosen(self, image: Tensor) -> list[int]:
        """Return the elements by which the detector sees an image (C, H, W), in the group's order.

        With `agree`, all of them, in the order in which it sees them until it stops.
        """
        return [g for step in self._order(image) for g in step]

    def _order(self, image: Tensor) -> list[list[int]]:
        """Return the elements by which the detector sees an image, in steps: those before which nothing is decided."""
        if self.score is None:
            return [list(range(self.group.order))]
        views = [moved_image(motion, image)[None] for motion in self.motions()]
        scores = torch.stack([wide_scores(self.score, view).reshape(()) for view in views])
        if not scores.isfinite().all():
            raise InputError("the score network returned a number that is not finite")
        if self.agree is None:
            return [top(scores[:, None], self.keep, self.tie_tolerance)[:, 0].nonzero().flatten().tolist()]
        places = ranks(scores[:, None], self.tie_tolerance)[:, 0]
        return [(places == place).nonzero().flatten().tolist() for place in places.unique()]

    def _agrees(self, before: dict[int, dict[str, Tensor]], last: dict[int, dict[str, Tensor]]) -> bool:
        assert self.agree is not None, "without it there is one step"
        return agreement(self._together(before), self._together(last), self.iou) >= self.agree

    def _alike(self, views: list[tuple[int, int]], pictures: list[Tensor]) -> Iterable[list[tuple[int, int]]]:
        """Views of one shape, at most `chunk` at once: detectors pad images that differ, which changes answers."""
        shapes: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for number, g in views:
            picture = pictures[number]
            shape = (len(picture), *moved_size(motion_of(self.group, g), size_of(picture)))
            shapes.setdefault(shape, []).append((number, g))
        for alike in shapes.values():
            yield from (alike[start : start + self.chunk] for start in range(0, len(alike), self.chunk))

    def _detect(self, views: list[Tensor]) -> list[Found]:
        answers = self.detector(views)
        fits = isinstance(answers, Sequence) and len(answers) == len(views)
        if not fits or not all(isinstance(one, Mapping) and set(NEEDED) <= set(one) for one in answers):
            raise InputError(
                f"the detector returned {_said(answers)} for {len(views)} images, but a list of a dict for each, with "
                f"boxes, labels and scores, is needed: put it into a module that returns that"
            )
        for name, answer in product(("boxes", "scores"), answers):
            if not (finite := answer[name].isfinite()).all():
                raise InputError(f"the detector returned {answer[name][~finite][0].item()} among {name!r} of a view")
        return list(answers)

    def _together(self, found: Mapping[int, dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return one answer from what the views of each element found."""
        views = [found[g] for g in sorted(found)]
        if any(view.keys() != views[0].keys() for view in views):
            missing = sorted(set().union(*views) - set(views[0]).intersection(*views))
            raise InputError(
                f"the detector returned {first_of(missing)} for some views of an image and not for others: let it "
                f"return the same fields for each, with no rows where nothing was found"
            )
        if self.combine == "best" and len(views) > 1:
            sure = torch.stack([self.confidence(view).reshape(()) for view in views])
            if not (known := sure < torch.inf).all():
                raise InputError(f"confidence= returned {sure[~known][0].item()} for a view: it must be below infinity")
            kept = top(sure[:, None], 1, self.tie_tolerance)[:, 0]
            views = [view for view, keep in zip(views, kept.tolist(), strict=True) if keep]
        return views[0] if len(views) == 1 else fused(views, self.moving, self.iou)

    def _losses(self, pictures: list[Tensor], targets: Sequence[Found] | None) -> object:
        if targets is None or len(targets) != len(pictures):
            raise InputError("in training mode a detector needs targets, a dict for each image; or call .eval() first")
        motions = [motion_of(self.group, g) for g in random_elements(self.group, len(pictures)).tolist()]
        moved = [
            self.moving.found(motion, target, size_of(picture))
            for motion, target, picture in zip(motions, targets, pictures, strict=True)
        ]
        return self.detector([moved_image(m, p) for m, p in zip(motions, pictures, strict=True)], moved)


def _checked(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    pictures = list(images)
    for number, picture in enumerate(pictures):
        if not isinstance(picture, Tensor) or picture.ndim != 3 or not picture.is_floating_point():
            raise InputError(f"image {number} is {_said(picture)}, but a floating-point tensor (C, H, W) is needed")
        if picture.isnan().any():
            raise InputError(f"image {number} holds NaN")
    return pictures


def _said(thing: object) -> str:
    if isinstance(thing, Tensor):
        return f"{thing.dtype} {tuple(thing.shape)}"
    if isinstance(thing, Sequence) and thing and isinstance(thing[0], Mapping):
        return f"{len(thing)} dicts, the first of {', '.join(map(str, thing[0]))}"
    return f"a {type(thing).__name__}"
