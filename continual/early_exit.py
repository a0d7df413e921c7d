"""Retrieval that stops early: where the answer is sure without another pass, there is none.

A stack shifts the features of all images in much the same way: on the average of its own training images, by
`phi(x; A_k) - phi(x; A_1)`. Added to what a pass has computed, the shift foretells what self-refined retrieval would
find, at no cost. How sure that is, is asked of many worlds: in each every shift is drawn anew, with the spread it had
over the training images, and the share of the worlds with the same answer is the foretelling's certainty. An image is
foretold after stage one, and again after the pass under the stack that stage one chose; if neither is certain enough,
it goes the whole way.

How certain is enough is decided by what is remembered of the classes, without images: features are drawn from the
class statistics, and each shift from its own; both ways answer for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from continual.class_statistics import ClassStatistics
from continual.retrieval import Answering, Retrieval, margins, refine

DRAWS, MOST_DRAWS = 64, 8192  #: of a class, and in all
WORLDS = 64
AT_ONCE = 2**22  #: numbers in memory
#: Draws are spread this much wider than the training images: new images are less like them than they are.
WIDER = 2**0.5

#: (rows (M,), stacks (M,)) -> features (M, D), each image's under its stack
FeaturesOf = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Foretold:
    """Answers for B images without another pass."""

    values: Tensor  #: (B, C), scores
    found: Retrieval
    certainty: Tensor  #: (B,), the share of worlds that agree; where that is the same, the wider lead is more certain


@dataclass(frozen=True)
class Foretelling:
    """Foretells what retrieval would find."""

    answering: Answering
    shifts: Tensor  #: (T, D), each stack's in the mean
    drawn: Tensor  #: (T, WORLDS, D), each stack's in every world

    @classmethod
    def of(
        cls, answering: Answering, shifts: Sequence[ClassStatistics], generator: torch.Generator, floor: float
    ) -> Foretelling:
        """Draw the worlds; the first stack shifts nothing."""
        means = torch.stack([shift.mean for shift in shifts])
        drawn = [torch.zeros_like(means[:1]).expand(WORLDS, -1)]
        drawn += [shift.sampler(floor).draw(WORLDS, generator) for shift in shifts[1:]]
        return cls(answering, means, torch.stack(drawn))

    def foretell(self, features: Tensor, under: Tensor, choice: Tensor, cosines: Tensor) -> Foretold:
        """Foretell answers from features (B, D), each under its stack `under` (B,).

        `choice` (B,) and `cosines` (B, C) are stage one's. What the head says under the stack that was run is known.
        """
        answering, weight = self.answering, self.answering.head[0]
        said, means, drawn = linear(features, *answering.head), linear(self.shifts, weight), linear(self.drawn, weight)

        def expected(rows: Tensor, stacks: Tensor) -> Tensor:
            return said[rows] + (means[stacks] - means[under[rows]])

        found = refine(choice, expected, answering.class_experience, answering.rounds)
        values = answering.combine(found.logits, cosines)
        answers, worlds = values.argmax(-1), self.drawn.shape[1]

        def agreeing(images: Tensor) -> Tensor:
            """Return the share of worlds in which some images (M,) are answered the same: (M,)."""
            image = images.repeat_interleave(worlds)

            def in_its_world(rows: Tensor, stacks: Tensor) -> Tensor:
                own = under[image[rows]]
                known = (stacks == own).unsqueeze(-1)
                return said[image[rows]] + torch.where(known, 0, drawn[stacks, rows % worlds] - means[own])

            other = refine(choice[image], in_its_world, answering.class_experience, answering.rounds)
            same = answering.combine(other.logits, cosines[image]).argmax(-1) == answers[image]
            return same.view(-1, worlds).float().mean(-1)

        images = torch.arange(len(features), device=features.device)
        share = torch.cat([agreeing(part) for part in images.split(max(1, AT_ONCE // drawn[0].numel()))])
        return Foretold(values, found, share + margins(values) / (4 * worlds))

    def answer(self, first: Tensor, features_of: FeaturesOf, enough: float) -> tuple[Tensor, Retrieval, Tensor]:
        """Return scores (B, C), what was retrieved, and the features (B, D) of the last stack, run or foretold.

        `first` (B, D) are the features under the first stack. Passes are run where less than `enough` is certain.
        """
        cosines, choice = self.answering.stage_one(first)
        guess = self.foretell(first, torch.zeros_like(choice), choice, cosines)
        values, found, last = guess.values, guess.found, first + self.shifts[guess.found.stack]
        rows = (guess.certainty < enough).nonzero().squeeze(-1)
        if len(rows) == 0:
            return values, found, last
        chosen = choice[rows]
        second = features_of(rows, chosen)
        guess = self.foretell(second, chosen, chosen, cosines[rows])
        values, found = values.index_copy(0, rows, guess.values), found.with_rows(rows, guess.found)
        last = last.index_copy(0, rows, second + (self.shifts[guess.found.stack] - self.shifts[chosen]))
        going_on = ((guess.found.refinements > 0) & (guess.certainty < enough)).nonzero().squeeze(-1)
        if len(going_on) == 0:
            return values, found, last
        rows, chosen, second = rows[going_on], chosen[going_on], second[going_on]
        newest = second.clone()

        def unless_known(places: Tensor, stacks: Tensor) -> Tensor:
            features = second[places]
            others = (stacks != chosen[places]).nonzero().squeeze(-1)
            if len(others):
                features = features.index_copy(0, others, features_of(rows[places[others]], stacks[others]))
            newest[places] = features
            return features

        exact, path = self.answering.retrieve(first[rows], unless_known)
        return values.index_copy(0, rows, exact), found.with_rows(rows, path), last.index_copy(0, rows, newest)

    def enough(
        self,
        statistics: Sequence[ClassStatistics],
        shifts: Sequence[ClassStatistics],
        tolerance: float,
        generator: torch.Generator,
        floor: float = 1e-4,
    ) -> float:
        """Return the least certainty at which at most a share `tolerance` of all draws is answered otherwise.

        `statistics` are the classes' under their own stacks, `shifts` each stack's. `generator` decides every draw.
        """
        first, features_of = imagined(self.answering.class_experience, statistics, shifts, generator, floor)
        asked: list[Tensor] = []

        def noted(rows: Tensor, stacks: Tensor) -> Tensor:
            asked.append(features_of(rows, stacks))
            return asked[-1]

        truth = self.answering.retrieve(first, noted)[0].argmax(-1)
        cosines, choice = self.answering.stage_one(first)
        one = self.foretell(first, torch.zeros_like(choice), choice, cosines)
        two = self.foretell(asked[0], choice, choice, cosines)
        levels = torch.cat([one.certainty, two.certainty]).unique()

        def mistakes(certainty: Tensor, wrong: Tensor) -> Tensor:
            """Count the wrong ones that are at least as certain as each level."""
            known = certainty[wrong].sort().values
            return len(known) - torch.searchsorted(known, levels)

        wrong = two.values.argmax(-1) != truth
        made = mistakes(one.certainty, one.values.argmax(-1) != truth) + mistakes(two.certainty, wrong)
        made -= mistakes(torch.minimum(one.certainty, two.certainty), wrong)  # certain at once: not asked again
        allowed = (made > tolerance * len(first)).nonzero()
        place = int(allowed[-1]) + 1 if len(allowed) else 0
        return float(levels[place]) if place < len(levels) else float("inf")


def imagined(
    class_experience: Tensor,
    statistics: Sequence[ClassStatistics],
    shifts: Sequence[ClassStatistics],
    generator: torch.Generator,
    floor: float = 1e-4,
) -> tuple[Tensor, FeaturesOf]:
    """Return features (n, D) under the first stack, as many of each class in turn, and those under other stacks.

    `class_experience` is (C,); the others are as in `Foretelling.enough`.
    """
    samplers = [s.sampler(floor) for s in shifts]

    def drawn(stacks: Tensor) -> Tensor:
        """Draw a shift (M, D) for each of M stacks, only where it is asked for; the first has none."""
        found = torch.zeros(len(stacks), len(statistics[0].mean), device=stacks.device)
        for stack in stacks[stacks > 0].unique().tolist():
            rows = stacks == stack
            found[rows] = samplers[stack].draw(int(rows.sum()), generator)
        return found

    count = max(1, min(DRAWS, MOST_DRAWS // len(statistics)))
    own = class_experience.repeat_interleave(count)
    mine = torch.cat([s.mean + WIDER * (s.sampler(floor).draw(count, generator) - s.mean) for s in statistics])
    first = mine - drawn(own)

    def features_of(rows: Tensor, stacks: Tensor) -> Tensor:
        at_home = (stacks == own[rows]).unsqueeze(-1)
        return torch.where(at_home, mine[rows], first[rows] + drawn(stacks))

    return first, features_of
