"""The any-time orbit: views are finished one after the other, the best scored first, until their mean is sure.

Easy images take one view, hard ones more; `passes` asks for a mean number of passes, met on held-out images.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from math import inf, log
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from equivariant.errors import InputError
from equivariant.groups import FiniteGroup
from equivariant.orbits import chunks, orbit
from equivariant.outputs import NOTHING, Extra, can_look, joined, leaves, mapped, rebuild, skeleton, tensors
from equivariant.parts.chosen import Chosen
from equivariant.parts.cutting import staged
from equivariant.parts.following import channels_of
from equivariant.parts.networks import FeatureScore, ImageScore, wide_scores
from equivariant.parts.proxies import Proxy, as_proxy
from equivariant.parts.staged import Headed, Staged, early_share
from equivariant.parts.surgery import evaluating
from equivariant.ties import default_tolerance, ranks, soft, widened
from equivariant.wrappers.base import Network, Views, WeightedWrapper


class AnytimeOrbit(WeightedWrapper):
    """f(x) = Σ_{g∈S} w_g g⁻¹∘M(g·x) / Σ_{g∈S} w_g, S the fewest best views by s(g·x) whose mean is sure.

    The order depends on each view alone, and when to stop on the mean of those finished, so the answer is exactly
    equivariant, and that for an image does not depend on the others. Views whose scores are within `tie_tolerance`,
    relative to max(1, |score|), of the next in the order tie with it, and are finished together.

    - `model`: any module: s then reads g·x, costs little, and is computed in float32 or wider. Or a `Staged` one: every
      view goes through its early part, which s reads, and the chosen ones through the late part.
    - `score`: s, to (n,) or (n, 1); by default `ImageScore`, or `FeatureScore` of a staged model, which starts with
      equal scores: until it is trained, all views tie and all are finished.
    - `proxy` and `limit`: the mean is sure when its proxy loss, as for `Equizero`, is at most the limit; by default
      how little its likeliest class is ahead of the next. The limit starts at -inf, where all views are finished.
    - `passes`: how many passes of the model an image shall take in the mean; `fit_limit` finds the limit for it, and
      `tune` calls it with the validation images.
    - `weigh`: whether views count by exp(s), as in λ-equitune, or alike.
    - In training every view is finished and weighed by exp(s), so that each can teach s.

    In an exported graph, and under `torch.func.vmap`, all views are finished and those that were not chosen count
    nothing. Other options as for `OrbitWrapper`; a chunk bounds how many views are in one pass, though a staged model's
    early states are all kept.
    """

    name = "anytime"
    limit: Tensor

    def __init__(
        self,
        model: nn.Module,
        group: FiniteGroup | str,
        *,
        score: nn.Module | None = None,
        proxy: str | Proxy = "margin",
        limit: float = -inf,
        passes: float | None = None,
        weigh: bool = False,
        tie_tolerance: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, group, **options)
        if passes is not None and not passes >= 1:
            raise InputError(f"passes={passes!r} must be at least 1: an answer takes one view")
        self.score = self.like_model(self._default_score()) if score is None else score
        self.proxy, self.passes, self.weigh, self.tie_tolerance = as_proxy(proxy), passes, weigh, tie_tolerance
        self.register_buffer("limit", torch.tensor(float(limit)))

    @classmethod
    def around(
        cls,
        network: Network,
        group: FiniteGroup,
        chunk: int | None = None,
        *,
        passes: Annotated[float, "mean passes per image, met on held-out images when tuned"] = 1.5,
        proxy: Annotated[
            Literal["margin", "max_probability"], "by what an answer is sure: ahead of the next class, or probable"
        ] = "margin",
        sure: Annotated[float, "until then, from where on it is sure, by that"] = 0.8,
        blocks: Annotated[int, "blocks or stages after which views are scored; 0: pixels are, by a small network"] = 0,
    ) -> nn.Module:
        """Return the classifier; raises InputError if it shall be stopped half-way and cannot be."""
        model = Headed(staged(network.bare, blocks), network.head) if blocks else network.whole
        limit = 1 - sure if proxy == "margin" else -log(sure)
        return cls(model, group, chunk=chunk, passes=passes, proxy=proxy, limit=limit)

    def answer(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """Return the answer for `x` (B, …) and the weights (|G|, B) behind it, 0 for views that were not finished."""
        extra = Extra(args, kwargs)
        self.check_input(x, extra)
        if self.training or not can_look(x):
            views = self._whole(x, extra)
            assert views.scores is not None
            weights = soft(views.scores) if self.training else self._chosen(views, x)
            return views.combine(weights), weights
        states, scores = self._early(x, extra)
        order, shares, limit = self._order(scores), self._shares(scores), self.limit
        racing = torch.ones_like(scores[0], dtype=torch.bool)
        spent, total, mean = torch.zeros_like(shares), None, None
        for step in range(self.group.order):
            weights = shares * ((order == step) & racing)
            chosen = Chosen(self.group, weights)
            if not len(chosen.rows):
                break
            found = self._finish(chosen, x, states, extra)
            part = chosen.combine(mapped(found, widened), self.output, x, self.check_answer)
            total = part if total is None else _together(torch.add, total, part)
            spent = spent + weights
            mean = _together(partial(_divided, spent.sum(0)), total, found)
            if step + 1 < self.group.order:
                racing = racing & (self._unsure(mean, x, order == 0) > limit)
        return mean, spent / spent.sum(0)

    def fit_limit(self, images: Tensor | Iterable[Tensor], passes: float | None = None) -> float:
        """Choose the limit by held-out images (n, …), or batches of such, and return the mean passes they then take.

        That is the largest mean up to `passes`, by default the wrapper's own. No labels are needed; every view is
        finished once. Raises InputError if one view of each takes more.
        """
        wanted = self.passes if passes is None else passes
        if wanted is None:
            raise InputError("how many passes? say fit_limit(images, passes=1.5), or give them to the wrapper")
        with evaluating(self):
            found = [self._course(x) for x in ([images] if isinstance(images, Tensor) else images)]
        if not found:
            raise InputError("the limit is chosen by held-out images, at least 1 and better hundreds, not 0")
        course = _Course(*(torch.cat([getattr(one, part.name) for one in found], -1) for part in fields(_Course)))
        limits = course.limits()
        place = bisect_left(limits, True, key=lambda limit: course.mean(limit) <= wanted)
        if place == len(limits):
            tied = float(course.first.double().mean())
            why = f", as {tied:.2f} views tie for the best score in the mean, and are finished together"
            raise InputError(
                f"passes={wanted:g} is too few: one view of each image takes {course.mean(inf):.2f}{why * (tied > 1)}"
            )
        self.limit = widened(self.limit).fill_(limits[place])
        return course.mean(limits[place])

    def orbit_scores(self, x: Tensor) -> Tensor:
        """Return s of every element and image, (|G|, B)."""
        self.check_input(x)
        return self._early(x, NOTHING)[1]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of s."""
        return list(self.score.parameters())

    def _default_score(self) -> nn.Module:
        model = self.model
        return FeatureScore(model.width) if isinstance(model, Staged) else ImageScore(channels_of(model))

    def _score(self, seen: Tensor) -> Tensor:
        return self.score(seen) if isinstance(self.model, Staged) else wide_scores(self.score, seen)

    def _order(self, scores: Tensor) -> Tensor:
        """Return the place (|G|, B) of each view in the order."""
        tolerance = default_tolerance(scores.dtype) if self.tie_tolerance is None else self.tie_tolerance
        return ranks(widened(scores.detach()), tolerance)

    def _shares(self, scores: Tensor) -> Tensor:
        """Return how much views count (|G|, B), of sum 1."""
        return soft(scores) if self.weigh else torch.full_like(widened(scores), 1 / self.group.order)

    def _early(self, x: Tensor, extra: Extra) -> tuple[Tensor | None, Tensor]:
        """Return a staged model's states of all views (|G|·B, …), None of any other, and the scores (|G|, B)."""
        states, scores = [], []
        for elements in chunks(self.group.order, self.chunk):
            seen = orbit(self.group, x, self.input, elements).flatten(0, 1)
            if isinstance(self.model, Staged):
                seen = self.call(self.model.early, seen, extra.repeated(len(elements)))
                states.append(seen)
            scores.append(self.check_scores(self.call(self._score, seen), elements, x.shape[0], "the score network"))
        return torch.cat(states) if states else None, torch.cat(scores)

    def _finish(self, chosen: Chosen, x: Tensor, states: Tensor | None, extra: Extra) -> Any:
        """Return the model's answers for the chosen views, (R, …)."""
        function: Callable[..., Any]
        if states is None:
            function, rows, extra = self.model, chosen.views(x, self.input), extra.of(chosen.images)
        else:
            assert isinstance(self.model, Staged)
            function, rows, extra = self.model.late, states[chosen.rows], NOTHING
        size = x.shape[0] * (self.chunk or self.group.order)
        numbers = torch.arange(len(rows), device=x.device).split(size)
        return joined([self.call(function, rows[own], extra.of(own)) for own in numbers])

    def _whole(self, x: Tensor, extra: Extra) -> Views:
        """Return every view finished, with its score."""

        def view(images: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
            if not isinstance(self.model, Staged):
                return self.model(images, *args, **kwargs), self._score(images)
            state = self.model.early(images, *args, **kwargs)
            return self.model.late(state), self._score(state)

        return self.views(x, view, "the score network", extra)

    def _steps(self, views: Views, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield, view by view, which are new (|G|, B), the weights of those so far, and the loss of their mean."""
        assert views.scores is not None
        order, shares = self._order(views.scores), self._shares(views.scores)
        for step in range(self.group.order):
            weights = shares * (order <= step)
            weights = weights / weights.sum(0)
            yield order == step, weights, self._unsure(views.combine(weights), x, order == 0)

    def _chosen(self, views: Views, x: Tensor) -> Tensor:
        """Return the weights (|G|, B) of the answer where all views are finished."""
        chosen, racing = x.new_zeros(()), torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
        for _, weights, loss in self._steps(views, x):
            chosen = torch.where(racing, weights, chosen)
            racing = racing & (loss > self.limit)
        return chosen

    def _course(self, x: Tensor) -> _Course:
        self.check_input(x)
        share = early_share(self.model, x[:1]) if isinstance(self.model, Staged) else 0.0
        losses, passes, counts, finished = [], [], [], torch.zeros(x.shape[0], device=x.device)
        for new, _, loss in self._steps(self._whole(x, NOTHING), x):
            finished = finished + new.sum(0)
            losses.append(loss)
            counts.append(finished)
            passes.append(share * self.group.order + (1 - share) * finished)
        return _Course(torch.stack(losses), torch.stack(passes), counts[0])

    def _unsure(self, mean: Any, x: Tensor, first: Tensor) -> Tensor:
        """Return the proxy loss of answers for `x` (B, …), the same for x and g·x.

        What does more than change places, such as arrows, is read as it is in the views that come `first` (|G|, B).
        """
        acted = leaves(self.output, mean, x)
        if all(action.permutes for action, _ in acted):
            return self._loss(mean, x)
        moved = [[action(self.group, g, tensor) for action, tensor in acted] for g in range(self.group.order)]
        losses = torch.stack([self._loss(rebuild(skeleton(mean), iter(one)), x) for one in moved])
        return (losses * first).sum(0) / first.sum(0)

    def _loss(self, mean: Any, x: Tensor) -> Tensor:
        return self.check_scores(self.proxy(mean).detach(), [self.group.identity], x.shape[0], "the proxy loss")[0]


@dataclass(frozen=True)
class _Course:
    """What images lose, and have cost, after each step of their orbits; both (steps, n)."""

    losses: Tensor
    passes: Tensor
    first: Tensor  #: how many views the first step finishes: one, and all that tie with it, (n,)

    def limits(self) -> list[float]:
        """Return one limit below all losses, and one between each two: none is as large as a loss of the images."""
        found = self.losses.unique().double()
        between = (found[1:] + found[:-1]) / 2
        return [-inf, *between.tolist(), inf]

    def mean(self, limit: float) -> float:
        """Return the mean passes of an image that stops at the limit."""
        stops = self.losses.double() <= limit
        stops[-1] = True
        return float(self.passes.gather(0, stops.int().argmax(0)[None]).double().mean())


def _together(function: Any, one: Any, other: Any) -> Any:
    """Apply a function to each two tensors of answers in the same containers."""
    pairs = zip(tensors(one), tensors(other), strict=True)
    return rebuild(skeleton(one), iter([function(a, b) for (_, a), (_, b) in pairs]))


def _divided(by: Tensor, total: Tensor, like: Tensor) -> Tensor:
    return (total / by.reshape(-1, *[1] * (total.ndim - 1))).to(like.dtype)
