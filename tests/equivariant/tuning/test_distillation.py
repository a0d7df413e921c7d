"""One view that answers nearly like the mean over its orbit, and symmetry as a term of a training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.tuning.distillation import PENALTIES, Readings
from tests.support.zoo import Micro, TinyUNet, vit


class Deep(nn.Module):
    """Features of which no linear map gives those of another view, though one of the pixels does."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels, self.first, self.last = nn.Flatten(), nn.Linear(64, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(self.pixels(x)))


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_one_view_comes_near_the_mean_and_nearer_by_what_is_read_on_the_way() -> None:
    model, images, fresh = Deep().eval(), pictures(400), pictures(50, seed=1)
    before = copy.deepcopy(model.state_dict())
    mean = model(eq.orbit("C4", fresh).flatten(0, 1)).unflatten(0, (4, 50)).mean(0)

    def error(module: nn.Module) -> float:
        found = module(eq.orbit("C4", fresh).flatten(0, 1)).unflatten(0, (4, 50))
        return float((found - mean).square().mean() / (mean - mean.mean(0)).square().mean())

    plain, own = error(model), error(eq.distil_orbit(model, "C4", images))
    whole = eq.distil_orbit(model, "C4", images.split(64), ["pixels"], chunk=1)
    assert plain > 1.5 > 1 > own > 0.2
    assert error(whole) < 0.01, "pixels say all"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_map_is_a_ridge_regression_whose_strength_held_out_images_choose() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    model, images = Deep().double().eval(), pictures(40).double()
    found = eq.distil_orbit(model, "D4", images.split(7), ["first"])
    readings = Readings(model, ["first"])
    views = readings(eq.orbit("D4", images).flatten(0, 1)).detach().unflatten(0, (8, 40)).transpose(0, 1)
    goals = views[:, :, :5].mean(1, keepdim=True).expand(-1, 8, -1)
    last = torch.arange(40) % 5 == 4

    def fitted(own: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        rows, y = views[own].flatten(0, 1), goals[own].flatten(0, 1)
        centre, scale = rows.mean(0), rows.std(0, correction=0)
        ridge = linear.Ridge(alpha=penalty * rows.shape[1]).fit((rows - centre) / scale, y)
        weight = torch.from_numpy(ridge.coef_) / scale
        return weight, torch.from_numpy(ridge.intercept_) - weight @ centre

    def error(weight: Tensor, bias: Tensor) -> float:
        return float((views[last] @ weight.T + bias - goals[last]).square().sum())

    best = min(PENALTIES, key=lambda penalty: error(*fitted(~last, penalty)))
    weight, bias = fitted(torch.ones(40, dtype=torch.bool), best)
    torch.testing.assert_close(found[1].weight.double(), weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1].bias.double(), bias, rtol=1e-5, atol=1e-6)


def test_a_vit_with_its_map_goes_into_any_wrapper() -> None:
    model = vit(num_classes=0, depth=3).eval()
    images = torch.randn(12, 3, 16, 16)
    distilled = eq.distil_orbit(model, "C4", images, ["blocks.0", "blocks.1"])
    assert distilled[0](images).shape == (12, 16 + 2 * 32)
    for wrapper in (eq.AnytimeOrbit(distilled, "C4", limit=1.0), eq.Canonicaliser(distilled, "C4", channels=3)):
        eq.assert_equivariant(wrapper.eval(), "C4", images)
    assert copy.deepcopy(distilled)(images).shape == (12, 16)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(eq.InputError, match="no sub-module 'blocks.3': its children are first, second"):
        eq.distil_orbit(Micro(), "C4", torch.randn(9, 3, 6, 6), ["blocks.3"])
    with pytest.raises(eq.InputError, match="take its head off"):
        eq.distil_orbit(TinyUNet(), "C4", torch.randn(9, 3, 8, 8))
    with pytest.raises(eq.InputError, match="at least 5 and better hundreds, not 4"):
        eq.distil_orbit(Micro(), "C4", torch.randn(4, 3, 6, 6))


# Soft symmetry -------------------------------------------------------------------------------------------


def test_the_loss_is_nothing_for_an_equivariant_model_and_something_for_another() -> None:
    x = torch.randn(6, 3, 8, 8).double()
    for model, output in (
        (TinyUNet().double().eval(), eq.Maps()),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double(), None),
    ):
        assert eq.equivariance_loss(model, "D4", x, output=output) > 1e-3
        wrapper = eq.Equitune(model, "D4", output=output)
        assert eq.equivariance_loss(wrapper, "D4", x, output=output) < 1e-24


def test_each_image_is_moved_by_an_element_of_its_own() -> None:
    model, x = Micro().double(), torch.randn(20, 3, 6, 6).double()
    found = eq.equivariance_loss(model, "D4", x, generator=torch.Generator().manual_seed(5))
    elements = torch.randint(8, (20,), generator=torch.Generator().manual_seed(5))
    moved = torch.cat([eq.act("D4", int(g), image[None]) for g, image in zip(elements, x, strict=True)])
    torch.testing.assert_close(found, (model(moved) - model(x)).square().mean())
    draw = torch.Generator().manual_seed(5)
    apart = eq.equivariance_loss(model, "D4", x, distance=nn.functional.l1_loss, generator=draw)
    torch.testing.assert_close(apart, (model(moved) - model(x)).abs().mean())


def test_as_a_term_it_makes_a_model_more_symmetric() -> None:
    model, x = Micro(), torch.randn(64, 3, 6, 6)
    targets = model(x).detach()
    before = eq.equivariance_loss(model, "C4", x, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(40):
        soft = eq.equivariance_loss(model, "C4", x, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        ((model(x) - targets).square().mean() + soft).backward()
        optimizer.step()
    assert eq.equivariance_loss(model, "C4", x, generator=torch.Generator().manual_seed(0)) < before / 2
