"""Equizero: the one view that a proxy loss likes best.

Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models" (NeurIPS 2023, arXiv 2305.09900).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from equivariant.errors import InputError
from equivariant.groups import FiniteGroup
from equivariant.outputs import Extra
from equivariant.parts.proxies import Proxy, Similarity, as_proxy
from equivariant.ties import best, default_tolerance
from equivariant.wrappers.base import Network, WeightedWrapper, weighted_sum


class Equizero(WeightedWrapper):
    """f(x) = g*⁻¹∘M(g*·x) with g* = argmin_g ℓ(M(g·x)).

    - `proxy`: the loss ℓ by name ("entropy", "margin", "max_probability"), `Similarity(references)`, or any function
      from the model's output for n views to (n,). InputError if it returns another shape or is not finite.
    - `tie_tolerance`: elements whose losses are this close to the least, relative to max(1, |loss|), tie, and their
      outputs are averaged (see `equivariant.ties`); by default a few roundings of the output's dtype.
    - `straight_through`: choosing has no useful gradient, so that of equitune is taken instead.

    Other options as for `OrbitWrapper`.
    """

    name = "equizero"
    through_model = True

    def __init__(
        self,
        model: nn.Module,
        group: FiniteGroup | str,
        *,
        proxy: str | Proxy = "entropy",
        tie_tolerance: float | None = None,
        straight_through: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(model, group, **options)
        self.proxy = as_proxy(proxy)
        self.tie_tolerance, self.straight_through = tie_tolerance, straight_through

    @classmethod
    def around(
        cls,
        network: Network,
        group: FiniteGroup,
        chunk: int | None = None,
        *,
        proxy: Annotated[
            Literal["entropy", "margin", "max_probability", "similarity"],
            "the loss by which a view is chosen; similarity is to the head's rows",
        ] = "entropy",
    ) -> nn.Module:
        """Return the classifier; raises InputError for a similarity to the rows of a head that is not linear."""
        if proxy != "similarity":
            return cls(network.whole, group, proxy=proxy, chunk=chunk)
        if not isinstance(network.head, nn.Linear):
            raise InputError("similarity needs a linear head, which this network lacks: choose proxy='entropy'")
        similarity = Similarity(network.head.weight.detach().clone())
        return nn.Sequential(cls(network.features, group, proxy=similarity, chunk=chunk), network.head)

    def answer(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """Return the chosen view's answer for `x` (B, …), and 1 for its element, 0 for the others, (|G|, B)."""
        views = self.views(x, self._view, "the proxy loss", Extra(args, kwargs))
        assert views.scores is not None
        tolerance = default_tolerance(views.tensors[0].dtype) if self.tie_tolerance is None else self.tie_tolerance
        weights = best(-views.scores, tolerance)
        if not (self.straight_through and torch.is_grad_enabled()) or torch.compiler.is_exporting():
            return views.combine(weights), weights
        uniform = torch.full_like(weights, 1 / self.group.order)

        def through(tensor: Tensor) -> Tensor:
            return _StraightThrough.apply(weighted_sum(weights, tensor.detach()), weighted_sum(uniform, tensor))

        return views.map(through), weights

    def _view(self, images: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        output = self.model(images, *args, **kwargs)
        with torch.no_grad():
            return output, self.proxy(output)


class _StraightThrough(torch.autograd.Function):
    """Return the first argument; send the gradient to the second."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, surrogate: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient
