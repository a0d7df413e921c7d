"""Run every method of a config over every seed, one cell at a time, and write the run folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from continual.artefact import versions
from continual.backbones import Backbone, load_backbone
from continual.bench import report
from continual.bench.config import MethodConfig, RunConfig
from continual.bench.cost import inference_seconds, numbers_stored
from continual.bench.pretraining import pretrained_on
from continual.bench.results import Cell
from continual.bench.sources import load_data
from continual.bench.streams import Stream, split_classes
from continual.errors import InputError, nearest
from continual.feature_cache import FeatureCache
from continual.methods import method
from continual.training import Progress


def run_config(
    config: RunConfig,
    out: Path | None = None,
    progress: Progress | None = None,
    only: Sequence[str] = (),
) -> list[Cell]:
    """Run what is not yet in the folder `out` and return all cells; writes metrics and the picture there.

    A cell is one method with one seed. A folder holds cells of one config only; cells that are there are
    not run again, so an interrupted run goes on with the same command. `only` names the methods (keys of
    `methods`) to run now, so that several processes can share a folder. Raises InputError for a folder of
    another run.
    """
    if unknown := [label for label in only if label not in config.methods]:
        raise InputError(f"--only {unknown[0]!r}: {nearest(unknown[0], config.methods)}")
    if out is not None:
        _claim(out, config)
    train, test = load_data(config.data)
    cells: list[Cell] = []
    for seed in config.seeds:
        wanted = config.stream
        stream = split_classes(
            config.title,
            train,
            test,
            sizes=wanted.classes,
            seed=seed,
            per_class=wanted.per_class,
            max_classes=wanted.max_classes,
        )
        backbone: Backbone | None = None
        for label, row in config.methods.items():
            found = _read(out, label, seed)
            if found is None and (not only or label in only):
                backbone = backbone or _backbone(config, stream, seed, progress)
                found = list(run_cell(label, row, backbone, stream, seed, config.device, progress))
                _write(out, label, seed, found)
            cells += found or []
    if out is not None and cells:
        report.write(config.title, cells, out)
    return cells


def run_cell(
    label: str,
    config: MethodConfig,
    backbone: Backbone,
    stream: Stream,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Iterator[Cell]:
    """Learn a stream once; yield one cell for the method and one for each variant of its inference."""
    settings = config.make_settings(seed=seed).model_dump()
    learner = method(config.method)(backbone, device=device, **settings)
    cache = FeatureCache()
    rows = {label: {}, **{f"{label}, {name}": changes for name, changes in config.variants.items()}}
    cells = {name: Cell.empty(name, config.method, seed, {**settings, **rows[name]}, backbone, stream) for name in rows}
    for number, experience in enumerate(stream.experiences):
        place = f"{label}, seed {seed}, experience {number + 1}/{len(stream.experiences)}: "
        inner = _prefixed(progress, place)
        started = time.perf_counter()
        learner.learn(experience.train_images, experience.train_labels, progress=inner)
        learned = time.perf_counter() - started
        for name, changes in rows.items():
            started = time.perf_counter()
            judged = learner.variant(**changes) if changes else learner
            known = stream.experiences[: number + 1]
            predictions = [judged.predict(e.test_images, cache=cache) for e in known]
            seconds = learned, time.perf_counter() - started
            cells[name].add(
                predictions,
                stream,
                *seconds,
                judged.memory(),
                inference_seconds=inference_seconds(judged, known),
                parameters=numbers_stored(judged),
            )
        if progress is not None:
            shown = {"accuracy": cells[label].seen_accuracy()[-1]}
            progress(f"{label}, seed {seed}", number + 1, len(stream.experiences), shown)
    yield from cells.values()


def _prefixed(progress: Progress | None, place: str) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, done, total, figures: progress(place + stage, done, total, figures)


def _backbone(config: RunConfig, stream: Stream, seed: int, progress: Progress | None) -> Backbone:
    wanted = config.backbone
    if wanted.pretrain is not None:
        return pretrained_on(stream.experiences[0], wanted, seed, progress)
    return load_backbone(wanted.name, weights=wanted.weights, **wanted.args, **wanted.preprocessing)


def _claim(out: Path, config: RunConfig) -> None:
    """Make the run folder, or check that it is this config's."""
    record = {"config": config.model_dump(mode="json"), "versions": versions(), "device": _device(config.device)}
    file = out / "run.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if file.exists():
            if json.loads(file.read_text())["config"] != record["config"]:
                raise InputError(f"{out} holds a run with other settings: choose another --out, or delete it")
            return
        if any(out.iterdir()):
            raise InputError(f"{out} is not empty and not a run folder: choose another --out")
        _write_json(file, record)
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise InputError(f"cannot use {out} as a run folder: {error}") from error


def _device(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {"name": name, "threads": torch.get_num_threads(), "cores": os.cpu_count()}


def _file(out: Path, label: str, seed: int) -> Path:
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in label)
    return out / "cells" / f"{safe}-{seed}.json"


def _read(out: Path | None, label: str, seed: int) -> list[Cell] | None:
    if out is None or not (file := _file(out, label, seed)).is_file():
        return None
    return [Cell(**values) for values in json.loads(file.read_text())]


def _write(out: Path | None, label: str, seed: int, cells: list[Cell]) -> None:
    if out is not None:
        _file(out, label, seed).parent.mkdir(exist_ok=True)
        _write_json(_file(out, label, seed), [vars(cell) for cell in cells])


def _write_json(path: Path, values: Any) -> None:
    """Write atomically, so that a killed run leaves no half a file."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    temporary.replace(path)
