"""The learner's own training loop; Avalanche's makes the same calls in the same order."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from continual import distributed
from continual.data.inputs import Label
from continual.data.loaders import label_indices, training_loader
from continual.distributed import Rows
from continual.learning.training import Checkpoints, GradientTraining, Output, Progress, Training


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
    training: Training[Any], progress: Progress | None = None, workers: int = 0, checkpoints: Checkpoints | None = None
) -> None:
    """The learner's own training loop; Avalanche's makes the same calls in the same order."""
    training.workers = workers
    if not isinstance(training, GradientTraining) or training.epochs == 0:
        return
    settings, device = training.settings, training.device
    data, number = training.training_images(progress), training.before.updates
    loader, sampler = training_loader(
        data, settings.batch_size, settings.seed, number, own_rows=True, num_workers=workers
    )
    optimizer = training.make_optimizer()
    scheduler = training.make_scheduler(optimizer)
    done, live = 0, training.live_tensors()
    if checkpoints is not None and (found := checkpoints.latest()) is not None:
        done = found[0]
        go_back(found[1], live, optimizer, scheduler)
    distributed.agree(done, "checkpoints")
    steps, data_time = training.epochs * len(loader), DataTime()
    for epoch in range(done, training.epochs):
        sampler.epoch = epoch
        training.start_epoch(epoch)
        for step, (images, labels) in enumerate(data_time.over(loader)):
            whole = min(settings.batch_size, len(sampler) - step * settings.batch_size)
            loss = training.loss(*_forward(training, images.to(device), labels, distributed.rows_of(whole)))
            training.check_loss(loss)
            optimizer.zero_grad()
            loss.backward()
            distributed.average_gradients(p for group in optimizer.param_groups for p in group["params"])
            optimizer.step()
            training.after_step()
            if progress is not None:
                figures = {"loss": float(loss.detach()), "waiting": data_time.share()}
                progress("training", epoch * len(loader) + step + 1, steps, figures)
        scheduler.step()
        if checkpoints is not None:
            checkpoints.keep(epoch + 1, snapshot(live, optimizer, scheduler))


class DataTime:
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
        mine = training.observed(images)
    if rows is None:
        return mine, labels
    targets = distributed.joined(label_indices(labels, training.index), rows)
    output = mine.map(lambda tensor: distributed.joined(tensor, rows))
    return output, [training.classes[target] for target in targets.tolist()]
