"""One answer from the detections of several views: weighted boxes fusion.

Solovyev, Wang and Gabruseva, "Weighted boxes fusion" (Image and Vision Computing 2021, arXiv 1910.13302), section 3,
with masks and keypoints averaged as boxes are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equivariant.detection.moving import Found, Moving
from equivariant.ties import widened

NEEDED = ("boxes", "labels", "scores")


def fused(views: Sequence[Found], moving: Moving, iou: float = 0.55) -> dict[str, Tensor]:
    """Return what several views of one image found, in its coordinates, as one list of objects.

    Objects of one label whose boxes overlap by more than `iou` are one: its box, masks and points are means, weighted
    by scores; its score is their mean times the share of views that found it. Other fields are those of the member with
    the highest score. The answer is sorted by falling scores.
    """
    found = {name: torch.cat([view[name] for view in views]) for name in views[0]}
    scores = widened(found["scores"])
    objects = groups(found["boxes"], found["labels"], scores, iou).to(scores.device)
    count = int(objects.max()) + 1 if len(objects) else 0
    sizes = torch.bincount(objects, minlength=count)
    total = scores.new_zeros(count).index_add(0, objects, scores)
    score = total / sizes * sizes.clamp(max=len(views)) / len(views)
    # Members are numbered by falling scores within an object: the first row of each is its best.
    order = falling(scores, found["boxes"])
    first = torch.full((count,), len(scores), device=scores.device).scatter_reduce(
        0, objects[order], torch.arange(len(order), device=scores.device), "amin"
    )
    best = order[first]
    # An object of scores that are all 0 is the plain mean of its members.
    weights = torch.where(total[objects] > 0, scores / total[objects], 1 / sizes[objects].to(scores.dtype))

    def mean(tensor: Tensor) -> Tensor:
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        shares = weights.to(wide.dtype).reshape(-1, *[1] * (wide.ndim - 1))
        sums = wide.new_zeros(count, *wide.shape[1:]).index_add(0, objects, shares * wide)
        return sums.to(tensor.dtype) if tensor.is_floating_point() else (sums >= 0.5).to(tensor.dtype)

    answer = {}
    for name, tensor in found.items():
        kind = moving.kind(name)
        if kind == "points":
            answer[name] = torch.cat([mean(tensor[..., :2]), tensor[best][..., 2:]], dim=-1)
        else:
            answer[name] = tensor[best] if kind == "same" else mean(tensor)
    answer["scores"] = score.to(found["scores"].dtype)
    order = falling(score, answer["boxes"])
    return {name: tensor[order] for name, tensor in answer.items()}


def agreement(one: Found, other: Found, iou: float = 0.55) -> float:
    """Return which share of the scores in two answers about one image is of objects that both found; 1 if of none.

    Both found an object where theirs are of one label and overlap by more than `iou`.
    """
    (boxes, labels, scores), (others, names, rates) = (
        (found["boxes"].detach().double(), found["labels"], found["scores"].detach().double()) for found in (one, other)
    )
    same = labels[:, None] == names
    for row, box in enumerate(boxes):
        same[row] &= _overlaps(box, others) > iou
    total = float(scores.sum() + rates.sum())
    return float(scores[same.any(1)].sum() + rates[same.any(0)].sum()) / total if total > 0 else 1.0


def falling(scores: Tensor, boxes: Tensor) -> Tensor:
    """Return the order of falling scores (N,), and of falling areas where scores tie, which no element changes."""
    order = (boxes[:, 2:] - boxes[:, :2]).prod(-1).argsort(descending=True, stable=True)
    return order[scores[order].argsort(descending=True, stable=True)]


def groups(boxes: Tensor, labels: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Return the number of the object that each box (N, 4) belongs to, (N,) int64 on the CPU.

    By falling scores, a box joins the object of its label whose mean box so far it overlaps most, if by more than
    `iou`.
    """
    boxes, scores = boxes.detach().double().cpu(), scores.detach().double().cpu()
    numbers = torch.full((len(boxes),), -1, dtype=torch.int64)
    made = 0
    for label in labels.unique().cpu():
        rows = (labels.cpu() == label).nonzero().squeeze(1)
        rows = rows[falling(scores[rows], boxes[rows])]
        means = torch.empty(len(rows), 4, dtype=torch.float64)
        sums, weights, objects = torch.zeros_like(means), torch.zeros(len(rows), dtype=torch.float64), 0
        for row in rows:
            overlaps = _overlaps(boxes[row], means[:objects])
            at = int(overlaps.argmax()) if objects else 0
            if not objects or not overlaps[at] > iou:
                at, objects = objects, objects + 1
            # A score of 0 has a place, but next to no weight.
            weight = scores[row].clamp(min=1e-12)
            sums[at] += weight * boxes[row]
            weights[at] += weight
            means[at] = sums[at] / weights[at]
            numbers[row] = made + at
        made += objects
    return numbers


def _overlaps(box: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of a box (4,) with others (n, 4), (n,)."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    inner = sides.prod(-1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - inner
    return inner / union.clamp(min=torch.finfo(torch.float64).tiny)
