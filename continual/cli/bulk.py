"""Answers about any number of images as parquet, in parts: on this machine, on a cluster, or on Ray."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual.cli.given import UNUSUAL
from continual.console import console, count
from continual.errors import InputError
from continual.learning.doubts import unsure
from continual.lifecycle import contents
from continual.lifecycle.parts import Parts, Records, schema_of

if TYPE_CHECKING:
    from continual.learning.answers import Prediction
    from continual.learning.learner import IncrementalLearner

#: columns of an answer; `answer` and `runner_up` are classes, which may be numbers
TYPES: dict[str, type] = {"file": str, "answer": str, "score": float, "runner_up": str, "runner_up_score": float}
TYPES |= {"stack": int, "first_stack": int, "refinements": int, "probability": float, "familiarity": float}
TYPES |= {"anomaly": float, "anomaly_threshold": float, "unknown": bool, "unsure": bool, "error": str}


@dataclass(frozen=True)
class Asked:
    """What is asked of which model; the same for all parts."""

    model: Path
    sha256: str  #: of the model file
    settings: tuple[str, ...]
    method: str | None
    weights: tuple[Path, ...]
    device: str
    workers: int
    false_alarm_rate: float | None

    @property
    def words(self) -> list[str]:
        """The same as options of a command line."""
        given: list[tuple[str, Any]] = [("--model", self.model), ("--device", self.device), ("--workers", self.workers)]
        given += [("--set", setting) for setting in self.settings] + [("--weights", file) for file in self.weights]
        given += [("--method", self.method), ("--false-alarm-rate", self.false_alarm_rate)]
        return [str(word) for option, value in given if value is not None for word in (option, value)]


def records(paths: Sequence[Path], prediction: Prediction) -> Records:
    """Return one flat record per image; `stack` counts adapters from 0, None for methods that retrieve none."""
    best = prediction.scores.topk(min(2, len(prediction.classes)), dim=-1)
    probability = prediction.probabilities
    if probability is not None:
        places = {label: place for place, label in enumerate(prediction.classes)}
        probability = probability[range(len(paths)), [places[label] for label in prediction.labels]]
    more = {name: getattr(prediction, name) for name in ("stack", "first_stack", "refinements")}
    more |= {"probability": probability, "familiarity": prediction.p_value, "anomaly": prediction.anomaly}
    more |= {"unknown": prediction.unknown}
    columns = {name: [None] * len(paths) if values is None else values.tolist() for name, values in more.items()}
    threshold = prediction.anomaly_threshold  # infinite for a rate that no quantile has, which JSON cannot say
    columns |= {"anomaly_threshold": [None if threshold == math.inf else threshold] * len(paths)}
    found = []
    for row, (path, answer) in enumerate(zip(paths, prediction.labels, strict=True)):
        names = [*(prediction.classes[place] for place in best.indices[row].tolist()), None]
        scores = [*best.values[row].tolist(), None]
        record = {"file": str(path), "answer": answer, "score": scores[0]}
        record |= {"runner_up": names[1], "runner_up_score": scores[1]}
        record |= {name: values[row] for name, values in columns.items()}
        found.append(record | {"unsure": unsure(record["probability"])})
    return found


def rate_for(learner: IncrementalLearner[Any], asked: float | None) -> float | None:
    """Return the rate of false alarms to ask with: one of a single class has nothing else to say."""
    return UNUSUAL if asked is None and learner.tells_unusual else asked


def answer_all(
    asked: Asked,
    given: Sequence[Path],
    channels: int,
    folder: Path,
    size: int,
    launcher: str,
    jobs: int,
    slurm: Sequence[str],
    ray: Sequence[str],
) -> None:
    """Write what a model answers about images, and those in folders, into the data set `folder`, `size` in a part.

    Parts that are there stay. Several jobs share the others, or they are tasks of a Ray cluster. Raises InputError for
    a folder of other answers, and as launchers do.
    """
    from continual import options
    from continual.cli import opening
    from continual.experiments import launching, on_ray

    schema_of(TYPES)
    given = [place.absolute() for place in given]
    images = [path for place in given for path in opening.images_in(place, say=True, channels=channels)]
    parts = Parts(folder.absolute(), -(-len(images) // size))
    parts.claim(_about(asked, images, size))
    say, todo = console(stderr=True).print, parts.missing()
    say(f"{folder}: {count(len(images), 'image')} in {count(parts.count, 'part')}, {len(todo)} to be made")
    words = ["predict", *map(str, given), *asked.words, "--parquet", str(folder), "--part", str(size)]
    if launcher == "slurm":
        logs = folder.with_name(f"{folder.name}-slurm")
        submitted = launching.on_cluster(words, jobs, logs, options.assignments("--slurm", slurm))
        say(f"submitted {', '.join(str(job.job_id) for job in submitted)}; the same command without --launcher waits")
        return
    tasks = {f"part {n}": (asked, parts, n, images[n * size : (n + 1) * size]) for n in todo}
    if launcher == "ray":
        on_ray.on_ray(make_part, tasks, options.assignments("--ray", ray), lambda name: say(f"{name}: written"))
    elif jobs > 1 and todo:
        launching.on_this_machine(words, jobs, say)
    else:
        for name, task in tasks.items():
            if make_part(*task):
                say(f"{name}: written")
    left = parts.missing()
    say(f"{len(left)} left to other processes" if left else f"{folder}: all answers are there")


def make_part(asked: Asked, parts: Parts, number: int, images: Sequence[Path]) -> bool:
    """Write a part, of these images, unless it is there or another process is at it; tell whether it is there."""
    learner = _learner(asked)
    kind = str if isinstance(learner.classes[0], str) else int
    schema = schema_of({**TYPES, "answer": kind, "runner_up": kind})
    return parts.make(number, partial(_answers, learner, asked, images), schema)


def _answers(learner: IncrementalLearner[Any], asked: Asked, images: Sequence[Path]) -> Records:
    """Return a record of each image, with an `error` and no answer for one that cannot be read."""
    from continual.data.images import check_readable

    broken: dict[Path, str] = {}
    for path in images:
        try:
            check_readable([path], channels=learner.preprocessing.channels)
        except InputError as error:
            broken[path] = " ".join(str(error).split("\n")[1:])
    good = [path for path in images if path not in broken]
    told: Records = []
    if good:
        found = learner.predict(good, workers=asked.workers, false_alarm_rate=rate_for(learner, asked.false_alarm_rate))
        told = records(good, found)
    answers = iter(told)
    return [{"file": str(path), "error": broken[path]} if path in broken else next(answers) for path in images]


@lru_cache(maxsize=1)
def _learner(asked: Asked) -> IncrementalLearner[Any]:
    """Load the model once for all parts that this process makes."""
    from continual.cli import opening

    found = contents.read(asked.model)
    return opening.load_learner(found, asked.weights, asked.device, asked.method, asked.settings)


def _about(asked: Asked, images: Sequence[Path], size: int) -> dict[str, Any]:
    """Return what decides the answers, and which part holds them."""
    listed = hashlib.sha256("\0".join(map(str, images)).encode()).hexdigest()
    settings = json.dumps([sorted(asked.settings), asked.false_alarm_rate])
    return {"model": asked.sha256, "settings": settings, "images": listed, "size of parts": size}
