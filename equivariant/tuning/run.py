"""The training loop of `tuning`: stages, early stopping, and a checkpoint from which it resumes to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from equivariant.actions import Action
from equivariant.checks.evaluation import Data, as_dataset, batches, score, size_of
from equivariant.errors import InputError
from equivariant.files import written
from equivariant.groups import FiniteGroup
from equivariant.orbits import act_each, random_elements
from equivariant.parts.surgery import device_of
from equivariant.tuning import upright
from equivariant.tuning.heads import fit_head, views_at
from equivariant.tuning.recipes import Recipe, Stage
from equivariant.tuning.result import Record

#: how many times fewer views a record must finish to be better for that alone
FEWER = 1.1

#: progress(what, steps done, steps in all, figures)
Progress = Callable[[str, int, int, dict[str, float]], None]
Turn = Callable[[Tensor, torch.Generator], Tensor]


def random_turns(group: FiniteGroup, action: Action) -> Turn:
    """Return what transforms every image of a batch by a random element."""
    return lambda images, generator: act_each(group, random_elements(group, len(images), generator), images, action)


class Run:
    """A tuning under way: all that a checkpoint must hold."""

    def __init__(
        self, model: nn.Module, group: FiniteGroup, recipe: Recipe, path: Path | None, progress: Progress | None
    ) -> None:
        self.model, self.group, self.recipe, self.path, self.progress = model, group, recipe, path, progress
        self.stage = self.step = 0
        self.history: list[Record] = []
        self.best: dict[str, Tensor] = {}  #: the state at the best record of this stage
        self.touched: set[str] = set()  #: names of all that training has changed so far
        self.loaded: dict[str, Tensor] = {}  #: the optimizer's state, when resuming
        shapes = {name: list(tensor.shape) for name, tensor in model.named_parameters()}
        self.signature = json.loads(json.dumps([asdict(recipe), group.fingerprint, shapes]))

    def train(self, trained: list[nn.Parameter], training: Data, held_out: Data, turn: Turn | None) -> None:
        """Run or resume the present stage, and leave the model at its best; `turn` transforms each batch first."""
        self.touched |= _changing(self.model)
        optimizer = _optimizer(self.recipe.stages[self.stage], trained)
        if self.loaded:
            _load_optimizer(optimizer, self.loaded)
        elif self.step == 0:
            self._validate(held_out, None)
        try:
            self._steps(optimizer, training, held_out, turn)
        finally:
            self.model.load_state_dict(self.best, strict=False)
        self._end()

    def _end(self) -> None:
        """Leave the model at the best of this stage, and go on to the next."""
        self.model.load_state_dict(self.best, strict=False)
        self.stage, self.step, self.best, self.loaded = self.stage + 1, 0, {}, {}
        self._save(None)

    def fit(self, head: nn.Linear, training: Data, held_out: Data, action: Action) -> None:
        """Fit the head on every view, in place of this stage's steps; keep the one before if that is better."""
        self.touched |= _changing(self.model)
        self._validate(held_out, None)
        found = fit_head(
            *views_at(head, self.model, self.group, action, training, self.recipe.batch_size), head.out_features
        )
        with torch.no_grad():
            head.weight.copy_(found.weight)
            assert head.bias is not None
            head.bias.copy_(found.bias)
        self.step = 1
        self._validate(held_out, None)
        if self.progress is not None:
            self.progress("fit_head", 1, 1, {"accuracy": self.history[-1].validation_accuracy})
        self._end()

    def _steps(self, optimizer: torch.optim.Optimizer, training: Data, held_out: Data, turn: Turn | None) -> None:
        stage = self.recipe.stages[self.stage]
        order = _order(size_of(as_dataset(training)), self.recipe, self.stage)[self.step :]
        losses: list[float] = []
        for images, labels in batches(training, device_of(self.model), order=order):
            if self._stale() >= self.recipe.patience:
                return
            # Seeded by the step, so that a tuning that is resumed draws the same numbers.
            generator = torch.manual_seed(self.recipe.seed * 1_000_003 + self.stage * 500_009 + self.step)
            if stage.train == "upright":
                loss = upright.loss(upright.wrapper_of(self.model), images)
            else:
                scores = self.model(images if turn is None else turn(images, generator))
                loss = functional.cross_entropy(scores.float(), labels)
            if not loss.isfinite():
                raise InputError(
                    f"the loss became {loss.item()} at step {self.step} of stage {self.stage} ({stage.train}): lower "
                    f"its learning_rate, now {stage.learning_rate:g}; the model is at its best so far"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.step += 1
            losses.append(loss.item())
            if self.progress is not None:
                self.progress(stage.train, self.step, stage.steps, {"loss": losses[-1]})
            if self.step % self.recipe.validate_every == 0 or self.step == stage.steps:
                self._validate(held_out, sum(losses) / len(losses))
                losses = []
                self._save(optimizer)

    def _validate(self, held_out: Data, loss: float | None) -> None:
        scorer = upright.score if self.recipe.stages[self.stage].train == "upright" else score
        found = scorer(self.model, held_out, self.recipe.batch_size)
        record = Record(self.stage, self.step, loss, found.loss, found.accuracy, found.passes, found.finished)
        self.history.append(record)
        if self._stale() == 0:
            self.best = {name: tensor.clone() for name, tensor in self._state().items()}

    def _stale(self) -> int:
        """Return how many records ago this stage was at its best."""
        records = [record for record in self.history if record.stage == self.stage]
        best = 0
        for number, record in enumerate(records):
            best = number if _better(record, records[best]) else best
        return len(records) - 1 - best

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.model.state_dict().items() if name in self.touched}

    def _save(self, optimizer: torch.optim.Optimizer | None) -> None:
        if self.path is None:
            return
        tensors = {f"model/{name}": tensor for name, tensor in self._state().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        if optimizer is not None:
            for number, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{number}/{key}": torch.as_tensor(value) for key, value in state.items()}
        history = [asdict(record) for record in self.history]
        values = {"stage": self.stage, "step": self.step, "history": history, "signature": self.signature}
        _write(self.path, tensors, values)

    def resume(self) -> None:
        """Resume from the checkpoint, if there is one; raises InputError if it is of another tuning."""
        if self.path is None or not self.path.exists():
            return
        tensors, values = _read(self.path)
        if values["signature"] != self.signature:
            raise InputError(
                f"{self.path} is the checkpoint of another recipe, group or model: choose another folder, or delete it"
            )
        state = _part(tensors, "model")
        self.model.load_state_dict(state, strict=False)
        self.stage, self.step, self.touched = values["stage"], values["step"], set(state)
        self.history = [Record(**record) for record in values["history"]]
        self.best, self.loaded = _part(tensors, "best"), _part(tensors, "optimizer")


def _better(one: Record, other: Record) -> bool:
    """Whether to keep a record rather than one before it: by far fewer views finished, else accuracy, else loss.

    While a network scores all views alike, the views of a tie are all finished, and answer together: more accurately
    than the few that were asked for, at the price that choosing shall save. Such a record is none to come back to.
    """
    if max(one.finished, other.finished) > FEWER * min(one.finished, other.finished):
        return one.finished < other.finished
    keys = [(r.validation_accuracy, -r.validation_loss if isfinite(r.validation_loss) else -inf) for r in (one, other)]
    return keys[0] > keys[1]


def _write(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all: an interrupted write leaves the one that was there."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as place:
        # Cloned, because a safetensors file cannot hold tensors that share memory.
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(plain, place, metadata={"equivariant": json.dumps(values)})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, values) of a checkpoint; raises InputError if it is damaged.

    It is read and not mapped to memory: a mapped file that another process cuts short kills this one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return tensors, json.loads(header["__metadata__"]["equivariant"])
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged or no checkpoint ({error}): delete it to start again") from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def _changing(model: nn.Module) -> set[str]:
    """Return the names of what training may change: trained parameters, and buffers."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return trained | {name for name, _ in model.named_buffers()}


def _order(count: int, recipe: Recipe, stage: int) -> list[list[int]]:
    """Return the indices of every batch of a stage: epochs in random orders that depend on the seed alone."""
    generator = torch.Generator().manual_seed(recipe.seed * 1009 + stage)
    order: list[list[int]] = []
    while len(order) < recipe.stages[stage].steps:
        epoch = torch.randperm(count, generator=generator).tolist()
        order += [epoch[start : start + recipe.batch_size] for start in range(0, count, recipe.batch_size)]
    return order[: recipe.stages[stage].steps]


def _optimizer(stage: Stage, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": stage.learning_rate, "weight_decay": stage.weight_decay}
    if stage.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=stage.momentum, **options)
    return torch.optim.AdamW(parameters, **options)


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
