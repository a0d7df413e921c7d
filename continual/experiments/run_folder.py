"""The folder of a run: what it is of, its finished cells, and those that are unfinished; and all of it read back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from continual import distributed, files
from continual.console import named
from continual.errors import InputError
from continual.experiments.config import RunConfig, current_keys
from continual.learning import checkpoints
from continual.learning.checkpoints import CheckpointFolder
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.metrics import measures
from continual.metrics.cell import Cell, Evaluation


class RunFolder:
    """`run.json` says what the run is; `cells/`, `records/` and `work/` hold one entry per method and seed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / "work"  #: also for what cells share while they are made, such as a pretrained backbone

    def claim(self, config: RunConfig, data: Mapping[str, str], here: Mapping[str, Any]) -> None:
        """Make the folder, or add what is new to it; `here` describes this machine.

        `data` are the hashes of each seed's stream. The settings must be those of the run that is there; seeds and
        methods may have been added. Raises InputError if the folder is of something else; then nothing is written.
        """
        file = self.path / "run.json"
        values = {"config": config.model_dump(mode="json"), "data": dict(data), "begun": dict(here)}
        try:
            there = json.loads(file.read_text())
            before, known, values["begun"] = current_keys(there["config"]), there["data"], there["begun"]
        except FileNotFoundError:
            if self.path.exists() and (not self.path.is_dir() or any(p.name[0] != "." for p in self.path.iterdir())):
                if file.is_file():  # another process has made it meanwhile
                    return self.claim(config, data, here)
                raise InputError(f"{self.path} is not empty and not a run folder: choose another --out") from None
            self.path.mkdir(parents=True, exist_ok=True)
            files.write_json(file, values)
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cannot use {self.path} as a run folder: {error!r}: choose another --out") from error
        if problems := differences(before, values["config"]):
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise InputError(
                f"{self.path} holds a run with other settings: {'; '.join(problems[:5])}{more}: choose another --out, "
                f"or delete it"
            )
        if changed := [seed for seed, digest in data.items() if known.get(seed, digest) != digest]:
            raise InputError(
                f"the images have changed since the run in {self.path} began (seed {', '.join(changed)}): choose "
                f"another --out, or put them back"
            )
        if values != there:
            files.write_json(file, values)

    def cell(self, label: str, seed: int) -> CellFolder:
        """Return the place of one method with one seed."""
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in label)
        mark = "" if safe == label else f"-{sha256(label.encode()).hexdigest()[:4]}"
        return CellFolder(self.path, f"{safe}{mark}-{seed}")


def differences(before: Any, after: Any, place: str = "") -> list[str]:
    """Say in which keys two configs differ; seeds and methods may be added.

    >>> differences({"a": {"b": 1, "c": 2}, "seeds": [1]}, {"a": {"b": 3, "c": 2}, "seeds": [2, 1]})
    ['a.b is 1 there, 3 now']
    """
    if isinstance(before, dict) and isinstance(after, dict):
        keys = before if place == "methods" else {**before, **after}
        prefix = f"{place}." if place else ""
        pairs = [(f"{prefix}{key}", before.get(key, "absent"), after.get(key, "absent")) for key in keys]
        return [line for inner, old, new in pairs for line in differences(old, new, inner)]
    if before == after or (place == "seeds" and set(before) <= set(after)):
        return []
    return [f"{place} is {before} there, {after} now"]


class CellFolder:
    """One method with one seed: `cells/NAME.json` when it is finished, `work/NAME/` until then.

    The latter holds, one file each: the learner after the last two experiences, the measurements and the newly
    remembered features after each evaluation, and the training of the experience that is being learned after its last
    two epochs. Of several processes all read, and the first writes.
    """

    def __init__(self, run: Path, name: str) -> None:
        self.file, self.record = run / "cells" / f"{name}.json", run / "records" / f"{name}.json"
        self.work, self.lock = run / "work" / name, run / "work" / f"{name}.lock"
        self._learned = CheckpointFolder(self.work, "learned")

    def read(self) -> list[Cell] | None:
        """Return the cell and its variants if they are finished; raises InputError for a damaged file."""
        return read_cells(self.file) if self.file.exists() else None

    def finish(self, cells: Sequence[Cell], record: Mapping[str, Any]) -> None:
        """Write the finished cell and remove what it was made from."""
        for place, text in (
            (self.record, files.json_text(record)),
            (self.file, json.dumps([cell.to_json() for cell in cells]) + "\n"),  # it holds long lists
        ):
            place.parent.mkdir(exist_ok=True)
            files.write_text(place, text)
        shutil.rmtree(self.work, ignore_errors=True)

    def training(self, number: int) -> CheckpointFolder:
        """Return where the epochs of experience `number` (from 0) are kept."""
        return CheckpointFolder(self.work / f"experience-{number}", "epoch")

    def keep_learned(self, number: int, learner: IncrementalLearner[Any], seconds: float) -> None:
        """Keep the learner after `number` experiences, the last of which took so long."""
        if distributed.first():
            self._learned.keep(number, (learner.export(), seconds))
            shutil.rmtree(self.work / f"experience-{number - 2}", ignore_errors=True)

    def keep_evaluated(self, number: int, cells: Sequence[Cell], cache: FeatureCache) -> None:
        """Keep the evaluations after `number` experiences, and the features remembered since the last time."""
        newest: dict[Any, Any] = {}
        for features in distributed.exchange(cache.newest()):
            for name, found in features.items():
                newest.setdefault(name, []).append(found)
        if distributed.first():
            joined = {k: tuple(map(torch.cat, zip(*parts, strict=True))) for k, parts in newest.items()}
            checkpoints.write(self._evaluated(number), ([vars(cell.evaluations[-1]) for cell in cells], joined))

    def _evaluated(self, number: int) -> Path:
        return self.work / f"evaluated-{number}.safetensors"

    def resume(self, learner: IncrementalLearner[Any], cache: FeatureCache) -> tuple[int, float, list[Any]]:
        """Put the learner and the cache back to the last point that is whole, and say where that is.

        Returns how many experiences are learned, the seconds that the last one took, and the `Evaluation`s after
        each: the cell's, and its variants'.
        """
        evaluated: list[Any] = []
        while (found := checkpoints.read(self._evaluated(len(evaluated) + 1))) is not None:
            if "confidence" not in found[0][0]:
                break  # of an earlier version, which kept derived figures only: what follows is done again
            evaluated.append(found)
        for number in reversed(self._learned.numbers()):
            kept = checkpoints.read(self._learned.path(number))
            if kept is None or len(evaluated) < number - 1:
                continue
            state, seconds = kept["value"]
            learner.restore(*state)
            for _, features in evaluated[:number]:
                cache.remember(features, learner.device)
            return number, seconds, [[Evaluation(**e) for e in found] for found, _ in evaluated[:number]]
        return 0, 0.0, []


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    path: Path
    record: dict[str, Any]  #: `run.json`: config, versions, device and what else the run noted
    cells: tuple[Cell, ...]  #: the finished ones, in the config's order
    missing: tuple[str, ...]  #: what the config names and is not finished

    @property
    def config(self) -> dict[str, Any]:
        """The run's config with every default, as JSON values."""
        return self.record["config"]


def runs_in(path: Path) -> list[Path]:
    """Return the run folders that a folder stands for: itself, or the runs of a sweep, which lie in it."""
    inside = sorted(file.parent for file in path.glob("*/run.json"))
    return inside if inside and not (path / "run.json").is_file() else [path]


def collect(path: Path) -> Run:
    """Read a run folder; raises InputError if it is none, or if a file in it is damaged."""
    if not path.is_dir():
        kind = "is a file" if path.exists() else "is not there"
        raise InputError(f"{path} {kind}: name a run folder, as `equimos run CONFIG --out DIR` makes it")
    file = path / "run.json"
    if not file.is_file():
        what = "has no run.json" if any(path.iterdir()) else "is empty"
        raise InputError(f"{path} is no run folder, it {what}: name one that `equimos run CONFIG --out DIR` has made")
    with _whole(file):
        record = json.loads(file.read_text(encoding="utf-8"))
        methods, seeds = [*record["config"]["methods"]], [*record["config"]["seeds"]]
        record["config"]["data"]["source"]
    found: list[tuple[tuple[int, int, int], Cell]] = []
    done = set()
    for cell_file in sorted((path / "cells").glob("*.json")):
        for position, cell in enumerate(read_cells(cell_file)):
            with _whole(cell_file):
                if not cell.complete:
                    continue
                # This library's own metrics first: a cell on which they work is whole.
                for metric in sorted(measures([cell]), key=lambda metric: not metric.ours):
                    metric.figure(cell)
            # A variant's label begins with that of the method whose training it shares; so may another method's.
            owner = max((m for m in methods if f"{cell.label}, ".startswith(f"{m}, ")), key=len, default=None)
            if owner is None:
                raise InputError(f"{cell_file} holds {cell.label!r}, which {file} does not name: take it out")
            found.append(((methods.index(owner), position, cell.seed), cell))
            done.add((owner, cell.seed))
    missing = tuple(f"{named(m)} with seed {seed}" for m in methods for seed in seeds if (m, seed) not in done)
    return Run(path, record, tuple(cell for _, cell in sorted(found, key=lambda pair: pair[0])), missing)


def read_cells(file: Path) -> list[Cell]:
    """Return the cell and its variants that a file holds; raises InputError if it is damaged."""
    with _whole(file):
        return [Cell.from_json(values) for values in json.loads(file.read_text(encoding="utf-8"))]


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Say of whatever goes wrong in the block that the file is damaged."""
    try:
        yield
    except InputError:
        raise
    except (OSError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise InputError(
            f"{file} is damaged or of another version ({error}): delete it and give the run's command again"
        ) from None
