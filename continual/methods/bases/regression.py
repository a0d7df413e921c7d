"""Methods that answer by ridge regression from running sums: their state, and those on features that never change."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, ClassVar, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor, Progress
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.porting import Space
from continual.learning.settings import Settings
from continual.learning.state import JointClasses, Simulation, State, learned
from continual.learning.training import Start, Training
from continual.learning.unlabelled import PseudoLabels, UnlabelledUse, not_known, self_taught
from continual.seeding import generator
from continual.statistics.fields import placed
from continual.statistics.head import cosine_scores
from continual.statistics.ignored import check_width, penalised
from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.statistics.weighted import weighted_sums
from continual.uncertainty.left_out import Rows
from continual.uncertainty.leverage import Certainty, certainty, drawing


class RegressionSettings(Settings):
    """What every regression from running sums has."""

    at_inference = Settings.at_inference | {"balance"}
    before: ClassVar[Mapping[str, Any]] = {**Settings.before, "balance": 0.0}

    balance: float = Field(
        1.0, ge=0, le=1, description="0: classes weigh as often as they were learned, 1: all alike; and what is between"
    )
    exact_forget: int = Field(
        0, ge=0, description="directions of each class's scatter that are kept: forgetting a class of up to one image "
        "more is then exact; its scatter is estimated otherwise"
    )  # fmt: skip


@dataclass(frozen=True)
class RegressionState(State):
    """Running sums of the features, the head solved from them, and how sure it may be.

    A class that is forgotten leaves the others' scores as they are; see `GramStatistics.without` for its sums.
    """

    sums: GramStatistics | None = None
    head: LinearHead | None = None
    certainty: Certainty | None = None  #: None for methods, and in files, that do not have it
    balance: float | None = None  #: what the head was solved with; None in files of before, for 0
    penalty: float | None = None  #: too; None in files of before
    #: what it is of the images, where a port has fixed it, as cross-validation is misled by mapped sums; None else
    penalty_share: float | None = None

    @cached_property
    def prototypes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (D',) and deviation (D',) of all features, and the classes' means of standardised ones (C, D')."""
        sums = learned(self.sums)
        mean, deviation = sums.moments()
        centres = (sums.targets / sums.counts - mean[:, None]) / deviation[:, None]
        return mean.float(), deviation.float(), centres.mT.float().contiguous()

    def check_shapes(self) -> None:
        """Raise ValueError for concepts of another width than the sums'."""
        check_width(self.ignored, None if self.sums is None else len(self.sums.total))

    @cached_property
    def solutions(self) -> dict[float, Self]:
        """The state with heads of other `balance`; filled when one is first asked for."""
        return {}

    def without(self, index: int) -> Self:
        """Return the state without the class of that index: the others' scores stay, what is usual is so of fewer."""
        others = super().without(index)
        if self.certainty is None or self.sums is None:
            return others
        share = 1 - self.sums.counts[index] / self.sums.counts.sum()
        return replace(others, certainty=self.certainty.counting(share))


R = TypeVar("R", bound=RegressionState)


class RegressionUpdate(Training[RegressionState]):
    """Adds an experience's images to the sums and solves anew.

    `read(extractor, images)` gives the features (B, D') of every view of prepared images that is learned, `solved` what
    follows from the sums. The views of an image weigh as one image, and are left out together. `readings` (R, views)
    are the shares of the views in what will be asked about; without, it is their mean. `reading` is the one that is
    asked about now.
    """

    def __init__(
        self,
        start: Start[RegressionState],
        data: ExperienceData,
        read: Callable[[Extractor, Tensor], Sequence[Tensor]],
        solved: Callable[..., RegressionState],
        readings: Tensor | None = None,
        reading: int = 0,
    ) -> None:
        super().__init__(start, data)
        self.read, self.solved, self.readings, self.reading = read, solved, readings, reading

    def finish(self, progress: Progress | None = None) -> RegressionState:
        before = self.before
        found, labels = self.extract(lambda images, _: self.read(self.extractor, images), progress)
        views, copies = len(found), self.copies * len(found)
        features, labels = torch.stack(found, 1).flatten(0, 1), labels.repeat_interleave(views)
        # So many directions hold the views of `exact_forget` images and one.
        directions = self.settings.exact_forget and views * (self.settings.exact_forget + 1) - 1
        own = GramStatistics.of(features, labels, len(self.classes), directions)
        own = own if views == 1 else own.scaled(1 / views)
        readings = None if self.readings is None else self.readings.repeat(1, self.copies) / self.copies
        # Images that were answered wrong say nothing of what is usual.
        newest = None if self.correcting else Rows(features, labels, copies, 1 / views, readings)
        state = RegressionState(**self.progress_counts(), sums=own.plus(before.sums), certainty=before.certainty)
        state = replace(state, penalty_share=before.penalty_share)
        if self.data.unlabelled is None:
            return self.solved(state, newest)
        return self._self_taught(state, newest, directions, progress)

    def _self_taught(
        self, state: RegressionState, newest: Rows | None, directions: int, progress: Progress | None
    ) -> RegressionState:
        """Solve with the unlabelled images' own answers, weighed by their probabilities; `newest` have labels."""
        found = self.unlabelled(lambda images: self.read(self.extractor, images), progress)
        views, rows = len(found), torch.stack([*found], 1)
        shares = rows.new_full((views,), 1 / views) if self.readings is None else self.readings[self.reading].to(rows)
        asked, labelled = torch.einsum("v,nvd->nd", shares, rows), learned(state.sums)

        def solve(pseudo: PseudoLabels | None) -> RegressionState:
            if pseudo is None:
                return self.solved(state, newest)
            labels, weights = (own.repeat_interleave(views) for own in (pseudo.labels, pseudo.weights / views))
            more = weighted_sums(rows.flatten(0, 1), labels, weights, len(self.classes), directions)
            return self.solved(replace(state, sums=more.plus(labelled)), newest)

        def answer(state: RegressionState) -> PseudoLabels:
            judged = learned(state.certainty).judge(learned(state.head)(asked), asked, self.reading)
            if judged[0] is None or judged[1] is None:
                raise not_known("a regression")
            return PseudoLabels.of(judged[0], judged[1])

        solved, pseudo = self_taught(solve, answer)
        self.unlabelled_use = UnlabelledUse.of(pseudo, self.classes)
        return solved


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
        known = [state.certainty for state in states if state.certainty is not None]
        return self.solved(
            replace(
                states[0],
                **joint.common(states),
                sums=reduce(GramStatistics.plus, sums),
                certainty=reduce(Certainty.plus, known) if len(known) == len(states) else None,
                penalty_share=next((state.penalty_share for state in states if state.penalty_share is not None), None),
            )
        )

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> R:
        """Map the sums, and solve. What is usual stays, in units of what the new sums say of a typical image."""
        (space,), state = spaces, target.state
        return target.solved(replace(state, sums=space.map.sums(learned(state.sums))))

    def _forgotten(self, index: int) -> R:
        """Return the state without a class; where forgetting is exact, all scores are as if it had never been there."""
        state = super()._forgotten(index)
        return self.solved(state) if self.settings.exact_forget else state


class RegressionLearner(SolvingLearner[RegressionState]):
    """Ridge regression on standardised features that a method defines; D' numbers per image.

    Memory is D' (D' + 3) / 2 numbers, and 2 D' + 2 per class, in double precision, and for probabilities and unknown
    images 256 (D' + 1) in single (D' if that is fewer than 256) and 1,190, with two readings 2,375. With
    `exact_forget` = r, r D' more per class, in double; for v views v (r + 1) - 1 instead of r.
    """

    state_type = RegressionState
    settings_type = RegressionSettings
    fixed_features = True
    learns_unlabelled = True

    @abstractmethod
    def design_features(self, extractor: Extractor, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the features (B, D') of prepared images that are asked about, from `cache` where it has them."""

    def concept_features(self, images: Tensor) -> Sequence[Tensor]:
        return [self.design_features(self.extractor, images)]

    def learned_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        """Return the features (B, D') of prepared images that are regressed on: of one view, or several of each."""
        return [self.design_features(extractor, images)]

    @property
    def reading(self) -> int:
        """Which of the readings that were learned for is the one that is asked about."""
        return 0

    @abstractmethod
    def penalty(self, sums: GramStatistics) -> float:
        """Return the penalty on the squares of the weights."""

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        return [torch.stack(list(self.learned_features(extractor, images)), 1)]

    def begin(self, data: ExperienceData) -> RegressionUpdate:
        return RegressionUpdate(self.start, data, self.learned_features, self.solved, reading=self.reading)

    def solved(self, state: RegressionState, newest: Rows | None = None) -> RegressionState:
        """Return the state with a head, and how sure it may be, under the penalty of its sums."""
        own, sums = self.settings, learned(state.sums)
        weighted = sums.balanced(own.balance)
        share = state.penalty_share
        penalty = self.penalty(weighted) if share is None else share * float(sums.counts.sum())
        system = Standardised.of(weighted, penalty, penalised(state.ignored, float(weighted.counts.sum())))
        head, draw = system.solve(weighted), generator(own.seed, "sketch")
        certain = certainty(sums, system, head, newest, state.certainty, draw, own.balance)
        return replace(state, head=head, certainty=certain, balance=own.balance, penalty=penalty)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the regression's values, which only ranks, and what they are worth.

        The similarity is that of standardised features to the classes' means.
        """
        features, state = self.design_features(self.extractor, images, cache), self.current
        values, certain = learned(state.head)(features), state.certainty
        probabilities, p_value = (None, None) if certain is None else certain.judge(values, features, self.reading)
        mean, deviation, centres = self.state.prototypes
        similarity = cosine_scores((features - mean) / deviation, centres)
        return Scores(values.softmax(-1), probabilities=probabilities, p_value=p_value, similarity=similarity)

    def simulation(self, after: Self) -> Simulation | None:
        """Draw values from the sums, as of images that were left out: see `drawing`."""
        return self._drawn(after, after.current.head, learned(self.state.sums)) if self.state.sums else None

    def port_simulation(self, after: Self, spaces: Sequence[Space]) -> Simulation | None:
        """Draw values from the sums of before, those of the new head through the map, with what that leaves open."""
        found, head = spaces[0].map, learned(after.current.head)
        through = LinearHead(*found.through(head.weight, head.bias))
        return self._drawn(after, through, learned(after.state.sums), found.residuals @ head.weight.cpu())

    def _drawn(
        self, after: Self, head: LinearHead | None, sums: GramStatistics, noise: Tensor | None = None
    ) -> Simulation | None:
        """Return answers for features of before, those of `after` by a `head` for them; `sums` are of its own features.

        `noise` (n, C) are values of which its own have a random combination more.
        """
        mine, theirs = self.current, after.current
        if self.symmetry is not None or not (mine.head and head and mine.certainty and theirs.certainty):
            return None
        own = learned(mine.sums)
        maps = [(mine.head, mine.certainty.mean_leverage(own)), (head, theirs.certainty.mean_leverage(sums))]
        values = drawing(own, maps)

        def answers(index: int, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
            was, now = values(index, count, draw)
            if noise is not None:
                now = now + torch.randn(count, len(noise), generator=draw, device=draw.device).to(noise) @ noise
            return was.argmax(-1), now.argmax(-1)

        return answers
