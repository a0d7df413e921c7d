"""Detectors: what is found moves with the image, whatever its shape, for every group of right angles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equivariant import EquivariantDetector, ImageScore, InputError, act, as_group, cyclic
from equivariant.actions import motion_of
from equivariant.detection.fusion import agreement, fused
from equivariant.detection.moving import Moving, moved_image, moved_size
from tests.support.zoo import seeded

SWAP = (0, 2, 1)
GROUPS = ["C2", "C4", "D4", "mirror_h"]


class Blobs(nn.Module):
    """Finds where random filters answer most, in images of any shape: nothing about it is symmetric."""

    def __init__(self, found: int = 6) -> None:
        super().__init__()
        self.found = found
        self.filters = nn.Conv2d(3, 2, 5, padding=2)
        self.sides = nn.Conv2d(3, 4, 3, padding=1)
        self.seen: list[int] = []

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        self.seen += [len(images)]
        if targets is not None:
            return {
                "loss": sum(
                    image.mean() + target["boxes"].mean() for image, target in zip(images, targets, strict=True)
                )
            }
        return [self.one(image) for image in images]

    def one(self, image: Tensor) -> dict[str, Tensor]:
        maps, sides = self.filters(image[None])[0], self.sides(image[None])[0]
        values, places = maps.flatten().topk(self.found)
        height, width = image.shape[-2:]
        label, place = places // (height * width), places % (height * width)
        y, x = place // width, place % width
        side = 1 + 3 * sides.flatten(1)[:, place].sigmoid().T
        boxes = torch.stack([x - side[:, 0], y - side[:, 1], x + side[:, 2], y + side[:, 3]], dim=1)
        masks = (maps[label] * values[:, None, None]).sigmoid()[:, None]
        points = torch.stack([boxes[:, :2], boxes[:, 2:], boxes[:, [0, 3]]], dim=1)
        points = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
        return {
            "boxes": boxes,
            "labels": label + 1,
            "scores": values.sigmoid(),
            "masks": masks,
            "keypoints": points,
            "keypoints_scores": points[..., 0],
        }


def image(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)).double()


def build(group: str, **options: Any) -> EquivariantDetector:
    return EquivariantDetector(seeded(Blobs).double().eval(), group, mirrored_points=SWAP, **options)


def scored(group: str, **options: Any) -> EquivariantDetector:
    return build(group, score=seeded(ImageScore).double().eval(), **options)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("make", [build, scored], ids=["all views", "by score"])
@pytest.mark.parametrize("options", [{}, {"combine": "best"}, {"chunk": 3}, {"keep": 2}], ids=str)
def test_what_is_found_moves_with_the_image(group: str, make: Any, options: dict[str, Any]) -> None:
    detector, moving = make(group, **options), Moving({}, SWAP)
    images = [image(14, 20, 1), image(16, 16, 2), image(9, 21, 3)]
    expected = detector(images)
    assert sum(len(found["boxes"]) for found in expected) > 6
    for g in range(detector.group.order):
        motion = motion_of(detector.group, g)
        found = detector([moved_image(motion, x) for x in images])
        for x, one, other in zip(images, found, expected, strict=True):
            assert_same(one, moving.found(motion, other, tuple(x.shape[-2:])))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("combine", ["fuse", "best"])
def test_what_is_found_until_views_agree_moves_with_the_image(group: str, combine: Any) -> None:
    detector, moving = scored(group, agree=0.3, combine=combine), Moving({}, SWAP)
    images = [image(14, 20, seed) for seed in range(6)] + [image(16, 16, 2), image(9, 21, 3)]
    expected = detector(images)
    for x, found in zip(images, expected, strict=True):
        assert_same(detector([x])[0], found, 0)
    for g in range(detector.group.order):
        motion = motion_of(detector.group, g)
        found = detector([moved_image(motion, x) for x in images])
        for x, one, other in zip(images, found, expected, strict=True):
            assert_same(one, moving.found(motion, other, tuple(x.shape[-2:])))


def test_views_are_seen_in_the_order_of_their_scores_until_they_agree() -> None:
    every, counts = build("D4"), set()
    for x in (image(14, 20, seed) for seed in range(12)):
        detector = scored("D4", agree=0.3)
        (found,) = detector([x])
        order = detector.chosen(x)
        views = {g: views[g] for g in range(8) for views in [every._found([x], {0: [g]})[0]]}
        seen = 1
        while seen < 8:
            before, last = fused([views[g] for g in sorted(order[:seen])], every.moving), views[order[seen]]
            seen += 1
            if agreement(before, last) >= 0.3:
                break
        assert sum(detector.detector.seen) == seen
        assert_same(found, fused([views[g] for g in sorted(order[:seen])], every.moving), 0)
        counts.add(seen)
    assert {2, 8} < counts, "this test shows little"


def test_without_a_wrapper_it_does_not() -> None:
    plain, x = build("C4").detector, image(16, 16)
    (turned,), (upright,) = plain([x.rot90(1, (-2, -1))]), plain([x])
    moved = Moving({}, SWAP).found(motion_of(as_group("C4"), 1), upright, (16, 16))
    assert not torch.allclose(turned["boxes"], moved["boxes"], atol=0.5)


def test_an_image_s_answer_does_not_depend_on_the_others() -> None:
    detector, x = build("D4", chunk=1), image(14, 20)
    (alone,), together = detector([x]), detector([image(14, 20, 1), x, image(9, 9, 2)])
    assert_same(together[1], alone, 0)


def test_views_are_seen_as_few_at_a_time_as_asked() -> None:
    detector = build("D4", chunk=3)
    detector([image(12, 18), image(12, 18, 1)])
    assert detector.detector.seen == [3, 3, 2, 3, 3, 2]  # four views of either shape of each image
    chosen = scored("D4", keep=2)
    chosen([image(12, 18)])
    assert sum(chosen.detector.seen) == 2


def test_a_batch_is_a_list() -> None:
    detector, images = build("C4"), [image(8, 8), image(8, 8, 1)]
    for one, other in zip(detector(torch.stack(images)), detector(images), strict=True):
        assert_same(one, other, 0)
    assert detector([]) == []


def test_views_that_tie_are_fused() -> None:
    """An image that is its own mirror image has a symmetric answer, whichever view is preferred."""
    x = image(12, 12)
    symmetric = x + x.flip(-1)
    detector = scored("mirror_h")
    assert len(detector.chosen(symmetric)) == 2
    assert len(detector.chosen(x)) == 1
    (found,) = detector([symmetric])
    moved = Moving({}, SWAP).found(motion_of(detector.group, 1), found, (12, 12))
    order, other = found["boxes"][:, 0].argsort(), moved["boxes"][:, 0].argsort()
    torch.testing.assert_close(found["boxes"][order], moved["boxes"][other])


def test_training_moves_images_and_targets_alike() -> None:
    detector = EquivariantDetector(seeded(Blobs).double(), "D4").train()
    images = [image(8, 12), image(10, 10, 1)]
    targets = [
        {"boxes": torch.tensor([[1.0, 2, 5, 4]]).double(), "labels": torch.tensor([1]), "image_id": torch.tensor([7])}
        for _ in images
    ]
    assert detector(images, targets)["loss"].isfinite()
    with pytest.raises(InputError, match="in training mode a detector needs targets"):
        detector(images)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": 9}, "keep=9 must be a number of views, 1 to 4"),
        ({"agree": 0.5}, "agree=0.5 must be a share.* with a network"),
        ({"agree": 1.5, "score": ImageScore()}, "agree=1.5 must be a share above 0, at most 1"),
        ({"agree": 0.5, "score": ImageScore(), "keep": 2}, "without keep=2"),
        ({"combine": "nms"}, "combine='nms' is unknown: choose one of fuse, best"),
        ({"iou": 1.0}, "iou=1.0 must lie between 0 and 1"),
        ({"chunk": 0}, "chunk=0 must be"),
        ({"fields": {"angle": "turn"}}, "choose one of boxes, points"),
        ({"mirrored_points": [1, 2, 0]}, "must be the point itself"),
        ({"mirrored_points": [0, 5]}, "must name the mirror image of every point"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        EquivariantDetector(Blobs(), "C4", **options)


def test_slanted_boxes_are_refused() -> None:
    with pytest.raises(InputError, match="r45 makes boxes slanted"):
        EquivariantDetector(Blobs(), cyclic(8))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], "image 0 is torch.uint8"),
        ([torch.zeros(3, 8, 8), torch.zeros(8, 8)], "image 1 is torch.float32 \\(8, 8\\)"),
        ([torch.full((3, 8, 8), torch.nan)], "image 0 holds NaN"),
        (["a.png"], "image 0 is a str"),
    ],
)
def test_bad_images_are_refused(images: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        EquivariantDetector(Blobs().eval(), "C4")(images)


class Returns(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: list[Tensor]) -> Any:
        return self.answer


def test_other_answers_are_refused() -> None:
    x, boxes = torch.zeros(3, 8, 8), {"boxes": torch.zeros(1, 4), "labels": torch.ones(1), "scores": torch.ones(1)}
    for answer, said in (
        (torch.zeros(1, 5), r"returned torch.float32 \(1, 5\) for 1 images"),
        ([{"boxes": torch.zeros(1, 4)}], "1 dicts, the first of boxes"),
        ([{**boxes, "angle": torch.zeros(1)}], "returns 'angle', and how that moves is not known"),
        ([{**boxes, "boxes": torch.zeros(1, 5)}], r"'boxes' is torch.float32 \(1, 5\), but should be \(N, 4\)"),
        ([{**boxes, "masks": torch.zeros(1, 1, 4, 4)}], r"but should be \(N, …, 8, 8\)"),
    ):
        with pytest.raises(InputError, match=said):
            EquivariantDetector(Returns(answer).eval(), "C2")([x])
    points = [{**boxes, "keypoints": torch.zeros(1, 2, 3)}]
    EquivariantDetector(Returns(points).eval(), "C4")([x])
    with pytest.raises(InputError, match="say mirrored_points=.*each of the 2 points"):
        EquivariantDetector(Returns(points).eval(), "D4")([x])
    EquivariantDetector(Returns([{**boxes, "angle": torch.zeros(1)}]).eval(), "C4", fields={"angle": "same"})([x])


@pytest.mark.parametrize("combine", ["fuse", "best"])
@pytest.mark.parametrize("view", [0, 1])
def test_odd_answers_for_one_view_are_refused(view: int, combine: str) -> None:
    class Odd(nn.Module):
        """Says something else about one of the views, which come one by one."""

        def __init__(self, usual: dict[str, Tensor], odd: dict[str, Tensor]) -> None:
            super().__init__()
            self.answers = [usual, usual]
            self.answers[view] = odd

        def forward(self, images: list[Tensor]) -> Any:
            return [self.answers.pop(0)]

    boxes = {"boxes": torch.ones(1, 4), "labels": torch.ones(1), "scores": torch.ones(1)}
    for usual, odd, said in (
        ({**boxes, "masks": torch.ones(1, 1, 8, 8)}, boxes, "returned 'masks' for some views of an image"),
        (boxes, {**boxes, "scores": torch.tensor([torch.nan])}, "returned nan among 'scores' of a view"),
        (boxes, {**boxes, "boxes": torch.tensor([[1, 1, torch.inf, 2]])}, "returned inf among 'boxes' of a view"),
    ):
        detector = EquivariantDetector(Odd(usual, odd).eval(), "C2", combine=combine)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=said):
            detector([torch.zeros(3, 8, 8)])


@pytest.mark.parametrize("confidence", [torch.nan, torch.inf])
def test_a_confidence_is_a_number(confidence: float) -> None:
    detector = build("C2", combine="best", confidence=lambda found: torch.tensor(confidence))
    with pytest.raises(InputError, match=f"confidence= returned {confidence} for a view"):
        detector([image(8, 8)])
    detector.confidence = lambda found: torch.tensor(-torch.inf)
    assert detector([image(8, 8)])


def test_nothing_found_is_an_answer() -> None:
    class Nothing(Blobs):
        def one(self, image: Tensor) -> dict[str, Tensor]:
            return {name: tensor[:0] for name, tensor in super().one(image).items()}

    for options in ({}, {"combine": "best"}):
        (found,) = EquivariantDetector(Nothing().eval(), "D4", mirrored_points=SWAP, **options)([torch.rand(3, 8, 10)])
        assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
            "boxes": (0, 4), "labels": (0,), "scores": (0,), "masks": (0, 1, 8, 10), "keypoints": (0, 3, 3),
            "keypoints_scores": (0, 3),
        }  # fmt: skip


def test_images_move_as_elsewhere() -> None:
    group, x = as_group("D4"), torch.rand(1, 3, 6, 6)
    for g in range(group.order):
        assert torch.equal(moved_image(motion_of(group, g), x[0]), act(group, g, x)[0])
    assert moved_size(motion_of(group, group.index("r90")), (4, 7)) == (7, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fasterrcnn_resnet50_fpn", {"box_score_thresh": 0.0, "box_detections_per_img": 20, "min_size": 96}),
        ("maskrcnn_resnet50_fpn", {"box_score_thresh": 0.0, "box_detections_per_img": 5, "min_size": 96}),
        ("keypointrcnn_resnet50_fpn", {"box_score_thresh": 0.0, "box_detections_per_img": 5, "min_size": 96}),
        ("retinanet_resnet50_fpn", {"score_thresh": 0.0, "detections_per_img": 20, "min_size": 96}),
        ("fcos_resnet50_fpn", {"score_thresh": 0.0, "detections_per_img": 20, "min_size": 96}),
    ],
)
def test_detectors_of_torchvision(name: str, options: dict[str, Any]) -> None:
    from torchvision.models import detection

    swap = [0, *(i + 1 if i % 2 else i - 1 for i in range(1, 17))]  # COCO's points of a person: left, right, left, …
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(detection, name)(weights=None, weights_backbone=None, **options).eval()
    detector = EquivariantDetector(model, "D4", mirrored_points=swap)
    x, moving = image(70, 96).float(), Moving({}, swap)
    with torch.no_grad():
        (expected,) = detector([x])
        assert len(expected["boxes"])
        for g in (1, 5):
            motion = motion_of(detector.group, g)
            (found,) = detector([moved_image(motion, x)])
            expectation = moving.found(motion, expected, (70, 96))
            assert found.keys() == expectation.keys()
            torch.testing.assert_close(found["scores"], expectation["scores"], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found["boxes"], expectation["boxes"], rtol=1e-3, atol=1e-2)
