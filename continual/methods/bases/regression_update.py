"""What regressions from running sums have learned, and how an experience's images are added to the sums."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor

from continual.data.inputs import ExperienceData, Label
from continual.learning.extractor import Extractor, Progress
from continual.learning.settings import Settings
from continual.learning.state import State, learned
from continual.learning.training import Start, Training
from continual.learning.unlabelled import PseudoLabels, UnlabelledUse, not_known, self_taught
from continual.statistics.fields import expect_shapes, per_class, transient
from continual.statistics.ignored import check_width
from continual.statistics.ridge import GramStatistics, LinearHead
from continual.statistics.weighted import weighted_sums
from continual.uncertainty.left_out import Rows, ViewOrder
from continual.uncertainty.leverage import Certainty


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


class FixedFeatureSettings(RegressionSettings):
    """What every regression on features that never change has."""

    at_inference = RegressionSettings.at_inference | {"passes"}

    passes: float | None = Field(
        None, ge=1, description="with a group: how often the backbone looks at an image in the mean; None: at all views"
    )


class Added(NamedTuple):
    """Images that were added to the sums last, if they were few."""

    total: Tensor  #: (D',), the sum of their features
    leverage: Tensor  #: (), the sum of their leverages now that they are learned


@dataclass(frozen=True)
class RegressionState(State):
    """Running sums of the features, the head solved from them, and how sure it may be.

    A class that is forgotten leaves the others' scores as they are; see `GramStatistics.without` for its sums.
    """

    sums: GramStatistics | None = None
    head: LinearHead | None = None
    certainty: Certainty | None = None  #: None for methods, and in files, that do not have it
    balance: float | None = None  #: what the head was solved with; None in older files, for 0
    penalty: float | None = None  #: too; None in older files
    #: what it is of the images, where a port has fixed it, as cross-validation is misled by mapped sums; None else
    penalty_share: float | None = None
    #: (D', C), where class names are a prior: directions that the weights are drawn to, see `text_prior`
    prior: Tensor | None = per_class(axis=1, default=None)
    newest: Added | None = transient(None)  #: what tells of the images before them without another look at all sums

    @cached_property
    def prototypes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (D',) and deviation (D',) of all features, and the classes' means of standardised ones (C, D')."""
        sums = learned(self.sums)
        mean, deviation = sums.moments()
        centres = (sums.targets / sums.counts - mean[:, None]) / deviation[:, None]
        return mean.float(), deviation.float(), centres.mT.float().contiguous()

    def check_shapes(self) -> None:
        """Raise ValueError for concepts, or a prior, of another width than the sums'."""
        check_width(self.ignored, None if self.sums is None else len(self.sums.total))
        if self.sums is not None:
            expect_shapes(self, prior=tuple(self.sums.targets.shape))

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


def _samples(found: Sequence[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (n m, D) and class indices (n m,) of images of which m views are learned, each (n, D)."""
    return torch.stack([*found], 1).flatten(0, 1), labels.repeat_interleave(len(found))


class RegressionUpdate(Training[RegressionState]):
    """Adds an experience's images to the sums and solves again.

    `read(extractor, images)` gives the features (B, D') of every view of prepared images that is learned, `solved` what
    follows from the sums. The views of an image weigh as one image, and are left out together. `readings` (R, views)
    are the shares of the views in what will be asked about; without, it is their mean. `reading` is the one that is
    asked about now. `prior` gives each class a direction (D', C), of the state before and all names.
    """

    def __init__(
        self,
        start: Start[RegressionState],
        data: ExperienceData,
        read: Callable[[Extractor, Tensor], Sequence[Tensor]],
        solved: Callable[..., RegressionState],
        readings: Tensor | None = None,
        reading: int = 0,
        prior: Callable[[RegressionState, Sequence[Label]], Tensor | None] | None = None,
    ) -> None:
        super().__init__(start, data)
        self.prior = None if prior is None else prior(self.before, self.classes)
        self.read, self.solved, self.readings, self.reading = read, solved, readings, reading
        symmetry = start.extractor.symmetry
        #: what views are looked at by, where they are learned one by one
        self.views: Extractor | None = None
        if symmetry is not None and self.settings.orbit_statistics:
            self.views = replace(start.extractor, symmetry=replace(symmetry, fitted=self.fitted))

    def finish(self, progress: Progress | None = None) -> RegressionState:
        before, own = self.before, list[GramStatistics]()

        def read(images: Tensor, _: Sequence[Label]) -> Sequence[Tensor]:
            found = self.read(self.extractor, images)
            return [*found, self.views.noted(images)] if self.views else found

        def fold(found: list[Tensor], labels: Tensor) -> list[Tensor]:
            features = found[:-1] if self.views else found
            views, exact = len(features), self._directions(len(features))
            sums = GramStatistics.of(*_samples(features, labels), len(self.classes), exact)
            sums = sums if views == 1 else sums.scaled(1 / views, sums.triangle)
            own[:] = [sums.plus(own.pop(), sums.triangle) if own else sums]
            return found

        held = self.streamed(read, fold, progress)
        noted = held.columns.pop() if self.views else None
        views = len(held.columns)
        readings = None if self.readings is None else self.readings.repeat(1, self.copies) / self.copies
        newest = Rows(*_samples(*held[:2]), self.copies * views, 1 / views, readings, held.stands_for)
        if noted is not None:
            newest = self._looked_at(newest, noted, views)
        del held  # its features are copied
        sums = own.pop()
        sums = sums.plus(before.sums, sums.triangle)
        state = RegressionState(**self.progress_counts(), sums=sums, certainty=before.certainty)
        state = replace(state, penalty_share=before.penalty_share, prior=self.prior)
        # Images that were answered wrong say nothing of what is usual.
        usual = None if self.correcting else newest
        if self.data.unlabelled is None:
            return self.solved(state, usual)
        return self._self_taught(state, usual, self._directions(views), progress)

    def _looked_at(self, images: Rows, noted: Tensor, rows: int) -> Rows:
        """Return images, so many `rows` a view, with which views are looked at, by what was `noted` of them (n, K)."""
        assert self.views is not None
        symmetry = learned(self.views.symmetry)
        noted, views = noted.unflatten(0, (-1, self.copies)), symmetry.group.order
        if symmetry.weighs or symmetry.looked < views:
            shares = views * symmetry.shares(noted)
            images = images._replace(weights=shares.flatten().repeat_interleave(rows)[None])
        if symmetry.one_by_one:
            places = symmetry.places(noted).flatten().repeat_interleave(rows)
            images = images._replace(order=ViewOrder(places, views, symmetry.looked))
        return images

    def _directions(self, views: int) -> int:
        """Return how many directions hold the views of `exact_forget` images and one."""
        return self.settings.exact_forget and views * (self.settings.exact_forget + 1) - 1

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
