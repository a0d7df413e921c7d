"""The pruned orbit: score every view after a few blocks, and finish only the best.

It costs (|G|·k + m·(L - k)) / L backbone passes for k of L blocks and the m best elements: 1.5 instead of 4 for C4 with
k = 2, m = 1 and L = 12.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from equivariant.errors import InputError
from equivariant.groups import FiniteGroup
from equivariant.orbits import chunks, orbit
from equivariant.outputs import NOTHING, Extra, can_look, joined
from equivariant.parts.chosen import Chosen
from equivariant.parts.cutting import staged
from equivariant.parts.networks import FeatureScore
from equivariant.parts.staged import Staged
from equivariant.ties import default_tolerance, soft, top, widened
from equivariant.wrappers.base import Network, WeightedWrapper


class PrunedOrbit(WeightedWrapper):
    """f(x) = Σ_g w_g g⁻¹∘late(early(g·x)), with w a softmax of s(early(g·x)) over the `keep` best elements.

    The choice depends on g·x alone, so the answer is exactly equivariant. Elements that tie with the last of the best,
    within `tie_tolerance` relative to max(1, |score|), are finished too.

    - `model`: a `Staged` model: `staged(model, blocks=2)` for most timm models, else `StagedPair(first, second)`.
    - `score`: s, from what `early` returns to (n,) or (n, 1); by default `FeatureScore(model.width)`, which starts with
      equal scores: until it is trained, all elements tie and all are finished.
    - In training every element is finished and weighted, so that each can teach s; evaluation prunes.

    In an exported graph, and under `torch.func.vmap`, whose steps cannot depend on the images, all views are finished
    and those that were not chosen count nothing. Other options as for `OrbitWrapper`; a chunk bounds how many views
    are in one pass, early and late; what else the model takes goes to `early`.
    """

    name = "pruned"

    def __init__(
        self,
        model: Staged,
        group: FiniteGroup | str,
        *,
        keep: int = 1,
        score: nn.Module | None = None,
        tie_tolerance: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, group, **options)
        if not isinstance(model, Staged):
            raise InputError(
                f"a pruned orbit needs a model it can stop half-way, not {type(model).__name__}: use staged(model, "
                f"blocks=2), or StagedPair(first, second, width)"
            )
        if not (isinstance(keep, int) and 1 <= keep <= self.group.order):
            raise InputError(f"keep={keep!r} must be from 1 to {self.group.order}, the order of {self.group.name}")
        self.model: Staged = model
        self.keep, self.tie_tolerance = keep, tie_tolerance
        self.score = self.like_model(FeatureScore(model.width)) if score is None else score

    @classmethod
    def around(
        cls,
        network: Network,
        group: FiniteGroup,
        chunk: int | None = None,
        *,
        blocks: Annotated[int, "blocks or stages that every view goes through"] = 2,
        keep: Annotated[int, "views that are finished"] = 1,
    ) -> nn.Module:
        """Return the classifier; raises InputError if the network cannot be cut in two by itself."""
        return nn.Sequential(cls(staged(network.bare, blocks), group, keep=keep, chunk=chunk), network.head)

    def answer(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """Return the best views' weighted answer for `x` (B, …), and the weights (|G|, B), 0 for those not finished."""
        extra = Extra(args, kwargs)
        self.check_input(x, extra)
        if not can_look(x):
            return self._all(x, extra)
        rows, states, scores = self._early(x, extra)
        weights = soft(scores, None if self.training else self._best(scores))
        chosen = Chosen(self.group, weights)
        states = states[torch.isin(rows, chosen.rows)]
        size = x.shape[0] * (self.chunk or self.group.order)
        parts = [self.call(self.model.late, part) for part in states.split(size)]
        return chosen.combine(joined(parts), self.output, x, self.check_answer), weights

    def orbit_scores(self, x: Tensor) -> Tensor:
        """Return s(early(g·x)) for every element and image, (|G|, B)."""
        self.check_input(x)
        return self._early(x)[2]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of s."""
        return list(self.score.parameters())

    def _all(self, x: Tensor, extra: Extra) -> tuple[Any, Tensor]:
        """Return the same with every view finished."""

        def view(*args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
            state = self.model.early(*args, **kwargs)
            return self.model.late(state), self.score(state)

        views = self.views(x, view, "the score network", extra)
        assert views.scores is not None
        weights = soft(views.scores, None if self.training else self._best(views.scores))
        return views.combine(weights), weights

    def _early(self, x: Tensor, extra: Extra = NOTHING) -> tuple[Tensor, Tensor, Tensor]:
        """Return the views still in the race, (R,) as g·B + b, their states (R, …), and all scores (|G|, B).

        A view that falls behind is dropped at once: whatever comes later, it cannot be among the best.
        """
        batch = x.shape[0]
        rows, states, scores = [], [], []
        for elements in chunks(self.group.order, self.chunk):
            # The views are made inside the call: nothing out here holds them while `early` runs.
            fresh = self.call(partial(self._early_states, elements, extra), x)
            scores.append(self.check_scores(self.score(fresh), elements, batch, "the score network"))
            states.append(fresh)
            rows.append(torch.arange(fresh.shape[0], device=x.device) + elements[0] * batch)
            if not self.training and elements[-1] >= self.keep:
                racing = self._best(torch.cat(scores)).flatten()
                states = [state[racing[own]] for state, own in zip(states, rows, strict=True)]
                rows = [own[racing[own]] for own in rows]
        return torch.cat(rows), torch.cat(states), torch.cat(scores)

    def _early_states(self, elements: list[int], extra: Extra, x: Tensor) -> Tensor:
        if extra == NOTHING:  # a call with *args would hold the views until it returns
            return self.model.early(orbit(self.group, x, self.input, elements).flatten(0, 1))
        extra = extra.repeated(len(elements))
        return self.model.early(orbit(self.group, x, self.input, elements).flatten(0, 1), *extra.args, **extra.kwargs)

    def _best(self, scores: Tensor) -> Tensor:
        """Return a mask (|G|, B) of the elements to finish."""
        tolerance = default_tolerance(scores.dtype) if self.tie_tolerance is None else self.tie_tolerance
        return top(widened(scores.detach()), min(self.keep, len(scores)), tolerance)
