"""The public checks find what is broken, name it, and leave the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.actions import Action
from equivariant.checks.equivariance import TOLERANCE, relative_error
from equivariant.groups import FiniteGroup
from tests.support.zoo import Micro, TinyUNet, vit

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Blind(nn.Module):
    """Wrong for r270 alone: it looks at a corner pixel that only that turn fills."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + torch.relu(x[:, :, 0, 0] - 50)


def marked() -> Tensor:
    x = X.clone()
    x[..., -1, 0] = 60  # r270 brings the lower left corner to the upper left
    return x


def test_errors_by_element_name_the_worst() -> None:
    found = eq.equivariance_error(Blind(), "C4", marked())
    assert found.worst == "r270"
    assert found.largest > 1
    assert max(found.errors[:3]) < 1e-6
    assert str(found).splitlines()[0].endswith("worst: r270")
    with pytest.raises(AssertionError, match=r"relative error is \d.* for element r270, above 1e-05 \(float32\)"):
        eq.assert_equivariant(Blind(), "C4", marked())
    eq.assert_equivariant(Blind(), "C2", marked())


def test_float64_sees_what_float32_cannot() -> None:
    class Slightly(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) + 1e-9 * x[:, :, 0, 0]

    eq.assert_equivariant(Slightly(), "C4", X)
    with pytest.raises(AssertionError, match="above 1e-12"):
        eq.assert_equivariant(Slightly(), "C4", X, float64=True)
    wrapper = eq.Equitune(Micro(), "D4")
    eq.assert_equivariant(wrapper, "D4", X, float64=True)
    assert next(wrapper.parameters()).dtype == torch.float32


def test_tolerances_are_separate_for_exact_and_interpolated_elements() -> None:
    crop = eq.Images(crop="circle")
    x = nn.functional.interpolate(torch.rand(1, 3, 3, 3), size=(32, 32), mode="bicubic")
    model = eq.Equitune(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), "C8", input=crop)
    eq.assert_equivariant(model, "C8", x, tolerance=1e-4)
    with pytest.raises(AssertionError, match=r"element r\d*(45|135|225|315), above 1e-04"):
        eq.assert_equivariant(model, "C8", x, tolerance=1e-4, interpolated_tolerance=1e-4)
    with pytest.raises(AssertionError, match="above 1e-15"):
        eq.assert_equivariant(Micro(), "C4", X, tolerance=1e-15)


def test_what_a_wrapper_declares_is_the_default() -> None:
    wrapper = eq.Equitune(TinyUNet(), "D4", output=eq.Maps()).eval()
    eq.assert_equivariant(wrapper, "D4", X)
    with pytest.raises(AssertionError, match=r"output=Maps\(\)"):
        eq.assert_equivariant(wrapper, "D4", X, output=eq.Trivial())
    eq.assert_equivariant(nn.Sequential(wrapper), "D4", X, output=eq.Maps())
    eq.assert_equivariant(nn.ReLU(), "D4", X, output=eq.Images())


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten())
    model[2].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    once, twice = (eq.equivariance_error(model, "C4", X) for _ in range(2))
    assert once == twice
    assert [m.training for m in model] == [True, True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    eq.equivariance_report(model, "C4", X)
    assert not any(m._forward_hooks for m in model.modules())


def test_relative_errors_of_odd_answers() -> None:
    inf, nan = torch.inf, torch.nan
    assert relative_error(torch.tensor([[1.0, -inf]]), torch.tensor([[1.0, -inf]])) == 0
    assert relative_error(torch.zeros(1, 2), torch.zeros(1, 2)) == 0
    assert relative_error(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 1.0]])) == 0.5
    assert relative_error(torch.tensor([[2.0]]), torch.tensor([[nan]])) == inf
    assert relative_error(torch.tensor([[2.0]]), torch.tensor([[inf]])) == inf
    with pytest.raises(eq.InputError, match="differ in shape"):
        relative_error(torch.zeros(1, 2), torch.zeros(1, 3))


def test_action_error_measures_an_action_and_names_the_pair() -> None:
    assert eq.action_error("D4", eq.Images(), X).largest == 0

    class Wrong(Action):
        def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
            return x.rot90(min(g, 2), (2, 3))

    found = eq.action_error("C4", Wrong(), X)
    assert found.largest > 0.1
    g, h = found.worst
    assert "r270" in (g, h) or {g, h} == {"r90", "r180"}
    smooth = nn.functional.interpolate(torch.rand(1, 3, 4, 4), size=(48, 48), mode="bicubic")
    plain, cropped = (eq.action_error("C8", eq.Images(crop=crop), smooth).mean for crop in (None, "circle"))
    assert 0 < cropped < 0.02 < plain


def test_consistency_and_flips() -> None:
    class FirstPixel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 0, 0]

    x = torch.zeros(2, 3, 4, 4)
    x[:, 1] = 1  # class 1 everywhere …
    x[1, 2, 0, 3] = 5  # … but class 2 in one corner of the second image
    answers = eq.orbit_answers(FirstPixel(), "C4", x)
    assert answers.tolist() == [[1, 1], [1, 2], [1, 1], [1, 1]]
    assert torch.equal(eq.orbit_answers(FirstPixel(), "C4", [x[:1], x[1:]]), answers)
    assert eq.orbit_consistency(answers) == 0.5
    assert eq.orbit_flip_rate(answers, torch.tensor([1, 1])) == pytest.approx(1 / 6)
    assert eq.orbit_flip_rate(answers, torch.tensor([0, 2])) == 0
    assert eq.orbit_flip_rate(answers[:1], torch.tensor([1, 1])) == 0
    wrapped = eq.orbit_answers(eq.Equizero(Micro(), "C4"), "C4", X)
    assert eq.orbit_consistency(wrapped) == 1
    with pytest.raises(eq.InputError, match="class scores"):
        eq.orbit_answers(nn.Identity(), "C4", x)
    with pytest.raises(eq.InputError, match="at least one batch"):
        eq.orbit_answers(FirstPixel(), "C4", [])
    with pytest.raises(eq.InputError, match="the batch is empty"):
        eq.orbit_answers(FirstPixel(), "C4", x[:0])
    for nothing in (answers[:, :0], answers[0]):
        with pytest.raises(eq.InputError, match=r"\(\|G\|, N\) with at least one image"):
            eq.orbit_consistency(nothing)
        with pytest.raises(eq.InputError, match=r"\(\|G\|, N\) with at least one image"):
            eq.orbit_flip_rate(nothing, torch.tensor([1, 1]))
    with pytest.raises(eq.InputError, match="identity=4 must be the number of an element, from 0 to 3"):
        eq.orbit_flip_rate(answers, torch.tensor([1, 1]), identity=4)
    assert eq.orbit_flip_rate(answers, torch.tensor([1, 1]), identity=1) == pytest.approx(0)
    assert eq.orbit_flip_rate(answers, torch.tensor([1, 2]), identity=1) == pytest.approx(1 / 2)
    with pytest.raises(eq.InputError, match=r"labels are \(N,\)"):
        eq.orbit_flip_rate(answers, torch.zeros(3))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:0], r"the batch is empty \(its shape is \(0, 3, 6, 6\)\)"),
        (X[0], r"images are \(B, C, H, W\)"),
        (X[..., :4], "needs a square, not 6 x 4"),
        ((X * 9).to(torch.uint8), "not torch.uint8"),
        (X.tolist(), "must be a tensor, not list"),
    ],
)
def test_the_checks_refuse_bad_images(x: Any, message: str) -> None:
    for check in (eq.equivariance_error, eq.assert_equivariant, eq.equivariance_report):
        with pytest.raises(eq.InputError, match=message):
            check(Micro(), "C4", x)


def test_an_answer_that_is_not_a_number_is_an_infinite_error_and_no_class() -> None:
    x = X.clone()
    x[0, 0, -1, 0] = torch.nan  # r270 brings it to the first pixel
    corner = Corner()
    found = eq.equivariance_error(corner, "C4", x)
    assert found.worst == "r270"
    assert found.largest == torch.inf
    with pytest.raises(AssertionError, match="relative error is inf for element r270"):
        eq.assert_equivariant(corner, "C4", x, tolerance=1e9)
    with pytest.raises(eq.InputError, match="NaN for element r270 of C4"):
        eq.orbit_answers(corner, "C4", x)


class Corner(nn.Module):
    """The first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0, 0]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_default_tolerance_is_that_of_the_dtype(dtype: torch.dtype) -> None:
    class Off(nn.Module):
        """Wrong by a share of the answer as soon as the picture is turned."""

        share = 0.0

        def forward(self, x: Tensor) -> Tensor:
            return 1 + (x[:, :, 0, 0] != 1).to(x.dtype) * self.share

    x = torch.zeros(1, 1, 4, 4, dtype=dtype)
    x[..., 0, 0] = 1
    model, name = Off(), str(dtype).removeprefix("torch.")
    for model.share, fine in ((0.5 * TOLERANCE[dtype], True), (4 * TOLERANCE[dtype], False)):
        wrong = lambda x: model(x.double())  # noqa: E731  # the answer itself is not rounded to the dtype
        if fine:
            eq.assert_equivariant(wrong, "C4", x)
        else:
            with pytest.raises(AssertionError, match=rf"above {TOLERANCE[dtype]:.0e} \({name}\)"):
                eq.assert_equivariant(wrong, "C4", x)


# The report ----------------------------------------------------------------------------------------------


class Pipeline(nn.Module):
    """Equivariant up to `crooked`, a layer with an even stride, which breaks turns of even sizes only."""

    def __init__(self) -> None:
        super().__init__()
        self.pixelwise = nn.Conv2d(3, 4, 1)
        self.crooked = nn.Conv2d(4, 4, 1, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.crooked(self.pixelwise(x))))


def test_the_report_finds_the_layer_and_the_image_sizes() -> None:
    report = eq.equivariance_report(Pipeline(), "C4", torch.randn(2, 3, 8, 8), sizes=[8, 9, 11])
    assert list(report.layers) == ["pixelwise", "crooked", "pool", "head.0", "head.1", "head"]
    assert report.layers["pixelwise"] < 1e-6
    assert min(report.layers[name] for name in ("crooked", "pool", "head")) > 1e-2
    assert report.sizes[8] is not None
    assert report.sizes[8] > 1e-2
    assert max(report.sizes[9] or 0, report.sizes[11] or 0) < 1e-5
    text = str(report)
    assert "by layer" in text
    assert "crooked" in text


def test_the_report_of_images_that_are_not_square() -> None:
    x = torch.randn(2, 3, 8, 6)
    report = eq.equivariance_report(Pipeline(), "mirror_v", x)
    assert report.sizes == {}
    assert report.layers["head"] > 1e-3
    with pytest.raises(eq.InputError, match="images of 8 x 6 cannot be resampled to squares"):
        eq.equivariance_report(Pipeline(), "mirror_v", x, sizes=[8])


def test_the_report_reads_tokens_and_says_which_sizes_are_refused() -> None:
    model = vit()
    report = eq.equivariance_report(model, "C4", torch.randn(1, 3, 16, 16))
    assert {"patch_embed", "blocks.0", "blocks.1", "norm", "head"} <= set(report.layers)
    assert list(report.sizes) == [8, 16, 17]
    assert report.sizes[8] is None
    assert report.sizes[17] is None
    assert "refused" in str(report)

    class Patches(nn.Module):
        """Turned patch means: equivariant as a grid with one token in front."""

        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            grid = nn.functional.avg_pool2d(x, 2).flatten(2).mT
            return self.tokens(torch.cat([x.mean((2, 3))[:, None], grid], dim=1)).sum(1)

    assert eq.equivariance_report(Patches(), "D4", X, sizes=[]).layers["tokens"] < 1e-6
    guessed = eq.equivariance_report(Patches(), "D4", X, sizes=[], actions={"tokens": eq.Trivial()})
    assert guessed.layers["tokens"] > 0.1
    with pytest.raises(eq.InputError, match="no layer 'stem': its children are tokens"):
        eq.equivariance_report(Patches(), "D4", X, layers=["stem"])


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = eq.equivariance_report(Pipeline(), "D4", X)
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    only: Any = eq.EquivarianceReport(report.elements)
    only.plot(tmp_path / "elements.svg")
    assert (tmp_path / "elements.svg").stat().st_size > 1000
