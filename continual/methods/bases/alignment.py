"""Classifier alignment (MOS section 3.2): retrain the head on features drawn from the class statistics.

`align` is the rule; the rest is what all methods with an aligned head share: settings, state, its end of a training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from continual.learning.porting import Space
from continual.learning.settings import TrainingSettings
from continual.learning.state import JointClasses, Simulation, State, learned
from continual.learning.training import GradientTraining
from continual.methods.bases.compatibility import Kind as KeepKind
from continual.methods.bases.compatibility import divergence, kept_answers
from continual.seeding import generator as seeded
from continual.statistics.class_statistics import ClassStatistics, Kind, fit
from continual.statistics.fields import per_class
from continual.statistics.head import Head
from continual.statistics.ignored import check_width, corrected
from continual.uncertainty.gaussians import Calibration, OODDetector, calibrate, detector_of
from continual.uncertainty.tempering import Decide, score_temperature, tempered

Rescale = Callable[[Tensor], Tensor]  #: what a loss does to the logits (B, C) first
#: of the head in training, features (B, D), their logits (B, C) and classes (B,): what is added to the loss
Kept = Callable[[Head, Tensor, Tensor, Tensor], Tensor]


class AlignmentSettings(TrainingSettings):
    """What every method has that aligns its head."""

    at_training = TrainingSettings.at_training | {"keep_answers", "keep_answers_by"}

    statistics: Kind = Field("full", description="what is remembered of a class")
    statistics_components: int = Field(8, ge=1, description="directions of low_rank, centres of centroids")
    covariance_floor: float = Field(1e-4, gt=0, description="added to every covariance's diagonal")
    align_first: bool | None = Field(None, description="also align after the first experience; None: with a group")
    alignment_epochs: int = Field(30, ge=0)
    alignment_lr: float = Field(0.005, gt=0)
    keep_answers: float = Field(
        0.0, ge=0, description="in alignment, weight of staying with the answers that the head before gave; 1 to 3, say"
    )
    keep_answers_by: KeepKind = Field("plain", description="distillation of them all, or focal or MUSCLE's mask")


@dataclass(frozen=True)
class AlignedState(State):
    """One head, and the class statistics it is aligned on."""

    head: Head | None = None
    statistics: tuple[ClassStatistics, ...] = per_class(default=())
    calibration: Calibration | None = None  #: what is usual of known images

    @cached_property
    def heeding(self) -> Head:
        """The head that answers: as it was aligned, or, with ignored concepts, the nearest that follows them less."""
        assert self.head is not None
        return corrected(self.head, self.statistics, self.ignored)

    def check_shapes(self) -> None:
        """Raise ValueError for concepts of another width than the head's."""
        check_width(self.ignored, None if self.head is None else self.head.weight.shape[1])

    @cached_property
    def known(self) -> OODDetector | None:
        """What tells known images from others."""
        return detector_of(self.statistics, self.calibration)

    @cached_property
    def temperatures(self) -> dict[Any, float]:
        """Those of the scores, by the settings that decide them; filled when one is first asked for."""
        return {}

    def judged(
        self, settings: AlignmentSettings, values: Tensor, features: Tensor, decide: Decide, key: Any = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the probabilities (B, C) of scores (B, C), and the p-value (B,) of their features (B, D).

        None where nothing is usual. `decide` says how scores come about, and `key` tells settings apart that decide
        otherwise. The temperature follows from what is remembered; it is fitted when first asked for.
        """
        if self.calibration is None or self.known is None:
            return None, None
        if key not in self.temperatures:
            known, statistics, floor = self.calibration, self.statistics, settings.covariance_floor
            if known.accuracy is None:
                known = calibrate(statistics, seeded(settings.seed, "calibration", self.updates)) or known
            draw = seeded(settings.seed, "temperature", self.updates, device=values.device)
            self.temperatures[key] = score_temperature(statistics, known.accuracy or 0.0, decide, floor, draw)
        return tempered(values, self.temperatures[key]), self.known.p_value(features)

    def without(self, index: int) -> Self:
        """Return the state without the class of that index, calibrated on the others."""
        others = super().without(index)
        if self.calibration is None:
            return others
        return replace(others, calibration=calibrate(others.statistics, torch.Generator().manual_seed(index)))


def _kept(
    settings: AlignmentSettings, before: Head, trained: Head, _: Head, features: Tensor, logits: Tensor, labels: Tensor
) -> Tensor:
    """Return what keeps the answers of the head `before`, on drawn features of its classes."""
    old = labels < len(before.weight)
    rows = features[old]
    loss = kept_answers(settings.keep_answers_by, before(rows), trained(rows), logits[old], labels[old])
    return settings.keep_answers * loss


def unchanged(logits: Tensor) -> Tensor:
    """Return the logits."""
    return logits


def aligned_fields(
    training: GradientTraining[Any], features: Tensor, targets: Tensor, rescale: Rescale = unchanged
) -> dict[str, Any]:
    """Return an `AlignedState`'s own fields after an experience of features (n, D) of classes (n,).

    Statistics of classes seen before become those of all their images together. The head is aligned from the
    second experience on, or from the first (`align_first`). The settings are `AlignmentSettings`.
    """
    settings, before = training.settings, training.before
    statistics = list(before.statistics)
    for target in targets.unique().tolist():
        found = fit(features[targets == target], settings.statistics, settings.statistics_components)
        if target < len(before.classes):
            statistics[target] = statistics[target].merged(found)
        else:
            statistics.append(found)
    head = training.frozen_head()
    # A head that was trained on single views is to be asked about means of them.
    first = training.symmetric if settings.align_first is None else settings.align_first
    if (before.updates or first) and settings.alignment_epochs:
        draw = seeded(settings.seed, "alignment", before.updates, device=training.device)
        examples = (features, targets) if training.correcting else None
        kept = partial(_kept, settings, before.head, head) if settings.keep_answers and before.head else None
        head = align(head, statistics, settings, generator=draw, rescale=rescale, examples=examples, kept=kept)
    calibration = calibrate(statistics, seeded(settings.seed, "calibration", before.updates))
    return {"head": head, "statistics": tuple(statistics), "calibration": calibration}


def align(
    head: Head,
    statistics: Sequence[ClassStatistics],
    settings: AlignmentSettings | None = None,
    *,
    generator: torch.Generator,
    rescale: Rescale = unchanged,
    examples: tuple[Tensor, Tensor] | None = None,
    kept: Kept | None = None,
) -> Head:
    """Return a head aligned with all C classes; the one given is not changed.

    Every epoch draws `5 * batch_size` features of each class, shuffles them and takes SGD steps on the
    cross-entropy over all classes, in minibatches of `5 * batch_size`; the rate follows a cosine to zero.
    `rescale` is what the loss does to the logits (B, C) first. `examples`, features (n, D) with class indices (n,),
    are repeated to a quarter of one class's draws at least and added to those of every epoch. `kept` is added to the
    loss: see `Kept`. `generator` decides every random number. Each covariance is factored once.
    """
    weight, settings = head.weight, settings or AlignmentSettings()
    if len(statistics) != len(weight):
        raise ValueError(f"{len(weight)} head rows but statistics of {len(statistics)} classes")
    share, epochs = 5 * settings.batch_size, settings.alignment_epochs
    samplers = [s.sampler(settings.covariance_floor) for s in statistics]
    labels = torch.arange(len(weight), device=weight.device).repeat_interleave(share)
    known = weight.new_empty(0, weight.shape[1])
    if examples is not None:
        every = torch.arange(max(share // 4, len(examples[0])), device=weight.device) % len(examples[0])
        known, labels = examples[0][every], torch.cat([labels, examples[1][every]])
    parts = [weight.clone().requires_grad_(), head.bias.clone().requires_grad_()]
    optimizer = torch.optim.SGD(
        parts, lr=settings.alignment_lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(epochs, 1))
    with torch.enable_grad():
        for _ in range(epochs):
            features = torch.cat([*[sampler.draw(share, generator) for sampler in samplers], known])
            order = torch.randperm(len(labels), generator=generator, device=weight.device)
            for rows in order.split(share):
                logits = F.linear(features[rows], *parts)
                loss = F.cross_entropy(rescale(logits), labels[rows])
                if kept is not None:
                    loss = loss + kept(Head(*parts), features[rows], logits, labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()
    return Head(parts[0].detach(), parts[1].detach())


def ported_fields(
    settings: AlignmentSettings,
    state: AlignedState,
    spaces: Sequence[Space],
    of_class: Sequence[int],
    keep_answers: float,
    rescale: Rescale = unchanged,
) -> dict[str, Any]:
    """Return an `AlignedState`'s own fields on another backbone, by the space of each class (C,).

    The head is aligned anew on the statistics as they are mapped, beginning at the old one. With `keep_answers`, it is
    held to the old one's answers on the mapping images, which have features in both.
    """
    statistics = tuple(spaces[k].map.statistics(own) for k, own in zip(of_class, state.statistics, strict=True))
    before, kept = learned(state.head), None
    used = sorted({*of_class})
    new, old = (torch.cat([getattr(spaces[k], name) for k in used]) for name in ("new", "old"))
    wanted = before(old)

    def hold(head: Head, *_: Tensor) -> Tensor:
        return keep_answers * divergence(wanted, head(new)).mean()

    if keep_answers:
        kept = hold
    return _anew("port", settings, before, statistics, state.updates, rescale, kept)


def joined_fields(
    settings: AlignmentSettings,
    states: Sequence[AlignedState],
    joint: JointClasses,
    statistics: Sequence[Sequence[ClassStatistics | None]],
    updates: int,
    rescale: Rescale = unchanged,
) -> dict[str, Any]:
    """Return an `AlignedState`'s own fields of several states, by each one's `statistics` in the features they share.

    None of them are left out. The head is aligned anew; a class's row begins as in the state that brought it.
    """
    every: dict[int, ClassStatistics] = {}
    for own, places in zip(statistics, joint.places, strict=True):
        for found, index in zip(own, places.tolist(), strict=True):
            if found is not None:
                every[index] = every[index].merged(found) if index in every else found
    heads = [learned(state.head) for state in states]
    rows = [
        (number, states[number].classes.index(c)) for c, (number, _) in zip(joint.classes, joint.origins, strict=True)
    ]
    head = Head(*(torch.stack([getattr(heads[m], name)[row] for m, row in rows]) for name in ("weight", "bias")))
    return _anew("merge", settings, head, [every[index] for index in range(len(rows))], updates, rescale)


def _anew(
    purpose: str,
    settings: AlignmentSettings,
    head: Head,
    statistics: Sequence[ClassStatistics],
    updates: int,
    rescale: Rescale = unchanged,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Return an `AlignedState`'s own fields with a head that is aligned whatever the settings: its features are new."""
    if not settings.alignment_epochs:
        default = type(settings).model_fields["alignment_epochs"].default
        settings = settings.model_copy(update={"alignment_epochs": default})
    draw = seeded(settings.seed, purpose, updates, device=head.weight.device)
    head = align(head, statistics, settings, generator=draw, rescale=rescale, kept=kept)
    calibration = calibrate(statistics, seeded(settings.seed, "calibration", updates))
    return {"head": head, "statistics": tuple(statistics), "calibration": calibration}


def drawn_answers(
    settings: AlignmentSettings,
    before: AlignedState,
    after: AlignedState,
    spaces: Sequence[Space],
    of_class: Sequence[int],
) -> Simulation:
    """Return answers of both heads for features drawn from what is remembered, and for what the map makes of them."""

    def answers(index: int, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        features = before.statistics[index].sampler(settings.covariance_floor).draw(count, draw)
        moved = spaces[of_class[index]].map.drawn(features, draw)
        return learned(before.head)(features).argmax(-1), learned(after.head)(moved).argmax(-1)

    return answers
