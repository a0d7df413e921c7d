"""Training one experience, as steps that any loop can call: the learner's own, or Avalanche's.

A training owns everything that changes while it runs. The learner's state is replaced only by what
`finish` returns, so a run that fails or is stopped leaves the learner as it was.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol

import torch
from torch import Tensor, nn

from continual import distributed
from continual.data.inputs import ExperienceData, Label, label_indices, training_loader
from continual.distributed import Rows
from continual.errors import LearningError
from continual.learning.features import extract
from continual.learning.settings import TrainingSettings
from continual.learning.state import S
from continual.learning.views import single_views
from continual.losses.terms import masked_cross_entropy
from continual.seeding import generator

if TYPE_CHECKING:
    from continual.learning.learner import IncrementalLearner

#: progress(stage, done, total, figures)
Progress = Callable[[str, int, int, dict[str, float]], None]


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


class Training(ABC, Generic[S]):
    """What a method does with one experience; this base trains nothing."""

    def __init__(self, learner: IncrementalLearner[S], data: ExperienceData) -> None:
        self.before = learner.state
        #: `learner` gives the features that are remembered
        self.learner, self.data, self.fitted = single_views(learner, data)
        present = set(data.labels)
        #: classes never seen before, sorted, in the order of their new indices
        self.new_classes: list[Label] = sorted(present - set(self.before.classes), key=_order)
        self.classes: tuple[Label, ...] = (*self.before.classes, *self.new_classes)
        self.index = {label: i for i, label in enumerate(self.classes)}
        self.epochs = 0
        self.workers = 0  #: processes that load images
        self.correcting = False  #: whether these images were answered wrong, and the head is to attend to them

    @abstractmethod
    def finish(self, progress: Progress | None = None) -> S:
        """Return the learner's state after this experience; training may go on afterwards as if it were not called."""

    def extract(
        self, compute: Callable[[Tensor, Sequence[Label]], Sequence[Tensor]], progress: Progress | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Run `compute(images, labels) -> several (B, D)` over the experience's images as they are.

        Returns each of its results joined, (n, D), and class indices (n,); see `continual.learning.features.extract`.
        """
        learner = self.learner
        found, labels = extract(
            self.data.evaluation,
            compute,
            batch_size=learner.settings.eval_batch_size,
            device=learner.device,
            progress=progress,
            workers=self.workers,
        )
        return found, label_indices(labels, self.index).to(learner.device)

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
        }


class GradientTraining(Training[S]):
    """Train some modules and a linear head with SGD; the rest of the backbone is frozen.

    `modules` are what is trained, the head included. The head (C, D) continues from `head`, with new rows
    drawn from a normal of deviation 0.02. `active` (C,) bool says which logits take part in the loss.
    """

    def __init__(
        self,
        learner: IncrementalLearner[S],
        data: ExperienceData,
        head: tuple[Tensor, Tensor] | None,
        **modules: nn.Module,
    ) -> None:
        super().__init__(learner, data)
        assert isinstance(learner.settings, TrainingSettings)
        self.settings: Any = learner.settings
        self.single = learner.variant(group=None)  #: gives features of images as they are, for training
        self.head = self._grown(head)
        self.modules = {name: module.to(learner.device) for name, module in modules.items()} | {"head": self.head}
        self.active = torch.zeros(len(self.classes), dtype=torch.bool, device=learner.device)
        self.active[len(self.before.classes) :] = True
        self.epochs: int = self.settings.epochs

    def _grown(self, head: tuple[Tensor, Tensor] | None) -> nn.Linear:
        width, old = self.learner.backbone.width, len(self.before.classes)
        grown = nn.utils.skip_init(nn.Linear, width, len(self.classes))
        draw = generator(self.settings.seed, "head", self.before.updates)
        with torch.no_grad():
            nn.init.trunc_normal_(grown.weight, std=0.02, generator=draw)
            grown.bias.zero_()
            if head is not None:
                grown.weight[:old], grown.bias[:old] = head
        return grown.to(self.learner.device)

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters that are trained, with their rates, as an optimizer takes them."""

    @abstractmethod
    def forward(self, images: Tensor) -> Output:
        """Return features and logits of prepared images (B, 3, H, W); in several processes, of `distributed.part()`."""

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
        return self.batch_loss(Output(output.features[rows], output.logits[rows]), targets[rows])

    def batch_loss(self, output: Output, targets: Tensor) -> Tensor:
        """Return the cross-entropy over the active classes."""
        return masked_cross_entropy(output.logits, targets, self.active)

    def check_loss(self, loss: Tensor) -> None:
        """Raise LearningError if the loss is not finite."""
        if not torch.isfinite(loss):
            raise LearningError(
                f"the training loss became {loss.item()} in experience {self.before.updates + 1}: lower lr (now "
                f"{self.settings.lr}) or use precision='float32'; the learner is as it was before"
            )

    def after_step(self) -> None:
        """Hook after every optimizer step."""

    def head_tensors(self) -> tuple[Tensor, Tensor]:
        """Return a copy of the head's weight (C, D) and bias (C,) that later training cannot reach."""
        return self.head.weight.detach().clone(), self.head.bias.detach().clone()


def snapshot(live: Mapping[str, Tensor], *steppers: Any) -> dict[str, Any]:
    """Return copies of live tensors and of the state of optimizers and schedulers, for `go_back`."""
    tensors = {name: tensor.detach().clone() for name, tensor in live.items()}
    return {"tensors": tensors, "steppers": [stepper.state_dict() for stepper in steppers]}


def go_back(kept: Mapping[str, Any], live: Mapping[str, Tensor], *steppers: Any) -> None:
    """Put live tensors, optimizers and schedulers back to where they were."""
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(kept["tensors"][name])
    for stepper, state in zip(steppers, kept["steppers"], strict=True):
        stepper.load_state_dict(state)


def run(
    training: Training[Any],
    progress: Progress | None = None,
    workers: int = 0,
    checkpoints: Checkpoints | None = None,
) -> None:
    """The learner's own training loop; Avalanche's makes the same calls in the same order."""
    training.workers = workers
    if not isinstance(training, GradientTraining) or training.epochs == 0:
        return
    settings, learner = training.settings, training.learner
    loader, sampler = training_loader(
        training.data.training,
        settings.batch_size,
        settings.seed,
        training.before.updates,
        own_rows=True,
        num_workers=workers,
    )
    optimizer = training.make_optimizer()
    scheduler = training.make_scheduler(optimizer)
    done, live = 0, training.live_tensors()
    if checkpoints is not None and (found := checkpoints.latest()) is not None:
        done = found[0]
        go_back(found[1], live, optimizer, scheduler)
    distributed.agree(done, "checkpoints")
    steps, waiting = training.epochs * len(loader), Waiting()
    for epoch in range(done, training.epochs):
        sampler.epoch = epoch
        training.start_epoch(epoch)
        for step, (images, labels) in enumerate(waiting.over(loader)):
            whole = min(settings.batch_size, len(sampler) - step * settings.batch_size)
            loss = training.loss(*_forward(training, images.to(learner.device), labels, distributed.rows_of(whole)))
            training.check_loss(loss)
            optimizer.zero_grad()
            loss.backward()
            distributed.average_gradients(p for group in optimizer.param_groups for p in group["params"])
            optimizer.step()
            training.after_step()
            if progress is not None:
                figures = {"loss": float(loss.detach()), "waiting": waiting.share()}
                progress("training", epoch * len(loader) + step + 1, steps, figures)
        scheduler.step()
        if checkpoints is not None:
            checkpoints.keep(epoch + 1, snapshot(live, optimizer, scheduler))


class Waiting:
    """Notes which share of a training's time goes by while it waits for images."""

    def __init__(self) -> None:
        self._began, self._waited = time.perf_counter(), 0.0

    def over(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yield what the loader yields."""
        batches = iter(loader)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def share(self) -> float:
        """Return the share so far; of a GPU, which works on meanwhile, at most so much was idle."""
        return self._waited / max(time.perf_counter() - self._began, 1e-9)


def _forward(
    training: GradientTraining[Any], images: Tensor, labels: Sequence[Label], rows: Rows | None
) -> tuple[Output, Sequence[Label]]:
    """Return the output and the labels of a whole batch, of which this process has the given `rows`."""
    with distributed.part_of_batch(rows):
        mine = training.forward(images)
    if rows is None:
        return mine, labels
    targets = distributed.joined(label_indices(labels, training.index), rows)
    output = Output(distributed.joined(mine.features, rows), distributed.joined(mine.logits, rows))
    return output, [training.classes[target] for target in targets.tolist()]


def _order(label: Label) -> tuple[str, Label]:
    return type(label).__name__, label
