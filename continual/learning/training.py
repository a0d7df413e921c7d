"""Training one experience, as steps that any loop can call: the learner's own, or Avalanche's.

A training owns everything that changes while it runs. The learner's state is replaced only by what
`finish` returns, so a run that fails or is stopped leaves the learner as it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from continual.data.inputs import ExperienceData, Label
from continual.data.loaders import label_indices
from continual.errors import LearningError
from continual.learning.extractor import Extractor, Progress, extract, extracted, single_views
from continual.learning.settings import TrainingSettings
from continual.learning.state import S
from continual.learning.streaming import Block, Held, Reading, streamed
from continual.learning.unlabelled import UnlabelledUse
from continual.losses.base import Batch, LossTerm
from continual.losses.cross_entropy import CrossEntropy
from continual.seeding import generator
from continual.statistics.head import Head


class Checkpoints(Protocol):
    """Where a training is kept after every epoch, to go on from there."""

    def latest(self) -> tuple[int, Any] | None:
        """Return how many epochs are done and what `keep` was given then, or None before the first."""

    def keep(self, epochs: int, snapshot: Any) -> None:
        """Keep a training after its first `epochs` epochs: nested dicts, lists and tuples of tensors and scalars."""


@dataclass(frozen=True)
class Output:
    """One training batch's features (B, D) and logits (B, C) over all classes seen."""

    features: Tensor
    logits: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)  #: (B, ...) each, for terms of the loss

    def map(self, function: Callable[[Tensor], Tensor]) -> Output:
        """Return the output with a function applied to every tensor."""
        extra = {name: function(value) for name, value in self.extra.items()}
        return Output(function(self.features), function(self.logits), extra)


@dataclass(frozen=True)
class Start(Generic[S]):
    """What a training starts from: all that it needs of a learner."""

    state: S
    settings: Any
    extractor: Extractor


class Training(ABC, Generic[S]):
    """What a method does with one experience; this base trains nothing."""

    def __init__(self, start: Start[S], data: ExperienceData) -> None:
        self.before, self.settings = start.state, start.settings
        self.symmetric = start.extractor.symmetry is not None  #: whether answers are made of several views
        #: gives the features that are remembered
        self.extractor, self.data, self.fitted = single_views(
            start.extractor, self.settings, self.before.fitted, data, first=self.before.updates == 0
        )
        #: how many rows of what is remembered are of one image, one after the other
        self.copies = len(self.data.labels) // len(data.labels)
        self.device = self.extractor.device
        present = set(data.labels)
        #: classes never seen before, sorted, in the order of their new indices
        self.new_classes: list[Label] = sorted(present - set(self.before.classes), key=_order)
        self.classes: tuple[Label, ...] = (*self.before.classes, *self.new_classes)
        self.index = {label: i for i, label in enumerate(self.classes)}
        self.epochs = 0
        self.workers = 0  #: processes that load images
        self.correcting = False  #: whether these images were answered wrong, and the head is to attend to them
        self.unlabelled_use: UnlabelledUse | None = None  #: how many unlabelled images counted, once that is known

    @abstractmethod
    def finish(self, progress: Progress | None = None) -> S:
        """Return the learner's state after this experience; training may go on afterwards as if it were not called."""

    def extract(
        self, compute: Callable[[Tensor, Sequence[Label]], Sequence[Tensor]], progress: Progress | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Run `compute(images, labels) -> several (B, D)` over the experience's images as they are.

        Returns each of its results joined, (n, D), and class indices (n,); see `continual.learning.extractor.extract`.
        All are in memory together: `streamed` takes experiences of any size.
        """
        size, workers = self.settings.eval_batch_size, self.workers
        found, labels = extract(self.data.evaluation, compute, size, self.device, progress, workers)
        return found, label_indices(labels, self.index).to(self.device)

    def features(self, read: Callable[[Tensor], Tensor], progress: Progress | None = None) -> tuple[Tensor, Tensor]:
        """Return what `read` gives, features (n, D), of the experience's images as they are, and class indices (n,)."""
        (found,), labels = self.extract(lambda images, _: [read(images)], progress)
        return found, labels

    def streamed(
        self,
        compute: Callable[[Tensor, Sequence[Label]], Sequence[Tensor]],
        fold: Callable[[list[Tensor], Tensor], list[Tensor]],
        progress: Progress | None = None,
        **options: Any,
    ) -> Held:
        """Give `fold(columns, labels)` what `extract` would return, in blocks; return a sample of what it returns.

        An experience that fits in memory is one block, and is held whole; see `continual.learning.streaming.streamed`.
        """
        size = self.settings.eval_batch_size

        def batches(order: Sequence[int] | None) -> Iterator[Block]:
            data = self.data.evaluation if order is None else Subset(self.data.evaluation, order)
            for found, labels in extracted(data, compute, size, self.device, progress, self.workers):
                yield found, label_indices(labels, self.index).to(self.device)

        reading = Reading(batches, label_indices(self.data.labels, self.index), self.copies, len(self.classes))
        return streamed(reading, fold, generator(self.settings.seed, "held images", self.before.updates), **options)

    def unlabelled(
        self, compute: Callable[[Tensor], Sequence[Tensor]], progress: Progress | None = None
    ) -> Sequence[Tensor]:
        """Return what `compute(images)` gives of the unlabelled images, each result joined, (m, D)."""
        assert self.data.unlabelled is not None
        data, size = self.data.unlabelled.evaluation, self.settings.eval_batch_size
        return extract(data, lambda images, _: compute(images), size, self.device, progress, self.workers)[0]

    @property
    def taught(self) -> bool:
        """Whether this training, once it is over, is to be the teacher of another that learns unlabelled images too."""
        return False

    def learn_from(self, teacher: Training[S], progress: Progress | None = None) -> None:
        """Learn unlabelled images too, as another training, which is over, answers for them."""

    def class_experience(self) -> tuple[int, ...]:
        """Return which experience introduced each class, the new ones included."""
        return (*self.before.class_experience, *[self.before.experiences] * len(self.new_classes))

    def progress_counts(self) -> dict[str, Any]:
        """Return the state's bookkeeping after this experience, as its constructor takes it."""
        return {
            "classes": self.classes,
            "class_experience": self.class_experience(),
            "experiences": self.before.experiences + bool(self.new_classes),
            "updates": self.before.updates + 1,
            "fitted": self.fitted,
            "value_range": self.data.value_range or self.before.value_range,
            "choice": self.before.choice,
            "ignored": self.before.ignored,
        }


class GradientTraining(Training[S]):
    """Train some modules and a linear head with SGD; the rest of the backbone is frozen.

    `modules` are what is trained, the head included. The head (C, D) continues from `head`, with new rows
    drawn from a normal of deviation 0.02. `active` (C,) bool says which logits take part in the loss: the sum of
    cross-entropy, the method's own `terms` and those of the settings, each times its weight.
    """

    def __init__(
        self, start: Start[S], data: ExperienceData, head: Head | None, *terms: LossTerm, **modules: nn.Module
    ) -> None:
        super().__init__(start, data)
        assert isinstance(self.settings, TrainingSettings)
        self.settings: Any = start.settings
        self.single = start.extractor.untransformed  #: gives features of images as they are, for training
        self.head = self._grown(head)
        self.modules = {name: module.to(self.device) for name, module in modules.items()} | {"head": self.head}
        self.active = torch.zeros(len(self.classes), dtype=torch.bool, device=self.device)
        self.active[len(self.before.classes) :] = True
        self.epochs: int = self.settings.epochs
        every = [CrossEntropy(), *terms, *self.settings.loss_terms()]
        self.terms = [term for term in every if term.weight]
        for term in self.terms:
            term.prepare(self)

    def _grown(self, head: Head | None) -> nn.Linear:
        width, old = self.extractor.backbone.width, len(self.before.classes)
        grown = nn.utils.skip_init(nn.Linear, width, len(self.classes))
        draw = generator(self.settings.seed, "head", self.before.updates)
        with torch.no_grad():
            nn.init.trunc_normal_(grown.weight, std=0.02, generator=draw)
            grown.bias.zero_()
            if head is not None:
                grown.weight[:old], grown.bias[:old] = head.weight, head.bias
        return grown.to(self.device)

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters that are trained, with their rates, as an optimizer takes them."""

    @abstractmethod
    def forward(self, images: Tensor) -> Output:
        """Return features and logits of prepared images (B, 3, H, W); in several processes, of `distributed.part()`."""

    def training_images(self, progress: Progress | None = None) -> Any:
        """Return the data set whose items a loader draws: (tensor, label, ...), the tensor what `forward` takes."""
        return self.data.training

    def live_tensors(self) -> dict[str, Tensor]:
        """Return every tensor that training changes, by name: the parameters. A method that changes more adds it."""
        return {
            f"{number}/{place}": tensor
            for number, group in enumerate(self.parameter_groups())
            for place, tensor in enumerate(group["params"])
        }

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return the paper's optimizer: SGD with momentum."""
        return torch.optim.SGD(
            self.parameter_groups(), momentum=self.settings.momentum, weight_decay=self.settings.weight_decay
        )

    def make_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the cosine to zero, to be stepped once an epoch."""
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(self.epochs, 1))

    def start_epoch(self, epoch: int) -> None:
        """Prepare what is random in an epoch (counted from 0)."""

    def loss(self, output: Output, labels: Sequence[Label]) -> Tensor:
        """Return the loss of a batch: images of classes that are not active take no part in it."""
        targets = label_indices(labels, self.index).to(output.logits.device)
        rows = self.active[targets]
        if not rows.any():
            return output.logits.sum() * 0
        kept = output.map(lambda tensor: tensor[rows])
        batch = Batch(kept.features, kept.logits, targets[rows], self.active, kept.extra)
        return torch.stack([term.weight * term(batch) for term in self.terms]).sum()

    def observed(self, images: Tensor) -> Output:
        """Return what `forward` does, with what the terms of the loss observe in the images."""
        output = self.forward(images)
        extra: dict[str, Tensor] = {}
        for term in self.terms:
            extra |= term.observe(images)
        return replace(output, extra={**output.extra, **extra}) if extra else output

    def check_loss(self, loss: Tensor) -> None:
        """Raise LearningError if the loss is not finite."""
        if not torch.isfinite(loss):
            raise LearningError(
                f"the training loss became {loss.item()} in experience {self.before.updates + 1}: lower lr (now "
                f"{self.settings.lr}) or use precision='float32'; the learner is as it was before"
            )

    def after_step(self) -> None:
        """Hook after every optimizer step."""

    def frozen_head(self) -> Head:
        """Return a copy of the head that later training cannot reach."""
        return Head(self.head.weight.detach().clone(), self.head.bias.detach().clone())


def _order(label: Label) -> tuple[str, Label]:
    return type(label).__name__, label
