"""Any Avalanche strategy as a row of a benchmark: named by its import path, measured like every other method.

    [methods.lwf]
    method = "avalanche.training.supervised:LwF"
    alpha = 1.0
    temperature = 2.0

The strategy trains a copy of the backbone (or, with `train_backbone = false`, only what stands on it) and a linear head
that grows with the classes. Its settings are its constructor's keyword arguments, and those of `StrategySettings`,
whose `epochs`, `batch_size` and `eval_batch_size` are Avalanche's `train_epochs`, `train_mb_size` and `eval_mb_size`.

Limits: predictions are those of the strategy's model in evaluation mode. Rows that were stopped start over; nothing can
be saved; no unlabelled images are learned, and no concept is ignored. Memory is what the model has beside a frozen
backbone, all tensors of the plugins, and stored exemplars as bytes of their pixels. Strategies that keep logits (DER)
need a fixed head and fail.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import torch
from pydantic import Field, create_model
from torch import Tensor, nn
from torch.utils.data import Dataset

from continual.data.inputs import ExperienceData, as_experience
from continual.data.ranges import ValueRange
from continual.errors import InputError, LearningError
from continual.learning.answers import Scores
from continual.learning.extractor import Progress
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import Settings
from continual.learning.state import State
from continual.methods import METHODS, is_learner, method
from continual.registry import load_object, points_to_code
from continual.seeding import seeded


class StrategySettings(Settings):
    """What every Avalanche strategy is given."""

    epochs: int = Field(5, ge=0, description="Avalanche's train_epochs")
    batch_size: int = Field(32, ge=1, description="Avalanche's train_mb_size")
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(0.01, gt=0, description="the head's rate")
    backbone_lr_ratio: float = Field(0.01, gt=0, description="the backbone's rate as a share of lr")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.0, ge=0)
    train_backbone: bool = Field(True, description="train the whole backbone, not only the head")


#: arguments of a strategy that are not settings
_GIVEN = {"model", "optimizer", "criterion", "device", "plugins", "evaluator", "eval_every", "peval_mode"}
_OURS = {"train_epochs", "train_mb_size", "eval_mb_size"}


def find_method(name: str) -> type[IncrementalLearner[Any]]:
    """Return a method's learner by its name, or by the place of its class: `file.py:Class` or `module:Class`.

    The class is a learner, or an Avalanche strategy, of which a learner is made. Raises InputError for an unknown one.
    """
    if not points_to_code(name):
        return method(name)
    value = load_object(name)
    return METHODS.get(METHODS.resolve(name)) if is_learner(value) else strategy_learner(name, value)


@cache
def strategy_learner(path: str, kind: Any) -> type[IncrementalLearner[Any]]:
    """Return the learner of an Avalanche strategy; see `find_method`."""
    from avalanche.training.templates import SupervisedTemplate

    place, _, name = path.rpartition(":")
    if not (inspect.isclass(kind) and issubclass(kind, SupervisedTemplate)):
        raise InputError(f"method {path!r}: no strategy {name!r} in {place}, nor a learner")
    every = inspect.signature(kind).parameters.items()
    arguments = {name: p for name, p in every if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if "model" not in arguments or "optimizer" not in arguments:
        raise InputError(f"method {path!r} makes its own model or optimizer: only strategies that take both can be run")
    own = {key: _field(p) for key, p in arguments.items() if key not in _GIVEN | _OURS}
    body = {
        "method": path,
        "paper": "see Avalanche",
        "summary": f"Avalanche's {name}",
        "__doc__": f"Avalanche's {name} as a learner.",
        "settings_type": create_model(f"{name}Settings", __base__=StrategySettings, **own),
        "strategy_type": kind,
        "arguments": tuple(own),
    }
    return type(f"{name}Learner", (AvalancheLearner,), body)


def _field(parameter: inspect.Parameter) -> Any:
    """Return a constructor's argument as a setting's type and default."""
    plain = {"int": int, "float": float, "bool": bool, "str": str}
    kind = plain.get(getattr(parameter.annotation, "__name__", str(parameter.annotation)), Any)
    if parameter.default is parameter.empty:
        return (kind, ...)
    try:
        json.dumps(parameter.default)
    except TypeError:
        return (Any, None)
    return (kind | None if parameter.default is None else kind, parameter.default)


class GrowingModel(nn.Module):
    """A copy of the backbone under a linear head that Avalanche lets grow with the classes."""

    def __init__(self, learner: AvalancheLearner) -> None:
        from avalanche.models import IncrementalClassifier

        super().__init__()
        frozen = learner.backbone.frozen
        # A function, which strategies that copy the model do not copy: the frozen weights are there once.
        self.features = lambda images, weights: learner.extractor.features(images, weights=weights or None)
        learned = frozen.network.named_parameters() if learner.settings.train_backbone else ()
        self.copy = nn.ParameterDict({name.replace(".", "/"): p.detach().clone() for name, p in learned})
        self.classifier = IncrementalClassifier(learner.backbone.width, initial_out_features=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C or more) of prepared images."""
        weights = {name.replace("/", "."): p for name, p in self.copy.items()}
        logits: Tensor = self.classifier(self.features(images, weights))
        return logits


class AvalancheLearner(IncrementalLearner[State]):
    """An Avalanche strategy in the place of a method; a `learn` that fails leaves it in between."""

    strategy_type: ClassVar[Any]
    arguments: ClassVar[tuple[str, ...]]  #: names of the strategy's own arguments
    settings_type: ClassVar[type[Settings]] = StrategySettings
    state_type = State
    exemplar_free = False
    probabilities = False
    any_backbone = True

    def check(self) -> None:
        if len(self.backbone.parts) > 1 and self.settings.train_backbone:
            self.backbone.frozen.check_has_blocks(f"{self.method}, unless train_backbone=false,")

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.strategy: Any = None
        self.seen: list[ExperienceData] = []
        self.progress: Progress | None = None

    def learn(
        self,
        images: Any,
        labels: Any = None,
        *,
        unlabelled: Any = None,
        ignoring: Any = None,
        progress: Progress | None = None,
        value_range: ValueRange | None = None,
        **_: Any,
    ) -> None:
        """Train the strategy on one experience, with images loaded here; InputError for what it cannot learn from."""
        if unlabelled is not None or ignoring is not None:
            raise InputError(f"{self.method} takes neither unlabelled images nor a concept to ignore: leave them out")
        given: dict[str, Any] = {"value_range": value_range, "remembered": self.state.value_range}
        data = as_experience(images, labels, self.backbone.preprocessing, **given)
        known = (*self.state.classes, *sorted({*data.labels} - {*self.state.classes}, key=str))
        self.seen.append(data)
        self.progress, updates = progress, self.state.updates
        # Avalanche and its plugins draw from the global generators.
        with seeded(self.settings.seed, "avalanche", updates):
            if self.strategy is None:
                self.strategy = self._make()
            self.strategy.train(self._experience(known), num_workers=0)
        before, new = self.state, len(known) - len(self.state.classes)
        experience = (*before.class_experience, *[before.experiences] * new)
        self.state = State(known, experience, before.experiences + bool(new), updates + 1, value_range=data.value_range)

    def _make(self) -> Any:
        from avalanche.logging import BaseLogger
        from avalanche.training.plugins import EvaluationPlugin

        settings, model = self.settings, GrowingModel(self).to(self.device)
        groups = [
            {"params": list(model.copy.parameters()), "lr": settings.lr * settings.backbone_lr_ratio},
            {"params": list(model.classifier.parameters()), "lr": settings.lr},
        ]
        sgd = partial(torch.optim.SGD, lr=settings.lr, momentum=settings.momentum)
        kind: Any = torch.optim.Adam if settings.optimizer == "adam" else sgd
        optimizer = kind([group for group in groups if group["params"]], weight_decay=settings.weight_decay)
        own = {name: getattr(settings, name) for name in self.arguments}
        try:
            return self.strategy_type(
                model=model,
                optimizer=optimizer,
                criterion=nn.CrossEntropyLoss(),
                train_mb_size=settings.batch_size,
                train_epochs=settings.epochs,
                eval_mb_size=settings.eval_batch_size,
                device=self.device,
                plugins=[_watcher(self)],
                evaluator=EvaluationPlugin(loggers=[BaseLogger()]),  # says nothing; Avalanche warns if there is none
                **own,
            )
        except (TypeError, ValueError, AssertionError, AttributeError) as error:
            raise InputError(f"{self.method} cannot be made with {own}: {error}") from error

    def _experience(self, classes: Iterable[Any]) -> Any:
        """Return the newest experience as Avalanche's, numbered in the stream so far."""
        from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline
        from avalanche.benchmarks.scenarios.task_aware import with_task_labels
        from avalanche.benchmarks.utils import ConstantSequence, DataAttribute, as_classification_dataset
        from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset as Part

        index, parts = {label: i for i, label in enumerate(classes)}, []
        for data in self.seen:
            part = as_classification_dataset(_Indexed(data, [index[label] for label in data.labels]))
            # Some plugins ask for a task, of which there is one.
            task = DataAttribute(ConstantSequence(0, len(part)), "targets_task_labels", use_in_getitem=True)
            parts.append(Part([part.update_data_attribute("targets_task_labels", task)]))
        return with_task_labels(with_classes_timeline(benchmark_from_datasets(train=parts))).train_stream[-1]

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax over the classes seen of the strategy's model in evaluation mode."""
        model = self.strategy.model.eval()
        return Scores(model(images)[:, : len(self.state.classes)].float().softmax(-1))

    def begin(self, data: ExperienceData) -> NoReturn:
        raise InputError(f"{self.method} trains in Avalanche's own loop: call learn")

    def export(self) -> tuple[dict[str, Tensor], dict[str, Any]]:  # all that is kept beside the frozen backbone
        kept = {} if self.strategy is None else {"model": self.strategy.model, "plugins": self.strategy.plugins}
        return dict(_tensors(kept, "", set())), {}

    def save(self, path: str | Path, **rest: Any) -> None:
        raise InputError(f"{self.method} cannot be saved: its cells and their measurements are all that is kept")

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        raise InputError(f"{self.method} cannot be read from a file")

    def memory(self) -> dict[str, int]:
        """Return bytes of the model, of what the plugins hold, and of stored exemplars as pixels."""
        channels, height, width = self.backbone.preprocessing.shape
        plugins = getattr(self.strategy, "plugins", [])
        stored = sum(len(p.storage_policy.buffer) for p in plugins if hasattr(p, "storage_policy"))
        return super().memory() | ({"exemplars": stored * channels * height * width} if stored else {})


@dataclass(eq=False)
class _Indexed(Dataset[Any]):
    """An experience's training images with class indices as `targets`."""

    data: ExperienceData
    targets: list[int]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.data.training[index][0], self.targets[index]


def _tensors(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that modules, plugins and containers hold, each once; data sets are left out."""
    if id(value) in seen or isinstance(value, Dataset | IncrementalLearner | type):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield name.strip("/"), value.detach()
    elif isinstance(value, nn.Module | Mapping | list | tuple):
        if isinstance(value, nn.Module):
            inner: Any = (*value.named_parameters(), *value.named_buffers())
        else:
            inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in inner:
            yield from _tensors(item, f"{name}/{key}", seen)
    elif type(value).__module__.startswith("avalanche.") and hasattr(value, "__dict__"):
        yield from _tensors(vars(value), name, seen)


def _watcher(learner: AvalancheLearner) -> Any:
    """Return a plugin that reports progress and stops a training whose loss diverges."""
    from avalanche.core import SupervisedPlugin

    class Watcher(SupervisedPlugin):
        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            loss = float(strategy.loss.detach())
            if not math.isfinite(loss):
                raise LearningError(f"the training loss of {learner.method} became {loss}: lower lr")
            if learner.progress is not None:
                steps = strategy.train_epochs * len(strategy.dataloader)
                learner.progress("training", strategy.clock.train_exp_iterations + 1, steps, {"loss": loss})

    return Watcher()
