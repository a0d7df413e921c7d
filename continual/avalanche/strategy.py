"""Learners as Avalanche strategies: every hook of Avalanche's own loop makes one call to the learner's training.

They are used like `avalanche.training.Naive`:

    backbone = load_backbone("vit_base_patch16_224.augreg_in21k")
    strategy = MOS(model=backbone, train_mb_size=48, train_epochs=20, device="cuda", evaluator=evaluator)
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    strategy.learner.save("model.safetensors")
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from avalanche.benchmarks.utils.data_loader import collate_from_data_or_kwargs
from avalanche.training.plugins import LRSchedulerPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.templates.base import BaseTemplate
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import Tensor, nn
from torch.optim import Optimizer

from continual import methods
from continual.avalanche.module import LearnerModule, as_learner, by_label, checked_labels
from continual.avalanche.preparing import prepared_stream
from continual.backbones.loading import Backbone
from continual.data.inputs import ExperienceData
from continual.data.loaders import training_loader
from continual.data.ranges import ValueRange
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.learning.training import GradientTraining
from continual.methods.finetune import FinetuneLearner
from continual.methods.joint import JointLearner
from continual.methods.mos.learner import MOSLearner
from continual.methods.simple_cil import SimpleCILLearner


class LearnerStrategy(SupervisedTemplate):
    """An `IncrementalLearner` inside Avalanche's training and evaluation loops.

    Subclasses name a `learner_type`; `strategy_for` makes one for any method. Arguments are those of
    `avalanche.training.Naive`, by name, and the method's own settings (`seed`, `alpha`, ..., `preset`):

    - `model`: a `Backbone`, a timm ViT (frozen in place, its classifier dropped), or a learner to continue.
    - `optimizer`: None for the method's own. The class and the options of another one are used, a new one for each
      experience, on the learner's parameters; its lr is the setting `lr`. The method's schedule stays.
    - `train_epochs`, `train_mb_size`, `eval_mb_size`: the settings `epochs`, `batch_size`, `eval_batch_size`; None for
      the method's default. A method that trains nothing ignores those of training.
    - `value_range`: what the numbers of the stream's images mean, as in `IncrementalLearner.learn`. Images that are not
      normalised are prepared as `learn` does, after the stream's own transform.
    - `criterion`: of `mb_output`, for the loss reported by evaluation; training has the method's own loss.

    Labels are the stream's ints. `mb_output` (B, columns) holds log scores, indexed by label, in evaluation over the
    classes learned, in training over those that take part in the loss; other columns hold a finite floor. `learner` is
    the learner, to save, load or ask; its numbers are those of `learn` with the same seed and data, bit for bit,
    whatever is evaluated in between and with any number of workers. It changes when an experience is finished, before
    the plugins' `after_training_exp`. Evaluation in the middle of an experience (`eval_every` > 0) predicts as if
    training ended there: each time a copy finishes the experience (statistics, alignment), at about that cost.

    Raises InputError for arguments or images that cannot be used.
    """

    learner_type: ClassVar[Any] = IncrementalLearner  #: the class of its learner

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Not Avalanche's own hook: it refuses what no signature names, and so the settings.
        super(BaseTemplate, cls).__init_subclass__(**kwargs)
        if "__init__" not in vars(cls):
            cls.__init__ = _with_settings  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        model: Backbone | nn.Module | IncrementalLearner[Any],
        optimizer: Optimizer | None = None,
        criterion: Any = None,
        train_mb_size: int | None = None,
        train_epochs: int | None = None,
        eval_mb_size: int | None = None,
        device: str | torch.device | None = None,
        plugins: Sequence[Any] | None = None,
        evaluator: Any = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
        settings: Mapping[str, Any] | None = None,
        value_range: ValueRange | None = None,
    ) -> None:
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise InputError(f"optimizer must be None or a torch optimizer, got {type(optimizer).__name__}")
        if any(isinstance(plugin, LRSchedulerPlugin) for plugin in plugins or ()):
            raise InputError("LRSchedulerPlugin would have no effect: the learner makes its own optimizer and schedule")
        named = {"batch_size": train_mb_size, "epochs": train_epochs, "eval_batch_size": eval_mb_size}
        lr = None if optimizer is None else optimizer.defaults.get("lr")
        self.learner = as_learner(self.learner_type, model, device, dict(settings or {}), lr=lr, **named)
        used = self.learner.settings.model_dump()
        super().__init__(
            model=LearnerModule(self.learner),
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=used.get("batch_size", 1),
            train_epochs=used.get("epochs", 0),
            eval_mb_size=used["eval_batch_size"],
            device=self.learner.device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
        )
        self.given_optimizer = optimizer
        self.value_range = value_range
        self.training: Any = None  #: the `Training` of the experience that is being learned
        self.output: Any = None  #: its `Output` for the minibatch
        self.sampler: Any = None
        self.scheduler: Any = None
        self.scores: Any = None  #: the learner's `Scores` for the minibatch that was evaluated last
        self.columns = 0  #: that evaluation's `mb_output` must have

    # Training --------------------------------------------------------------------------------------------

    def train(self, experiences: Any, eval_streams: Any = None, **kwargs: Any) -> Any:
        """Learn experiences; if that fails or is interrupted, the unfinished one leaves no trace."""
        try:
            return super().train(experiences, eval_streams, **kwargs)
        finally:
            self._forget_training()

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Prepare the experience's images, augmented."""
        super().train_dataset_adaptation(**kwargs)
        self.adapted_dataset: Any = self._prepared(self.adapted_dataset, augment=True)[0]

    def eval_dataset_adaptation(self, **kwargs: Any) -> None:
        """Prepare the experience's images as they are."""
        super().eval_dataset_adaptation(**kwargs)
        self.adapted_dataset = self._prepared(self.adapted_dataset, augment=False)[0]

    def _prepared(self, dataset: Any, *, augment: bool) -> tuple[Any, str | None]:
        remembered, prepared = self.model.learner.state.value_range, self.learner.preprocessing
        return prepared_stream(dataset, prepared, augment=augment, stated=self.value_range, remembered=remembered)

    def make_train_dataloader(self, *, shuffle: bool = True, **kwargs: Any) -> None:
        """Begin the experience, with batches drawn as `IncrementalLearner.learn` draws them."""
        if not shuffle:
            raise InputError("shuffle=False is not possible: the learner's seed decides the order of the images")
        evaluation, found = self._prepared(self.experience.dataset.eval(), augment=False)
        labels = checked_labels(evaluation, self.learner.preprocessing)
        checked_labels(self.adapted_dataset, self.learner.preprocessing)
        self.training = self.learner.start_training(ExperienceData(self.adapted_dataset, evaluation, labels, found))
        self.train_epochs = 0
        known = ("num_workers", "pin_memory", "persistent_workers", "drop_last")
        loader = self._obtain_common_dataloader_parameters(**{k: v for k, v in kwargs.items() if k in known})
        collate_from_data_or_kwargs(self.adapted_dataset, loader)
        seed, update = self.learner.settings.seed, self.learner.state.updates
        gradient = isinstance(self.training, GradientTraining) and self.training.epochs > 0
        images = self.training.training_images() if gradient else self.training.data.training
        size = self.train_mb_size
        self.dataloader, self.sampler = training_loader(images, size, seed, update, **loader)
        if isinstance(self.training, GradientTraining):
            self.train_epochs = self.training.epochs
            self.model.trained.update(self.training.modules)

    def make_optimizer(self, **kwargs: Any) -> None:
        """Make the experience's optimizer and schedule; called before each, for `optimized_param_id` stays None."""
        if not isinstance(self.training, GradientTraining):
            return
        if self.given_optimizer is None:
            self.optimizer = self.training.make_optimizer()
        else:
            kind, defaults = type(self.given_optimizer), self.given_optimizer.defaults
            # Some optimizers keep more in `defaults` than their constructors take.
            options = {k: v for k, v in defaults.items() if k in inspect.signature(kind).parameters}
            self.optimizer = kind(self.training.parameter_groups(), **options)
        self.scheduler = self.training.make_scheduler(self.optimizer)

    def _before_training_exp(self, **kwargs: Any) -> None:
        super()._before_training_exp(**kwargs)
        for plugin in self.plugins:
            # Avalanche takes the last epoch's evaluation for the final one, also where there is no epoch.
            if isinstance(plugin, PeriodicEval) and self.train_epochs == 0:
                plugin.do_final = plugin.eval_every > -1

    def _before_training_epoch(self, **kwargs: Any) -> None:
        self.sampler.epoch = self.clock.train_exp_epochs
        self.training.start_epoch(self.clock.train_exp_epochs)
        super()._before_training_epoch(**kwargs)

    def optimizer_step(self) -> None:
        """Step, then let the method act on the new weights (MOS merges here)."""
        super().optimizer_step()
        self.training.after_step()

    def _after_training_epoch(self, **kwargs: Any) -> None:
        self.scheduler.step()
        super()._after_training_epoch(**kwargs)

    def _after_training_exp(self, **kwargs: Any) -> None:
        self.learner.complete(self.training)
        self._forget_training()
        super()._after_training_exp(**kwargs)

    def _forget_training(self) -> None:
        self.training = self.output = None
        self.model.trained.clear()

    # Both ------------------------------------------------------------------------------------------------

    def forward(self) -> Tensor:
        """Return log scores (B, columns) of the minibatch, indexed by label."""
        if not self.is_training:
            output, self.scores = self.model.answer(self.mb_x, self.columns)
            return output
        self.output = self.training.observed(self.mb_x)
        classes, active = self.training.classes, self.training.active
        labels = [label for label, on in zip(classes, active.tolist(), strict=True) if on]
        return by_label(self.output.logits[:, active].log_softmax(-1), labels, max(classes) + 1)

    def criterion(self) -> Tensor:
        """Return the method's loss in training, the criterion of `mb_output` in evaluation."""
        if not self.is_training:
            return super().criterion()
        loss = self.training.loss(self.output, self.mb_y.tolist())
        self.training.check_loss(loss)
        return loss

    # Evaluation ------------------------------------------------------------------------------------------

    def _before_eval(self, **kwargs: Any) -> None:
        self.model.learner = self.learner
        if self.training is not None:
            self.model.learner = self.learner.variant()
            with torch.enable_grad():
                self.model.learner.state = self.training.finish()
        super()._before_eval(**kwargs)

    def _before_eval_exp(self, **kwargs: Any) -> None:
        super()._before_eval_exp(**kwargs)
        self.columns = max(checked_labels(self.adapted_dataset, self.learner.preprocessing)) + 1

    def _eval_cleanup(self) -> None:
        super()._eval_cleanup()
        self.model.learner = self.learner


def _with_settings(self: LearnerStrategy, *args: Any, **arguments: Any) -> None:
    """Construct a strategy from arguments and settings."""
    arguments["settings"] = {name: arguments.pop(name) for name in arguments.keys() - _ARGUMENTS}
    LearnerStrategy.__init__(self, *args, **arguments)


#: Everything else is a setting.
_ARGUMENTS = inspect.signature(LearnerStrategy.__init__).parameters.keys() - {"settings"}


class MOS(LearnerStrategy):
    """MOS (AAAI 2025): adapters merged in training and retrieved at inference; see `MOSLearner`."""

    learner_type = MOSLearner


class SimpleCIL(LearnerStrategy):
    """Prototypes of the frozen features; see `SimpleCILLearner`."""

    learner_type = SimpleCILLearner


class Finetune(LearnerStrategy):
    """Sequential fine-tuning of one adapter, the lower bound; see `FinetuneLearner`."""

    learner_type = FinetuneLearner


class Joint(LearnerStrategy):
    """Training from scratch on all images so far, the upper bound; see `JointLearner`."""

    learner_type = JointLearner


@cache
def strategy_for(method: str | type[IncrementalLearner[Any]]) -> type[LearnerStrategy]:
    """Return the strategy of a method, given by name (InputError if it is unknown) or by its learner's class."""
    learner_type = methods.method(method) if isinstance(method, str) else method
    for known in (MOS, SimpleCIL, Finetune, Joint):
        if known.learner_type is learner_type:
            return known
    name = learner_type.__name__.removesuffix("Learner")
    body = {"learner_type": learner_type, "__doc__": learner_type.__doc__, "__module__": __name__}
    return type(name, (LearnerStrategy,), body)
