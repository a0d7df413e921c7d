"""Retrieval that stops early: where the answer is sure without another pass, there is none.

What the passes so far have computed predicts what others would (`feature_shift`), and so what self-refined
retrieval would find, at no cost. How sure that is, is asked of many samples: in each, what cannot be predicted is drawn
again, and the share of the samples with the same answer is the prediction's certainty. Predictions come after stage
one, and again after the pass under the stack that stage one chose; if neither is certain enough, it goes the whole way.

How certain is enough is decided by what is remembered of the classes, without images: features are drawn from the
class statistics, with a sample each; both ways answer for them.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import linear

from continual.methods.mos.feature_shift import FeatureShiftModel, FeaturesOf
from continual.methods.mos.retrieval import Answering, Retrieval, margins, refine

AT_ONCE = 2**20  #: numbers in memory; more are slower


@dataclass(frozen=True)
class ExitDecision:
    """Answers for B images without another pass."""

    values: Tensor  #: (B, C), scores
    found: Retrieval
    certainty: Tensor  #: (B,), the share of samples that agree; where that is the same, the wider lead is more certain


@dataclass(frozen=True)
class EarlyExit:
    """Predicts what retrieval would find."""

    answering: Answering
    shifts: FeatureShiftModel  #: of features

    @cached_property
    def logits(self) -> FeatureShiftModel:
        """How stacks shift what the head says."""
        return self.shifts.through(self.answering.head.weight)

    def predict(self, first: Tensor, features: Tensor, under: Tensor, choice: Tensor, cosines: Tensor) -> ExitDecision:
        """Predict answers from features (B, D) under the first stack, and under `under` (B,), which was run too.

        `choice` (B,) and `cosines` (B, C) are stage one's. What the head says under a stack that was run is known.
        """
        answering, logits = self.answering, self.logits
        said, sloped = answering.head(features), first @ logits.slope
        residual = linear(features - first, answering.head.weight) - logits.expected(sloped, under)

        def expected(rows: Tensor, stacks: Tensor) -> Tensor:
            return logits.moved(said[rows], residual[rows], sloped[rows], under[rows], stacks)

        found = refine(choice, expected, answering.class_experience, answering.rounds)
        values = answering.combine(found.logits, cosines)
        answers, samples = values.argmax(-1), logits.samples.shape[1]

        def agreeing(images: Tensor) -> Tensor:
            """Return the share of samples in which some images (M,) are answered the same: (M,)."""
            image = images.repeat_interleave(samples)

            def in_its_sample(rows: Tensor, stacks: Tensor) -> Tensor:
                own = image[rows]
                return logits.moved(said[own], residual[own], sloped[own], under[own], stacks, rows % samples)

            other = refine(choice[image], in_its_sample, answering.class_experience, answering.rounds)
            same = answering.combine(other.logits, cosines[image]).argmax(-1) == answers[image]
            return same.view(-1, samples).float().mean(-1)

        images = torch.arange(len(features), device=features.device)
        share = torch.cat([agreeing(part) for part in images.split(max(1, AT_ONCE // logits.samples[0].numel()))])
        return ExitDecision(values, found, share + margins(values) / (4 * samples))

    def moved(self, first: Tensor, features: Tensor, under: Tensor, stacks: Tensor) -> Tensor:
        """Predict features (B, D) under stacks (B,), from those under the first and under `under` (B,)."""
        sloped = first @ self.shifts.slope
        residual = features - first - self.shifts.expected(sloped, under)
        return self.shifts.moved(features, residual, sloped, under, stacks)

    def answer(self, first: Tensor, features_of: FeaturesOf, enough: float) -> tuple[Tensor, Retrieval, Tensor]:
        """Return scores (B, C), what was retrieved, and the features (B, D) of the last stack, run or predicted.

        `first` (B, D) are the features under the first stack. Passes are run where less than `enough` is certain.
        """
        cosines, choice = self.answering.stage_one(first)
        only_first = torch.zeros_like(choice)
        guess = self.predict(first, first, only_first, choice, cosines)
        values, found, last = guess.values, guess.found, self.moved(first, first, only_first, guess.found.stack)
        rows = (guess.certainty < enough).nonzero().squeeze(-1)
        if len(rows) == 0:
            return values, found, last
        chosen = choice[rows]
        second = features_of(rows, chosen)
        guess = self.predict(first[rows], second, chosen, chosen, cosines[rows])
        values, found = values.index_copy(0, rows, guess.values), found.with_rows(rows, guess.found)
        last = last.index_copy(0, rows, self.moved(first[rows], second, chosen, guess.found.stack))
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

    def enough(self, simulated: tuple[Tensor, FeaturesOf], tolerance: float) -> float:
        """Return the least certainty at which at most a share `tolerance` of simulated features is answered otherwise.

        `simulated` are features (n, D) under the first stack, and what gives those under others; their samples are not
        the ones that predict.
        """
        first, features_of = simulated
        asked: list[Tensor] = []

        def noted(rows: Tensor, stacks: Tensor) -> Tensor:
            asked.append(features_of(rows, stacks))
            return asked[-1]

        truth = self.answering.retrieve(first, noted)[0].argmax(-1)
        cosines, choice = self.answering.stage_one(first)
        one = self.predict(first, first, torch.zeros_like(choice), choice, cosines)
        two = self.predict(first, asked[0], choice, choice, cosines)
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
