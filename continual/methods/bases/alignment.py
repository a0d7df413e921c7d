"""Classifier alignment (MOS section 3.2): retrain the head on features drawn from the class statistics.

`align` is the rule; the rest is what all methods with an aligned head share: settings, state, its end of a training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from continual.learning.porting import Space
from continual.learning.settings import TrainingSettings
from continual.learning.state import Simulation, State, learned
from continual.learning.streaming import Held
from continual.learning.training import GradientTraining
from continual.methods.bases.compatibility import Kind as KeepKind
from continual.methods.bases.compatibility import kept_answers
from continual.seeding import generator as seeded
from continual.statistics.class_statistics import ClassStatistics, Kind, fit, of_each_class
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
    alignment_draws: int | None = Field(
        None, ge=1, description="features drawn in an epoch, of all classes in turn; None: 5 batch_size of every class"
    )
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


class ClassFits:
    """Statistics of an experience's classes, of features given in blocks; a class that comes again is merged."""

    def __init__(self, settings: AlignmentSettings) -> None:
        self.settings, self.of_class = settings, dict[int, ClassStatistics]()

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Fit the classes (n,) of features (n, D)."""
        own = self.settings
        for target, rows in of_each_class(features, targets):
            found = fit(rows, own.statistics, own.statistics_components)
            known = self.of_class.get(target)
            self.of_class[target] = found if known is None else known.merged(found)


def aligned_fields(
    training: GradientTraining[Any], fits: ClassFits, held: Held, rescale: Rescale = unchanged
) -> dict[str, Any]:
    """Return an `AlignedState`'s own fields after an experience whose classes were fitted; features (n, D) are `held`.

    Statistics of classes seen before become those of all their images together. The head is aligned from the
    second experience on, or from the first (`align_first`). The settings are `AlignmentSettings`.
    """
    settings, before = training.settings, training.before
    statistics = list(before.statistics)
    for target, found in sorted(fits.of_class.items(), key=lambda pair: pair[0]):
        if target < len(before.classes):
            statistics[target] = statistics[target].merged(found)
        else:
            statistics.append(found)
    head = training.frozen_head()
    # A head that was trained on single views is to be asked about means of them.
    first = training.symmetric if settings.align_first is None else settings.align_first
    if (before.updates or first) and settings.alignment_epochs:
        draw = seeded(settings.seed, "alignment", before.updates, device=training.device)
        examples = (held.columns[0], held.labels) if training.correcting else None
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
    cross-entropy over all classes, in minibatches of `5 * batch_size`; the rate follows a cosine to zero. The work of
    an epoch grows with C^2 so; with `alignment_draws` in all, of classes in turn, with C.
    `rescale` is what the loss does to the logits (B, C) first. `examples`, features (n, D) with class indices (n,),
    are repeated to a quarter of one class's draws at least and added to those of every epoch. `kept` is added to the
    loss: see `Kept`. `generator` decides every random number. Each covariance that is drawn from is factored once.
    """
    weight, settings = head.weight, settings or AlignmentSettings()
    if len(statistics) != len(weight):
        raise ValueError(f"{len(weight)} head rows but statistics of {len(statistics)} classes")
    share, epochs = 5 * settings.batch_size, settings.alignment_epochs
    sampler = cache(lambda index: statistics[index].sampler(settings.covariance_floor))
    known, examples_of = weight.new_empty(0, weight.shape[1]), torch.empty(0, dtype=torch.int64, device=weight.device)
    if examples is not None:
        every = torch.arange(max(share // 4, len(examples[0])), device=weight.device) % len(examples[0])
        known, examples_of = examples[0][every], examples[1][every]
    parts = [weight.clone().requires_grad_(), head.bias.clone().requires_grad_()]
    live = replace(head, weight=parts[0], bias=parts[1])
    optimizer = torch.optim.SGD(
        parts, lr=settings.alignment_lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(epochs, 1))
    with torch.enable_grad():
        for _ in range(epochs):
            each = _draws(len(weight), share, settings.alignment_draws, generator)
            drawn = [sampler(index).draw(count, generator) for index, count in enumerate(each.tolist()) if count]
            features = torch.cat([*drawn, known])
            labels = torch.cat([torch.arange(len(weight), device=weight.device).repeat_interleave(each), examples_of])
            order = torch.randperm(len(labels), generator=generator, device=weight.device)
            for rows in order.split(share):
                logits = live(features[rows])
                loss = F.cross_entropy(rescale(logits), labels[rows])
                if kept is not None:
                    loss = loss + kept(live, features[rows], logits, labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()
    return replace(head, weight=parts[0].detach(), bias=parts[1].detach())


def _draws(classes: int, share: int, total: int | None, generator: torch.Generator) -> Tensor:
    """Return how many features are drawn of each class (C,) in an epoch: `share`, or so that there are `total`."""
    if total is None:
        return torch.full((classes,), share, device=generator.device)
    each = torch.full((classes,), total // classes, device=generator.device)
    each[torch.randperm(classes, generator=generator, device=generator.device)[: total % classes]] += 1
    return each


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
