"""Run every method of a config over every seed, one cell at a time, and write the run folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from continual import distributed
from continual.avalanche.external import AvalancheLearner, find_method
from continual.backbones.joined import side_by_side
from continual.backbones.loading import Backbone, load_backbone
from continual.data.checked_files import remembered
from continual.data.inputs import as_experience
from continual.datasets.streams import Stream, read_streams
from continual.errors import InputError, nearest
from continual.experiments import report
from continual.experiments.config import MethodConfig, RunConfig
from continual.experiments.prepared import PreparedOnce
from continual.experiments.pretraining import pretrained_on, untrained
from continual.experiments.provenance import cell_record, stream_digest, surroundings
from continual.experiments.results import empty_cell, inference_cost, measured
from continual.experiments.run_folder import CellFolder, RunFolder
from continual.experiments.timing import Clock, Waited, waiting
from continual.experiments.trackers.base import Tracker
from continual.experiments.transformed import answer_transformed, transformed_training
from continual.learning.checkpoints import CheckpointFolder
from continual.learning.extractor import Progress
from continual.learning.feature_cache import FeatureCache
from continual.learning.feature_store import READABLE, FeatureStore
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import Settings
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
    store: FeatureStore | None = None,
    tracker: Tracker | None = None,
) -> list[Cell]:
    """Run what is not yet in the folder `out` and return all cells; writes metrics and the picture there.

    A cell is one method with one seed. Finished cells are not run again, unfinished ones resume where they stopped,
    with the same bits, and those that another process runs are left to it. `only` names the methods (keys of
    `methods`) to run now; without `out` the folder is a temporary one. Several processes (see `continual.distributed`)
    run each cell together; the first writes and returns the cells, the others return nothing. Frozen features are taken
    from a `store`, and kept there; times are then as if they had been computed. A `tracker`
    gets every cell that is finished now. Raises InputError for a folder of another run; nothing is written before the
    data and the folder have been checked.
    """
    if unknown := [label for label in only if label not in config.methods]:
        raise InputError(f"--only {unknown[0]!r}: {nearest(unknown[0], config.methods)}")
    wanted = [label for label in config.methods if not only or label in only]
    for label in wanted:
        if distributed.count() > 1 and issubclass(find_method(config.methods[label].method), AvalancheLearner):
            raise InputError(
                f"methods.{label} trains in Avalanche's own loop, in one process: name others with --only, or run it "
                f"without torchrun"
            )
    with TemporaryDirectory() if out is None else nullcontext(out) as folder:
        run = _Run(config, RunFolder(Path(folder)), progress, workers, store)
        for seed, label in product(config.seeds, wanted):
            for cell in run.make(label, seed):
                if tracker is not None and distributed.first():
                    tracker.log(cell, config.title)
        return finished(config, run.folder, out) if distributed.first() else []


def finished(config: RunConfig, folder: RunFolder, out: Path | None) -> list[Cell]:
    """Return the finished cells of a run, and write its metrics and picture to `out`."""
    found = [folder.cell(label, seed).read() for seed, label in product(config.seeds, config.methods)]
    cells = [cell for part in found for cell in part or ()]
    if out is not None and cells:
        with locks.held(out / "report.lock", wait=True):
            report.write(config.title, cells, out)
        if all(found):
            shutil.rmtree(folder.work, ignore_errors=True)
    return cells


def make_cell(config: RunConfig, out: Path, label: str, seed: int, workers: int = 0, store: bool = True) -> bool:
    """Run one cell of the run folder `out`, from where it was stopped, and return whether it is finished.

    It is not where another process is at it. `store` says whether frozen features are shared with other cells.
    """
    run = _Run(config, RunFolder(out), None, workers, FeatureStore() if store else None)
    run.make(label, seed)
    return run.folder.cell(label, seed).read() is not None


def streams(config: RunConfig) -> dict[int, Stream]:
    """Return the stream of each seed; raises InputError if the data are not there or do not fit."""
    return read_streams(config.title, config.data, config.stream, config.seeds)


class _Run:
    """What the cells of one call have in common."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, progress: Progress | None, workers: int, store: FeatureStore | None
    ) -> None:
        self.config, self.folder, self.progress, self.workers, self.store = config, folder, progress, workers, store
        checked = None if store is None else store.folder / READABLE
        with waiting(progress, "loading the data"), remembered(checked):
            self.streams = streams(config)
        self.prepared = PreparedOnce()
        self._backbones: dict[int, Backbone] = {}
        # A backbone that cannot be made, or a method that cannot use it, fails before anything is written.
        with waiting(progress, "loading the backbone"):
            first = untrained(config.networks[0]) if config.pretrain else self._backbone(config.seeds[0])
        config.data.for_channels(first.preprocessing.channels)
        check_methods(config, first)
        data: dict[str, str] = {}
        if distributed.first():
            data = {str(seed): stream_digest(stream, progress) for seed, stream in self.streams.items()}
            folder.claim(config, data, surroundings(config.device))
        self.data = distributed.first_says(data)

    def make(self, label: str, seed: int) -> list[Cell]:
        """Run a cell, unless it is finished or another process is at it; return it and its variants, or nothing."""
        config, stream, place = self.config, self.streams[seed], self.folder.cell(label, seed)
        if distributed.first_says(place.read() is not None):
            return []
        place.lock.parent.mkdir(parents=True, exist_ok=True)
        with _held_by_the_first(place.lock) as mine:
            if not mine:
                if self.progress is not None:
                    self.progress(f"{label}, seed {seed}, is left to {locks.owner(place.lock)}", 1, 1, {})
                return []
            if distributed.first_says(place.read() is not None):
                return []
            how = config.device, self.progress, self.workers, place, config.transformed, config.train_transformed
            learner, cells = run_cell(
                label, config.methods[label], self._backbone(seed), stream, seed, *how, store=self.store,
                prepared=self.prepared,
            )  # fmt: skip
            if distributed.first():
                place.finish(cells, cell_record(learner, stream, self.data[str(seed)], config.device))
            return cells

    def _backbone(self, seed: int) -> Backbone:
        networks = self.config.networks
        seed = self.config.seeds[0] if self.config.pretrain is None else seed  # what is not trained serves all seeds
        if seed in self._backbones:
            return self._backbones[seed]
        if self.config.pretrain is None:
            made = side_by_side(
                [load_backbone(own.name, weights=own.weights, **own.args, **own.preprocessing) for own in networks]
            )
        else:
            place, first = self.folder.work / f"backbone-{seed}", self.streams[seed].experiences[0]
            place.mkdir(parents=True, exist_ok=True)
            with distributed.first_goes_ahead(), locks.held(place / "lock", wait=True):
                given = first, networks[0], seed, self.progress, CheckpointFolder(place)
                made = pretrained_on(*given, value_range=self.streams[seed].value_range)
        return self._backbones.setdefault(seed, made)


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
    transformed: Sequence[str] = (),
    train_transformed: str | None = None,
    store: FeatureStore | None = None,
    prepared: PreparedOnce | None = None,
) -> tuple[IncrementalLearner[Any], list[Cell]]:
    """Learn a stream once; return the learner, and one cell for the method and one for each variant of its inference.

    Test images are answered as they are, and moved by random elements of the groups `transformed`; training images by
    elements of `train_transformed`.
    With a `place` the work is kept there after every epoch, experience and evaluation, and resumes from there. Frozen
    features are taken from a `store`, and kept there; what computing them took is added to the times. Images are
    `prepared` once for all cells that share that; `inference_seconds`, of the last experience alone, are of images
    that are opened all the same.
    """
    prepared = prepared or PreparedOnce()
    settings = config.make_settings(seed=seed).model_dump()
    learner = find_method(config.method)(backbone, device=device, **settings)
    learner.store = store
    resumable = not isinstance(learner, AvalancheLearner)
    place = place if resumable else None
    cache, waited = FeatureCache(), Waited(progress)
    rows = {label: {}, **{f"{label}, {name}": changes for name, changes in config.variants.items()}}
    groups = {group: group_named(group).order for group in transformed}
    cells = [empty_cell(n, learner.method, seed, {**settings, **rows[n]}, backbone, stream, **groups) for n in rows]
    meant: dict[str, Any] = {"value_range": stream.value_range}
    experiences = [
        as_experience(e.train_images, e.train_labels, learner.preprocessing, **meant) for e in stream.experiences
    ]
    experiences = [prepared.evaluated(e) for e in experiences]
    if train_transformed is not None:
        experiences = [transformed_training(e, k, train_transformed, seed) for k, e in enumerate(experiences)]
    learned, evaluated, seconds = 0, 0, 0.0
    if place is not None:
        learned, seconds, found = place.resume(learner, cache)
        evaluated = len(found)
        cells = [replace(cell, evaluations=tuple(e[n] for e in found)) for n, cell in enumerate(cells)]
        learner.recall(experiences[:learned])
    distributed.agree((learned, evaluated), "checkpoints")
    asked: dict[str, Any] = {"cache": cache, "workers": workers, "progress": waited}
    for number in range(evaluated, len(experiences)):
        waited.place, waited.share = f"{label}, seed {seed}, experience {number + 1}/{len(experiences)}: ", None
        if number == learned:
            clock, epochs = Clock(store, prepared), None if place is None else place.training(number)
            learner.learn(experiences[number], progress=waited, workers=workers, checkpoints=epochs)
            seconds = clock.seconds() if epochs is None else epochs.seconds() + clock.saved()
            if resumable:
                _settle(learner, experiences[: number + 1])
            if place is not None:
                place.keep_learned(number + 1, learner, seconds)
        known = stream.experiences[: number + 1]
        for index, changes in enumerate(rows.values()):
            clock = Clock(store, prepared)
            judged = learner.variant(**changes) if changes else learner
            own = {**asked, "cache": None} if changes.keys() & Settings.of_features else asked
            predictions = [judged.predict(prepared.asked(e, judged), **own) for e in known]
            costs: dict[str, Any] = {"evaluation_seconds": clock.seconds(), "learning_seconds": seconds}
            costs["inference_seconds"], costs["passes"] = inference_cost(
                judged, known, timed=number + 1 == len(experiences)
            )
            costs["parameters"] = sum(tensor.numel() for tensor in judged.export()[0].values())
            others = {group: answer_transformed(judged, group, seed, known, **own) for group in groups}
            costs |= {"memory": judged.memory(), "waiting": waited.share}
            cells[index] = measured(cells[index], predictions, stream, transformed=others, **costs)
        learned = number + 1
        if store is not None:
            store.flush()
        if place is not None:
            place.keep_evaluated(learned, cells, cache)
        if progress is not None:
            shown = {"accuracy": seen_accuracy(cells[0])[-1]}
            progress(f"{label}, seed {seed}", learned, len(experiences), shown)
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
