"""Elements whose scores tie are chosen together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.ties import best, ranks, top
from tests.support.zoo import Anything, TinyUNet, Whole

X = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(7))
SYMMETRIC = sum(X.double().rot90(k, (2, 3)) for k in range(4))  # fixed by C4, up to rounding
MIRRORED = (X + X.flip(-1)) / 2  # fixed by mirror_h, bit for bit


def test_the_tie_rule() -> None:
    scores = torch.tensor([[1.0, 5.0], [3.0, 5.0 + 1e-6], [3.0, 1.0]])
    assert best(scores, 1e-5).tolist() == [[0.0, 0.5], [0.5, 0.5], [0.5, 0.0]]
    assert best(scores, 0.0).tolist() == [[0.0, 0.0], [0.5, 1.0], [0.5, 0.0]]
    assert top(scores, 2, 1e-5).tolist() == [[False, True], [True, True], [True, False]]
    assert top(torch.tensor([[2.0], [2.0], [1.0], [1.0]]), 3, 0.0).all()
    assert ranks(scores, 1e-5).tolist() == [[1, 0], [0, 0], [0, 1]]
    chain = torch.tensor([[1.0], [1.0 + 8e-6], [0.0], [1.0 + 16e-6]])
    assert ranks(chain, 1e-5).tolist() == [[0], [0], [1], [0]]


@pytest.mark.parametrize("image", [SYMMETRIC, MIRRORED, torch.zeros(2, 3, 6, 6)], ids=["C4", "mirror", "blank"])
@pytest.mark.parametrize("name", ["anytime", "equizero", "canonicaliser", "pruned"])
def test_symmetric_images_tie_and_stay_equivariant(name: str, image: Tensor) -> None:
    model = Padded()
    wrapper = {
        "anytime": lambda: eq.AnytimeOrbit(model, "D4", score=Anything(), limit=torch.inf, output=eq.Maps()),
        "equizero": lambda: eq.Equizero(model, "D4", output=eq.Maps()),
        "canonicaliser": lambda: eq.Canonicaliser(model, "D4", score=Anything(), output=eq.Maps()),
        "pruned": lambda: eq.PrunedOrbit(Whole(model), "D4", score=Anything(), output=eq.Maps()),
    }[name]()
    wrapper = wrapper.double().eval()
    eq.assert_equivariant(wrapper, "D4", image.double())
    weights = wrapper.orbit_weights(image.double())
    assert ((weights > 0).sum(0) >= 2).all()


class Padded(nn.Module):
    """A map model that sees where it is: its answer for a symmetric image is not symmetric."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(3, 6, 6))
        self.net = TinyUNet().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.place)


def test_without_the_tie_rule_a_symmetric_image_would_break_a_map() -> None:
    model = Padded().double().eval()
    maps = model(MIRRORED.double())
    assert (maps - maps.flip(-1)).abs().max() > 1e-3
    whole = eq.Equizero(model, "mirror_h", output=eq.Maps())(MIRRORED.double())
    torch.testing.assert_close(whole, whole.flip(-1))
    torch.testing.assert_close(whole, (maps + maps.flip(-1)) / 2)
