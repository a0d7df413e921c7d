"""What a learner answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from continual.data.inputs import Label
from continual.errors import InputError
from continual.uncertainty.tempering import agreeing


@dataclass(frozen=True)
class Prediction:
    """Answers for a batch of B images; C classes are known."""

    labels: list[Label]  #: the answer for each image
    scores: Tensor  #: (B, C), non-negative, rows sum to 1; they rank, and are no probabilities
    classes: tuple[Label, ...]  #: what the columns of `scores` stand for
    stack: Tensor | None = None  #: (B,) int64, the experience whose adapters answered
    first_stack: Tensor | None = None  #: (B,) int64, stage one's choice, before refinement
    refinements: Tensor | None = None  #: (B,) int64, how often the choice was changed
    #: (B, C), calibrated, the answer's the largest, see `continual.uncertainty`; None where nothing that is remembered
    #: says how often such an answer is right: `finetune`, `l2p`, `joint`, fewer than two classes, single images
    probabilities: Tensor | None = None
    p_value: Tensor | None = None  #: (B,), the share of known images expected to be at least as unlike all classes
    #: (B,), of a model of a single class: squared distance from its images, 1 the median of good ones; see `Certainty`
    anomaly: Tensor | None = None
    anomaly_threshold: float | None = None  #: where a rate of false alarms was asked for: unknown is what lies above
    similarity: Tensor | None = None  #: (B, C), cosine to the prototypes (MOS: first adapter; strata: standardised)
    passes: Tensor | None = None  #: (B,), where `passes` was asked for: how often the backbone looked at the image
    unknown: Tensor | None = None  #: (B,) bool, where a rate of false alarms was asked for: the image is of no class
    paths: list[Path] | None = None  #: of each image, where files or a folder were given

    @property
    def familiarity(self) -> Tensor | None:
        """Deprecated: `p_value`."""
        warnings.warn("familiarity is now called p_value", DeprecationWarning, stacklevel=2)
        return self.p_value


@dataclass(frozen=True)
class Scores:
    """What a method says about a batch: `values` (B, C) and, if it retrieves stacks, which."""

    values: Tensor
    stack: Tensor | None = None
    first_stack: Tensor | None = None
    refinements: Tensor | None = None
    probabilities: Tensor | None = None
    p_value: Tensor | None = None
    similarity: Tensor | None = None
    anomaly: Tensor | None = None
    passes: Tensor | None = None

    def rows(self, chosen: Tensor) -> Scores:
        """Return the same of some images, by their places (N,) or a mask (B,)."""
        columns: list[Any] = [value if value is None else value[chosen] for value in vars(self).values()]
        return Scores(*columns)

    def cpu(self) -> Scores:
        """Return the same on the CPU."""
        columns: list[Any] = [value if value is None else value.cpu() for value in vars(self).values()]
        return Scores(*columns)

    @staticmethod
    def averaged(views: Sequence[Scores]) -> Scores:
        """Return the mean of the values and probabilities of several views of each image, and nothing else.

        Each view's probabilities are calibrated. Their mean is right more often than one view is, and so is rather too
        cautious.
        """
        values = torch.stack([view.values for view in views]).mean(0)
        known = [view.probabilities for view in views if view.probabilities is not None]
        return Scores(values, probabilities=agreeing(torch.stack(known).mean(0), values) if known else None)

    def of_views(self, views: int) -> list[Scores]:
        """Return values and probabilities of each of `views` views, of which an image's are rows after each other."""
        values = self.values.unflatten(0, (-1, views)).unbind(1)
        if self.probabilities is None:
            return [Scores(own) for own in values]
        known = self.probabilities.unflatten(0, (-1, views)).unbind(1)
        return [Scores(own, probabilities=its) for own, its in zip(values, known, strict=True)]

    @staticmethod
    def joined(parts: Sequence[Scores]) -> Scores:
        """Join batches, one after the other."""
        columns = zip(*[vars(part).values() for part in parts], strict=True)
        joined: list[Any] = [None if column[0] is None else torch.cat(column) for column in columns]
        return Scores(*joined)

    def prediction(self, classes: tuple[Label, ...], false_alarm_rate: float | None) -> Prediction:
        """Return the answers; raises InputError for a false_alarm_rate where there is no p-value to go by."""
        unknown = None
        if false_alarm_rate is not None:
            if self.p_value is None:
                raise InputError(
                    "this model cannot say what is unknown: that takes a method that can (strata, ridge, mos, slca, "
                    "tuna), two classes (one for strata and ridge, if they learned no other), two images of one, "
                    "images learned with this version, and no symmetry='score_averaging'; or leave false_alarm_rate out"
                )
            unknown = self.p_value <= false_alarm_rate
        labels = [classes[i] for i in self.values.argmax(-1).tolist()]
        rest = {name: value for name, value in vars(self).items() if name != "values"}
        return Prediction(labels, self.values, classes, **rest, unknown=unknown)
