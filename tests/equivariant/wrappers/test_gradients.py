"""Every wrapper's gradients are those of finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.wrappers.base import weighted_sum
from tests.support.zoo import Anything, Whole


def gradcheck(wrapper: eq.OrbitWrapper, x: Tensor) -> None:
    """Compare the gradients of all parameters and of the input with finite differences, in float64."""
    wrapper = wrapper.double()
    names, values = zip(*[(n, p.detach().requires_grad_()) for n, p in wrapper.named_parameters()], strict=True)

    def function(images: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(wrapper, dict(zip(names, parameters, strict=True)), (images,))

    assert torch.autograd.gradcheck(function, (x.double().requires_grad_(), *values))


class Smallest(nn.Module):
    """3 x 2 x 2 → 2, with curvature."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x.flatten(1)))


@pytest.mark.parametrize(
    "make",
    [
        lambda m: eq.Equitune(m, "D4"),
        lambda m: eq.LambdaEquitune(m, "C4", network=Anything()),
        lambda m: eq.LambdaEquitune(m, "C4", network=Anything(), reads="input", positive="softplus"),
        lambda m: eq.OrbitMax(m, "C4"),
        lambda m: eq.Equizero(m, "C4", straight_through=False),
        lambda m: eq.PrunedOrbit(Whole(m), "C4", score=Anything()),
        lambda m: eq.PrunedOrbit(Whole(m), "C4", score=Anything(), keep=2).eval(),
        lambda m: eq.Canonicaliser(m, "C4", score=nn.Sequential(nn.Flatten(), Fixed())).eval(),
    ],
)
def test_gradients_are_those_of_finite_differences(make: Any) -> None:
    gradcheck(make(Smallest()), torch.randn(2, 3, 2, 2))


class Fixed(nn.Module):
    """A score without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] * 5


def test_a_weight_of_exactly_zero_still_gets_its_gradient() -> None:
    weights = torch.tensor([[0.0], [1.0]], dtype=torch.float64, requires_grad=True)
    answers = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weighted_sum, (weights, answers))


def test_masked_scores_survive_a_choice() -> None:
    answers = torch.tensor([[[1.0, -torch.inf]], [[2.0, -torch.inf]]])
    assert weighted_sum(torch.tensor([[0.0], [1.0]]), answers).tolist() == [[2.0, -torch.inf]]
    assert weighted_sum(torch.tensor([[0.5], [0.5]]), answers).tolist() == [[1.5, -torch.inf]]
