"""Learned canonicalisation: transform each image as a small network prefers, run the model once, transform back.

Kaba et al., "Equivariance with Learned Canonicalization Functions" (arXiv 2211.06489), over a finite group.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from equivariant.errors import InputError
from equivariant.groups import FiniteGroup
from equivariant.orbits import act_each, align, chunks, orbit
from equivariant.outputs import Extra, can_look, leaves, skeleton
from equivariant.parts.chosen import Chosen
from equivariant.parts.following import channels_of
from equivariant.parts.networks import ImageScore, wide_scores
from equivariant.ties import best
from equivariant.wrappers.base import Views, WeightedWrapper, weighted_sum


class Canonicaliser(WeightedWrapper):
    """f(x) = h⁻¹∘M(h·x) with h = argmax_h s(h·x): one backbone pass, and |G| passes of the small network s.

    - `score`: s, images (n, C, H, W) → (n,) or (n, 1); by default `ImageScore(channels)`, with the channels of the
      model's first convolution unless you say more. Untrained, it prefers at random (but always the same), which still
      makes the answer equivariant. It is computed in float32 or wider, whatever the model's dtype.
    - In evaluation the choice is hard. Elements whose scores tie within `tie_tolerance` (relative to max(1, |score|))
      each get a backbone pass, and their answers are averaged.
    - In training the choice is a hard Gumbel-softmax at `temperature`, straight-through, so that the loss of the one
      pass teaches s. The noise makes training random; `noise=False` chooses as in evaluation, and if elements tie, the
      model sees the mean of their views.

    Steps of an exported graph, or of `torch.func.vmap`, cannot depend on what images hold: there the model runs on all
    views, and those that were not chosen count nothing. Other options as for `OrbitWrapper`; `chunk` bounds the passes
    of s.
    """

    name = "canonicaliser"

    def __init__(
        self,
        model: nn.Module,
        group: FiniteGroup | str,
        *,
        score: nn.Module | None = None,
        channels: int | None = None,
        temperature: float = 1.0,
        noise: bool = True,
        tie_tolerance: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, group, **options)
        if not temperature > 0:
            raise InputError(f"temperature={temperature!r} must be above 0")
        self.score = self.like_model(ImageScore(channels or channels_of(model))) if score is None else score
        self.temperature, self.noise, self.tie_tolerance = temperature, noise, tie_tolerance

    def answer(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """Return the preferred view's answer for `x` (B, …), and 1 for its element, 0 for the others, (|G|, B)."""
        extra, scores = Extra(args, kwargs), self.scores(x)
        extra.check(x.shape[0])
        if self.training:
            weights = self._straight_through(scores)
            return self._on_mean_view(x, weights, extra), weights
        weights = self._hard(scores)
        if not can_look(scores):
            return self.views(x, extra=extra).combine(weights), weights
        chosen = Chosen(self.group, weights)
        output = self.call(self.model, chosen.views(x, self.input), extra.of(chosen.images))
        return chosen.combine(output, self.output, x, self.check_answer), weights

    def _on_mean_view(self, x: Tensor, weights: Tensor, extra: Extra) -> Any:
        """Return the model's answer for the weighted mean of the views, moved back by the same weights."""
        output = self.call(self.model, weighted_sum(weights, orbit(self.group, x, self.input)), extra)
        answers = leaves(self.output, output, x)
        back = [align(self.group, tensor.expand(self.group.order, *tensor.shape), action) for action, tensor in answers]
        return Views(skeleton(output), back).combine(weights)

    def scores(self, x: Tensor) -> Tensor:
        """Return s(g·x) for every element and image, (|G|, B)."""
        self.check_input(x)
        parts, score = [], partial(wide_scores, self.score)
        for elements in chunks(self.group.order, self.chunk):
            images = orbit(self.group, x, self.input, elements).flatten(0, 1)
            parts.append(self.check_scores(self.call(score, images), elements, x.shape[0], "the score network"))
        return torch.cat(parts)

    def orbit_scores(self, x: Tensor) -> Tensor:
        """Return s(g·x) for every element and image, (|G|, B)."""
        return self.scores(x)

    def canonicalise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the preferred element of each image, (B,) int64, the first of a tie, and the images by it, (B, …)."""
        elements = self._hard(self.scores(x)).argmax(0)
        return elements, act_each(self.group, elements, x, self.input)

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of s."""
        return list(self.score.parameters())

    def _hard(self, scores: Tensor) -> Tensor:
        return best(scores, self.tie_tolerance)

    def _straight_through(self, scores: Tensor) -> Tensor:
        """Return hard weights (|G|, B) whose gradient is that of the softmax."""
        if self.noise:
            scores = scores - torch.empty_like(scores).exponential_().log()  # -log of an exponential is Gumbel noise
        soft = (scores / self.temperature).softmax(0)
        return self._hard(scores.detach()) + (soft - soft.detach())
