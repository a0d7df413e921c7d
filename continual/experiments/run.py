"""Run every method of a config over every seed, one cell at a time, and write the run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from continual import distributed
from continual.avalanche.external import AvalancheLearner, find_method
from continual.backbones.loading import Backbone, load_backbone
from continual.data.inputs import as_experience
from continual.datasets.find import load_data
from continual.datasets.streams import Stream, make_stream
from continual.errors import InputError, nearest
from continual.experiments import report
from continual.experiments.config import MethodConfig, RunConfig
from continual.experiments.cost import inference_cost, numbers_stored
from continual.experiments.pretraining import pretrained_on, untrained
from continual.experiments.provenance import cell_record, stream_digest, surroundings
from continual.experiments.results import empty_cell, measured
from continual.experiments.run_folder import CellFolder, RunFolder
from continual.experiments.transformed import answer_transformed, transformed_training
from continual.learning.checkpoints import CheckpointFolder
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.progress import Progress
from continual.lifecycle import locks
from continual.metrics.accuracy import seen_accuracy
from continual.metrics.cell import Cell
from continual.symmetry.views import group_named


def run_config(
    config: RunConfig,
    out: Path | None = None,
    progress: Progress | None = None,
    only: Sequence[str] = (),
    workers: int = 0,
) -> list[Cell]:
    """Run what is not yet in the folder `out` and return all cells; writes metrics and the picture there.

    A cell is one method with one seed. Finished cells are not run again, one in the making goes on where it
    was stopped, with the same bits, and those that another process is running are left to it. `only` names
    the methods (keys of `methods`) to run now. Several processes (see `continual.distributed`) run each cell
    together; the first writes and returns the cells, the others return nothing. Raises InputError for a folder
    of another run; nothing is written before the data and the folder have been checked.
    """
    if unknown := [label for label in only if label not in config.methods]:
        raise InputError(f"--only {unknown[0]!r}: {nearest(unknown[0], config.methods)}")
    wanted = [(seed, label) for seed in config.seeds for label in config.methods if not only or label in only]
    for _, label in wanted:
        if distributed.count() > 1 and issubclass(find_method(config.methods[label].method), AvalancheLearner):
            raise InputError(
                f"methods.{label} trains in Avalanche's own loop, in one process: name others with --only, or run it "
                f"without torchrun"
            )
    run = _Run(config, out, progress, workers)
    for seed, label in wanted:
        run.make(label, seed)
    if out is not None and not distributed.first():
        return []
    cells = [cell for seed in config.seeds for label in config.methods for cell in run.cells(label, seed)]
    if out is not None and cells:
        with locks.held(out / "report.lock", wait=True):
            report.write(config.title, cells, out)
        run.clear()
    return cells


def streams(config: RunConfig) -> dict[int, Stream]:
    """Return the stream of each seed; raises InputError if the data are not there or do not fit."""
    train, test = load_data(config.data)
    return {seed: make_stream(config.title, train, test, config.stream, seed) for seed in config.seeds}


class _Run:
    """What the cells of one call have in common."""

    def __init__(self, config: RunConfig, out: Path | None, progress: Progress | None, workers: int) -> None:
        self.config, self.progress, self.workers = config, progress, workers
        self.streams = streams(config)
        self.folder = None if out is None else RunFolder(out)
        self.data: dict[str, str] = {}
        self._backbones: dict[int, Backbone] = {}
        self._cells: dict[tuple[str, int], list[Cell]] = {}
        if self.folder is not None:
            self._check_backbone()
            if distributed.first():
                self.data = {str(seed): stream_digest(stream, progress) for seed, stream in self.streams.items()}
                self.folder.check(config, self.data)
                self.folder.claim(config, self.data, surroundings(config.device))
            self.data = distributed.first_says(self.data)

    def cells(self, label: str, seed: int) -> list[Cell]:
        """Return a finished cell and its variants, or nothing."""
        if self.folder is not None:
            return self.folder.cell(label, seed).read() or []
        return self._cells.get((label, seed), [])

    def clear(self) -> None:
        """Remove what only cells in the making need, once there are none."""
        if self.folder is not None and all(
            self.cells(label, seed) for seed in self.config.seeds for label in self.config.methods
        ):
            self.folder.clear()

    def make(self, label: str, seed: int) -> None:
        """Run a cell, unless it is finished or another process is at it."""
        if self.folder is None:
            learner, cells = self._run(label, seed, None)
            self._cells[label, seed] = cells
            return
        place = self.folder.cell(label, seed)
        if distributed.first_says(place.read() is not None):
            return
        place.lock.parent.mkdir(parents=True, exist_ok=True)
        with _held_by_the_first(place.lock) as mine:
            if not mine:
                self._say(f"{label}, seed {seed}, is left to {locks.owner(place.lock)}")
            elif distributed.first_says(place.read() is None):
                learner, cells = self._run(label, seed, place)
                if distributed.first():
                    data = self.data[str(seed)]
                    place.finish(cells, cell_record(learner, self.streams[seed], data, self.config.device))

    def _run(self, label: str, seed: int, place: CellFolder | None) -> tuple[IncrementalLearner[Any], list[Cell]]:
        backbone = self._backbone(seed)
        return run_cell(
            label,
            self.config.methods[label],
            backbone,
            self.streams[seed],
            seed,
            self.config.device,
            self.progress,
            self.workers,
            place,
            self.config.turned,
            self.config.train_turned,
        )

    def _say(self, note: str) -> None:
        if self.progress is not None:
            self.progress(note, 1, 1, {})

    def _check_backbone(self) -> None:
        """Let a backbone that cannot be made, or a method that cannot use it, fail before anything is written."""
        wanted = self.config.backbone
        if wanted.pretrain is None:
            check_methods(self.config, self._backbone(self.config.seeds[0]))
        elif wanted.name is not None:
            check_methods(self.config, untrained(wanted))

    def _backbone(self, seed: int) -> Backbone:
        wanted = self.config.backbone
        if wanted.pretrain is None:
            if not self._backbones:
                self._backbones[seed] = load_backbone(
                    wanted.name, weights=wanted.weights, **wanted.args, **wanted.preprocessing
                )
            return next(iter(self._backbones.values()))
        if seed not in self._backbones:
            place = None if self.folder is None else self.folder.shared(f"backbone-{seed}")
            if place is not None:
                place.mkdir(parents=True, exist_ok=True)
            with distributed.first_goes_ahead(), locks.held(place / "lock", wait=True) if place else nullcontext():
                kept = CheckpointFolder(place) if place else None
                first = self.streams[seed].experiences[0]
                self._backbones[seed] = pretrained_on(first, wanted, seed, self.progress, kept)
        return self._backbones[seed]


def check_methods(config: RunConfig, backbone: Backbone) -> None:
    """Raise BackboneError for a method that cannot use the backbone."""
    for row in config.methods.values():
        find_method(row.method)(backbone, **row.make_settings().model_dump())


def run_cell(
    label: str,
    config: MethodConfig,
    backbone: Backbone,
    stream: Stream,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
    workers: int = 0,
    place: CellFolder | None = None,
    turned: Sequence[str] = (),
    train_turned: str | None = None,
) -> tuple[IncrementalLearner[Any], list[Cell]]:
    """Learn a stream once; return the learner, and one cell for the method and one for each variant of its inference.

    Test images are answered as they are, and transformed by random elements of the groups `turned`; training images
    are transformed by elements of `train_turned`.
    With a `place` the work is kept there after every epoch, experience and evaluation, and goes on from there.
    """
    settings = config.make_settings(seed=seed).model_dump()
    learner = find_method(config.method)(backbone, device=device, **settings)
    resumable = not isinstance(learner, AvalancheLearner)
    place = place if resumable else None
    cache = FeatureCache()
    rows = {label: {}, **{f"{label}, {name}": changes for name, changes in config.variants.items()}}
    groups = {group: group_named(group).order for group in turned}
    cells = [
        empty_cell(name, learner.method, seed, {**settings, **rows[name]}, backbone, stream, groups) for name in rows
    ]
    experiences = [as_experience(e.train_images, e.train_labels, backbone.preprocessing) for e in stream.experiences]
    if train_turned is not None:
        experiences = [transformed_training(e, k, train_turned, seed) for k, e in enumerate(experiences)]
    learned = evaluated = 0
    seconds, waited = 0.0, _Waited(progress)
    if place is not None:
        found = place.resume(learner, cache)
        learned, evaluated, seconds = found.learned, len(found.evaluations), found.seconds
        cells = [replace(cell, evaluations=tuple(e[n] for e in found.evaluations)) for n, cell in enumerate(cells)]
        learner.recall(experiences[:learned])
    distributed.agree((learned, evaluated), "checkpoints")
    for number in range(evaluated, len(experiences)):
        waited.place, waited.share = f"{label}, seed {seed}, experience {number + 1}/{len(experiences)}: ", None
        if number == learned:
            started, epochs = time.perf_counter(), None if place is None else place.training(number)
            learner.learn(experiences[number], progress=waited, workers=workers, checkpoints=epochs)
            seconds = time.perf_counter() - started if epochs is None else epochs.seconds()
            if resumable:
                _settle(learner, experiences[: number + 1])
            if place is not None:
                place.keep_learned(number + 1, learner, seconds)
        for index, changes in enumerate(rows.values()):
            started = time.perf_counter()
            judged = learner.variant(**changes) if changes else learner
            known = stream.experiences[: number + 1]
            asked: dict[str, Any] = {"cache": cache, "workers": workers, "progress": waited}
            predictions = [judged.predict(e.test_images, **asked) for e in known]
            evaluation_seconds = time.perf_counter() - started
            seconds_an_image, passes = inference_cost(judged, known)
            cells[index] = measured(
                cells[index],
                predictions,
                stream,
                learning_seconds=seconds,
                evaluation_seconds=evaluation_seconds,
                memory=judged.memory(),
                inference_seconds=seconds_an_image,
                passes=passes,
                parameters=numbers_stored(judged),
                waiting=waited.share,
                transformed={group: answer_transformed(judged, group, seed, known, **asked) for group in groups},
            )
        learned = number + 1
        if place is not None:
            place.keep_evaluated(learned, cells, cache)
        if progress is not None:
            shown = {"accuracy": seen_accuracy(cells[0])[-1]}
            progress(f"{label}, seed {seed}", number + 1, len(experiences), shown)
    return learner, cells


def _settle(learner: IncrementalLearner[Any], seen: Sequence[Any]) -> None:
    """Lay the learner's tensors out in memory as if they came from a file, which the first process writes.

    How a tensor lies there may decide how sums over it are rounded; so a run that was stopped and one that
    was not have the same bits.
    """
    tensors, values = distributed.first_says(learner.export())
    learner.restore({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, values)
    learner.recall(seen)


@contextmanager
def _held_by_the_first(lock: Path) -> Iterator[bool]:
    """Let the first process hold a lock for all; yield whether it does."""
    with locks.held(lock) if distributed.first() else nullcontext(False) as mine:
        yield distributed.first_says(mine)


class _Waited:
    """Passes an experience's progress on, and notes the share of the training that waited for images."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.place = progress, ""
        self.share: float | None = None

    def __call__(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        self.share = figures.get("waiting", self.share)
        if self.progress is not None:
            self.progress(self.place + stage, done, total, figures)
