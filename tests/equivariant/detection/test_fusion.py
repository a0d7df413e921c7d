"""Weighted boxes fusion, beside figures of its authors' package, and properties of means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equivariant.detection.fusion import agreement, fused, groups
from equivariant.detection.moving import Moving


def found(boxes: list[list[float]], scores: list[float], labels: list[int], **more: Tensor) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float64),
        "labels": torch.tensor(labels, dtype=torch.int64),
        **more,
    }


#: Three views of four objects, and what `ensemble_boxes.weighted_boxes_fusion` 1.0.9 makes of them with iou_thr=0.55.
VIEWS = [
    found(
        [
            [0.346, 0.478, 0.684, 0.656], [0.43, 0.39, 0.657, 0.595],
            [0.289, 0.431, 0.504, 0.735], [0.32, 0.541, 0.419, 0.68],
        ],
        [0.542, 0.626, 0.214, 0.663],
        [1, 2, 1, 2],
    ),
    found(
        [
            [0.381, 0.465, 0.694, 0.645], [0.393, 0.369, 0.672, 0.552],
            [0.322, 0.433, 0.508, 0.686], [0.308, 0.538, 0.437, 0.66],
        ],
        [0.941, 0.277, 0.357, 0.321],
        [1, 2, 1, 2],
    ),
    found(
        [[0.384, 0.443, 0.665, 0.619], [0.381, 0.349, 0.669, 0.557], [0.294, 0.415, 0.545, 0.684]],
        [0.828, 0.272, 0.932],
        [1, 2, 1],
    ),
]  # fmt: skip
FUSED = found(
    [
        [0.373866, 0.460167, 0.681264, 0.638264],
        [0.299939, 0.421554, 0.530374, 0.691737],
        [0.409934, 0.375558, 0.663314, 0.576066],
        [0.316085, 0.540021, 0.424872, 0.673476],
    ],
    [0.770333, 0.501, 0.391667, 0.328],
    [1, 1, 2, 2],
)


def test_boxes_are_those_of_the_authors_package() -> None:
    answer = fused(VIEWS, Moving(), 0.55)
    assert answer.keys() == FUSED.keys()
    for name, expected in FUSED.items():
        torch.testing.assert_close(answer[name], expected, rtol=0, atol=2e-6)


def test_the_order_of_views_does_not_matter() -> None:
    first, other = fused(VIEWS, Moving()), fused(VIEWS[::-1], Moving())
    for name in first:
        torch.testing.assert_close(first[name], other[name])


def test_one_view_is_itself_sorted_by_scores() -> None:
    answer = fused(VIEWS[:1], Moving())
    order = VIEWS[0]["scores"].argsort(descending=True)
    for name, tensor in VIEWS[0].items():
        torch.testing.assert_close(answer[name], tensor[order])


def test_labels_are_kept_apart_and_few_views_count_less() -> None:
    box = [[0.0, 0, 4, 4]]
    answer = fused([found(box, [0.8], [1]), found(box, [0.6], [2]), found([], [], [])], Moving())
    assert answer["labels"].tolist() == [1, 2]
    torch.testing.assert_close(answer["scores"], torch.tensor([0.8, 0.6]).double() / 3)


def test_masks_and_points_are_means_by_scores_and_other_fields_those_of_the_best() -> None:
    def view(score: float, mask: float, x: float, seen: float, name: int) -> dict[str, Tensor]:
        points = torch.tensor([[[x, 2.0, seen]]]).double()
        more = {"masks": torch.full((1, 1, 2, 2), mask).double(), "keypoints": points, "serial": torch.tensor([name])}
        return found([[0, 0, 4, 4]], [score], [1], **more)

    answer = fused([view(0.2, 0.0, 1.0, 0.0, 11), view(0.6, 1.0, 3.0, 1.0, 12)], Moving({"serial": "same"}))
    torch.testing.assert_close(answer["masks"], torch.full((1, 1, 2, 2), 0.75).double())
    torch.testing.assert_close(answer["keypoints"], torch.tensor([[[2.5, 2.0, 1.0]]]).double())
    assert answer["serial"].tolist() == [12]
    assert answer["scores"].tolist() == pytest.approx([0.4])


def test_scores_of_zero_give_a_plain_mean() -> None:
    answer = fused([found([[0, 0, 4, 4]], [0.0], [1]), found([[0, 0, 4, 5]], [0.0], [1])], Moving())
    assert answer["boxes"].tolist() == [[0, 0, 4, 4.5]]
    assert answer["scores"].tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scores_of_many_members_are_summed_wide(dtype: torch.dtype) -> None:
    """A sum of ones in bfloat16 ends at 256, one in float16 at 2048."""
    view = found([[0, 0, 4, 4]] * 400, [1.0] * 400, [1] * 400)
    narrow = {name: tensor.to(dtype) if name != "labels" else tensor for name, tensor in view.items()}
    answer = fused([narrow] * 6, Moving())
    assert answer["scores"].tolist() == [1]
    assert answer["boxes"].tolist() == [[0, 0, 4, 4]]
    assert answer["scores"].dtype == answer["boxes"].dtype == dtype


def test_agreement_is_the_share_of_scores_of_objects_that_both_found() -> None:
    box, other, none = [0.0, 0, 4, 4], [10.0, 0, 14, 4], found([], [], [])
    one = found([box, other], [0.6, 0.2], [1, 2])
    assert agreement(one, one) == 1
    assert agreement(one, found([box], [0.4], [1])) == pytest.approx(1.0 / 1.2)
    assert agreement(one, found([box, other], [0.6, 0.2], [2, 1])) == 0, "their labels differ"
    assert agreement(one, found([[0.0, 0, 4, 2]], [0.4], [1])) == 0, "they overlap by half"
    assert agreement(one, none) == 0
    assert agreement(none, none) == 1


def test_a_box_joins_the_object_it_overlaps_most() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [3, 0, 13, 10], [2, 0, 12, 10.0]])
    assert groups(boxes, torch.ones(3), torch.tensor([0.9, 0.8, 0.7]), 0.55).tolist() == [0, 1, 1]
