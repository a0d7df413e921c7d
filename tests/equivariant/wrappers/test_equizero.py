"""What equizero promises beyond equivariance: which view it takes, and whose gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from tests.support.zoo import Micro

X = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(7))


def test_equizero_takes_the_most_confident_view() -> None:
    logits = torch.tensor([[0.0, 0.1, 0.0], [4.0, 0.0, 0.0], [1.0, 0.9, 0.0]])
    for proxy in (eq.entropy, eq.margin, eq.max_probability):
        assert proxy(logits).argmin() == 1
        assert proxy(logits).shape == (3,)
    torch.testing.assert_close(eq.max_probability(logits), -logits.softmax(1).amax(1).log())
    torch.testing.assert_close(eq.entropy(logits), torch.distributions.Categorical(logits=logits).entropy())
    first, second = logits.softmax(1).topk(2, 1).values.unbind(1)
    torch.testing.assert_close(eq.margin(logits), 1 - (first - second))
    sure = eq.margin(torch.tensor([[40.0, 0.0, 0.0], [41.0, 0.0, 0.0]]))
    assert 0 < sure[1] < sure[0], "of two answers that are all but certain the surer one is known"
    assert eq.margin(torch.ones(2, 1)).tolist() == [0, 0], "of one class there is nothing to be unsure of"
    assert eq.entropy(torch.tensor([[0.0, -torch.inf, 0.0]])).item() == pytest.approx(0.6931, abs=1e-4)
    maps = logits[..., None, None].expand(3, 3, 2, 5)
    torch.testing.assert_close(eq.entropy(maps), eq.entropy(logits))


def test_similarity_takes_the_view_nearest_to_a_reference() -> None:
    references = torch.randn(5, 4)
    model = Micro()
    wrapper = eq.Equizero(model, "C4", proxy=eq.Similarity(references))
    features = model(eq.orbit("C4", X).flatten(0, 1)).unflatten(0, (4, 3))
    similar = nn.functional.cosine_similarity(features[:, :, None], references, dim=-1).amax(2)
    assert torch.equal(wrapper(X), features[similar.argmax(0), torch.arange(3)])
    assert "proxy.references" in wrapper.state_dict()


def test_straight_through_is_equizero_forward_and_equitune_backward() -> None:
    model = Micro()
    through, hard, mean = (
        eq.Equizero(model, "D4"),
        eq.Equizero(model, "D4", straight_through=False),
        eq.Equitune(model, "D4"),
    )

    def gradients(wrapper: nn.Module) -> list[Tensor]:
        answer = wrapper(X)
        return list(torch.autograd.grad((answer * torch.linspace(-1, 1, 12).reshape(3, 4)).sum(), model.parameters()))

    assert torch.equal(through(X), hard(X))
    torch.testing.assert_close(gradients(through), gradients(mean))
    assert not torch.allclose(gradients(through)[0], gradients(hard)[0])
