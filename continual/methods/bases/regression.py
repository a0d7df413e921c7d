"""Methods that answer by ridge regression from running sums, and those on features that never change."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Self, TypeVar

import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.data.inputs import ExperienceData, Label
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.porting import Space
from continual.learning.state import JointClasses, Simulation, learned
from continual.methods.bases.mean_leverage import added, mean_leverage
from continual.methods.bases.regression_update import RegressionState, RegressionUpdate
from continual.methods.bases.text_prior import Place, TextPriorSettings, directions, prior_of
from continual.methods.bases.view_by_view import answered, check_views
from continual.seeding import generator
from continual.statistics.fields import placed
from continual.statistics.head import cosine_scores
from continual.statistics.ignored import penalised
from continual.statistics.prior import Prior
from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.uncertainty.certainty import certainty
from continual.uncertainty.drawn_values import drawing
from continual.uncertainty.left_out import Rows
from continual.uncertainty.leverage import Certainty

R = TypeVar("R", bound=RegressionState)


class SolvingLearner(IncrementalLearner[R]):
    """Answers by a head that is solved from sums; of another `balance` than the state's, solved when it is asked."""

    unportable = None
    unmergeable = None
    suppresses = True

    def ignoring(self, state: R) -> R:
        return self.solved(state)

    @abstractmethod
    def solved(self, state: R, newest: Rows | None = None) -> R:
        """Return the state with what follows from its sums under these settings; `newest` are images of the sums."""

    @property
    def current(self) -> R:
        """The state, its head solved as the settings say."""
        state, balance = self.state, self.settings.balance
        if state.sums is None or (state.balance or 0.0) == balance:
            return state
        if balance not in state.solutions:
            state.solutions[balance] = self.solved(state)
        return state.solutions[balance]

    def joined(self, states: Sequence[R], joint: JointClasses) -> R:
        """Add the sums up, and solve. What is usual is what all models found; see `Certainty.plus`."""
        parts = zip(states, joint.places, strict=True)
        sums = [placed(learned(state.sums), places, len(joint.classes)) for state, places in parts]
        states = [self.solved(s) if s.certainty is not None and s.certainty.older else s for s in states]
        known = [state.certainty for state in states if state.certainty is not None]
        return self.solved(
            replace(
                states[0],
                **joint.common(states),
                sums=reduce(GramStatistics.plus, sums),
                certainty=reduce(Certainty.plus, known) if len(known) == len(states) else None,
                prior=_joint_priors(states, joint),
                penalty_share=next((state.penalty_share for state in states if state.penalty_share is not None), None),
            )
        )

    def _check_portable(self, keep_answers: float) -> None:
        super()._check_portable(keep_answers)
        if self.state.prior is not None:
            raise InputError(
                f"a model of {self.method} with text_prior cannot be ported: its class names are directions in the "
                "features of its own CLIP; learn from images on the new backbone"
            )

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> R:
        """Map the sums, and solve. What is usual stays, in units of what the new sums say of a typical image."""
        (space,), state = spaces, target.state
        return target.solved(replace(state, sums=space.map.sums(learned(state.sums))))

    def _forgotten(self, index: int) -> R:
        """Return the state without a class; where forgetting is exact, all scores are as if it had never been there."""
        state = super()._forgotten(index)
        return self.solved(state) if self.settings.exact_forget else state


def _joint_priors(states: Sequence[R], joint: JointClasses) -> Tensor | None:
    """Return the directions (D', C) of the classes of all states; those of a class in several are the same."""
    known = [state.prior for state in states]
    if known[0] is None:
        return None
    found = known[0].new_zeros(len(known[0]), len(joint.classes))
    for prior, places in zip(reversed(known), reversed(joint.places), strict=True):
        found[:, places] = learned(prior)
    return found


class RegressionLearner(SolvingLearner[RegressionState]):
    """Ridge regression on standardised features that a method defines; D' numbers per image.

    Memory is D' (D' + 3) / 2 numbers, and 2 D' + 2 per class, in double precision, and for probabilities and unknown
    images 256 (D' + 1) in single (D' if that is fewer than 256) and 1,192, with two readings 2,377. With
    `exact_forget` = r, r D' more per class, in double; for v views v (r + 1) - 1 instead of r. With a group of m views
    2,209 (m - 1) more, of each reading.
    """

    state_type = RegressionState
    settings_type = TextPriorSettings
    settings: TextPriorSettings
    fixed_features = True
    learns_unlabelled = True
    one_class = True

    def check(self) -> None:
        super().check()
        check_views(self)

    @abstractmethod
    def design_features(self, extractor: Extractor, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the features (B, D') of prepared images that are asked about, from `cache` where it has them."""

    def concept_features(self, images: Tensor) -> Sequence[Tensor]:
        return [self.design_features(self.extractor, images)]

    def learned_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        """Return the features (B, D') of prepared images that are regressed on: of one view, or several of each."""
        return [self.design_features(extractor, images)]

    def view_features(self, extractor: Extractor, images: Tensor) -> Tensor:
        """Return the features (B, D') of images that are views of others, where these are answered view by view."""
        return self.design_features(extractor, images)

    @property
    def view_passes(self) -> tuple[int, int]:
        """How often the backbone looks at an image for `design_features`, and for `view_features`, of one view."""
        return 1, 1

    @property
    def view_reading(self) -> int:
        """Which of the readings `view_features` gives."""
        return self.reading

    @property
    def reading(self) -> int:
        """Which of the readings that were learned for is the one that is asked about."""
        return 0

    @abstractmethod
    def penalty(self, sums: GramStatistics) -> float:
        """Return the penalty on the squares of the weights."""

    def penalty_beside(self, prior: Prior, sums: GramStatistics) -> float:
        """Return the penalty on the squares of what the weights differ from a prior by."""
        return self.penalty(sums)

    def text_place(self, part: Backbone) -> Place:
        """Return where the class token of a part of the backbone is among what is read of it."""
        return Place(0, part.width)

    def text_directions(self, before: RegressionState, names: Sequence[Label]) -> Tensor | None:
        """Return a direction (D', C) for each class name, on the learner's device; see `text_prior.directions`."""
        found = directions(before, names, self.settings, self.backbone, self.text_place)
        return None if found is None else found.to(self.device)

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        return [torch.stack(list(self.learned_features(extractor, images)), 1)]

    def begin(self, data: ExperienceData) -> RegressionUpdate:
        read, prior = self.learned_features, self.text_directions
        return RegressionUpdate(self.start, data, read, self.solved, reading=self.reading, prior=prior)

    def solved(self, state: RegressionState, newest: Rows | None = None) -> RegressionState:
        """Return the state with a head, and how sure it may be, under the penalty of its sums."""
        own, sums = self.settings, learned(state.sums)
        weighted = sums.balanced(own.balance)
        share = state.penalty_share
        prior = prior_of(state, own)
        if share is not None:
            penalty = share * float(sums.counts.sum())
        else:
            penalty = self.penalty(weighted) if prior is None else self.penalty_beside(prior, weighted)
        system = Standardised.of(weighted, penalty, penalised(state.ignored, float(weighted.counts.sum())))
        if weighted is not sums:  # all that was needed of its products is in the system
            weighted = replace(weighted, triangle=weighted.triangle.new_empty(0))
        head = system.solve(weighted) if prior is None else prior.solve(system, weighted)
        draw = generator(own.seed, "sketch")
        certain = certainty(sums, system, head, newest, state.certainty, draw, own.balance, weighted)
        new = added(newest, certain)
        return replace(state, head=head, certainty=certain, balance=own.balance, penalty=penalty, newest=new)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the regression's values, which only ranks, and what they are worth.

        The similarity is that of standardised features to the classes' means.
        """
        return answered(self, images, cache)

    def scores_of(self, features: Tensor, views: int | None = None) -> Scores:
        """Score features (B, D') that are asked about; see `_scores`. Of `views`, if fewer than all are looked at."""
        state = self.current
        values, certain = learned(state.head)(features), state.certainty
        reading, single = self.reading if views is None else self.view_reading, values.shape[1] == 1
        probabilities, p_value = (None, None) if certain is None else certain.judge(values, features, reading, views)
        mean, deviation, centres = self.state.prototypes
        similarity = cosine_scores((features - mean) / deviation, centres)
        return Scores(
            values.softmax(-1),
            probabilities=probabilities,
            p_value=p_value,
            similarity=similarity,
            anomaly=certain.anomaly(features, reading) if certain is not None and single else None,
        )

    @property
    def tells_unusual(self) -> bool:
        certain = self.current.certainty
        averages = self.symmetry is not None and self.symmetry.averages_scores
        return not averages and certain is not None and certain.one_class and len(self.classes) == 1

    def anomaly_threshold(self, false_alarm_rate: float) -> float | None:
        return learned(self.current.certainty).anomaly_threshold(false_alarm_rate, self.reading)

    def simulation(self, after: Self) -> Simulation | None:
        """Draw values from the sums, as of images that were left out: see `drawing`.

        Of images learned as several samples, such as an image and its mirror image, values are drawn as of one of them
        alone. Their mean, which is asked about, varies less: this makes the share that seems to break too high.
        """
        return self._drawn(after, after.current.head, learned(self.state.sums)) if self.state.sums else None

    def port_simulation(self, after: Self, spaces: Sequence[Space]) -> Simulation | None:
        """Draw values from the old sums, those of the new head through the map, with what that leaves open."""
        found, head = spaces[0].map, learned(after.current.head)
        through = LinearHead(*found.through(head.weight, head.bias))
        return self._drawn(after, through, learned(after.state.sums), found.residuals @ head.weight.cpu())

    def _drawn(
        self, after: Self, head: LinearHead | None, sums: GramStatistics, noise: Tensor | None = None
    ) -> Simulation | None:
        """Return answers for old features, those of `after` by a `head` for them; `sums` are of its own features.

        `noise` (n, C) are values of which its own have a random combination more.
        """
        mine, theirs = self.current, after.current
        if self.symmetry is not None or not (mine.head and head and mine.certainty and theirs.certainty):
            return None
        own = learned(mine.sums)
        maps = [(mine.head, mean_leverage(mine, own)), (head, mean_leverage(theirs, sums))]
        values = drawing(own, maps)

        def answers(index: int, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
            was, now = values(index, count, draw)
            if noise is not None:
                now = now + torch.randn(count, len(noise), generator=draw, device=draw.device).to(noise) @ noise
            return was.argmax(-1), now.argmax(-1)

        return answers
