"""Work on a Ray cluster, a task for each cell of a sweep or part of a folder; Ray schedules, and retries what is lost.

What a task does is kept in a folder that all machines see, and can be done again: a worker that is killed loses what it
has not kept, an epoch at most, and its task goes on from there on another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path
from typing import Any

from continual import options
from continual.errors import InputError
from continual.experiments.config import RunConfig
from continual.experiments.frames import write_experiences
from continual.experiments.launching import package_places
from continual.experiments.run import finished, make_cell
from continual.experiments.run_folder import RunFolder
from continual.metrics.cell import Cell

#: tasks that Ray is given before the first of them has ended
WAITING = 1000
#: the data set of what finished cells measured
EXPERIENCES = "experiences.parquet"

Say = Callable[[str], None]


def on_ray(
    function: Callable[..., bool], tasks: Mapping[str, tuple[Any, ...]], wanted: Mapping[str, Any], done: Say
) -> None:
    """Run `function(*arguments)` for each of some tasks, by name, and call `done(name)` when one has ended well.

    It returns whether all was done: it was not where a process that Ray did not start is at it. `wanted` are Ray's
    options of a task, such as num_cpus, num_gpus and max_retries, and `address`, of the cluster: without, that of
    RAY_ADDRESS, or of this machine's `ray start`, or one is started for this call. Raises InputError without Ray, for
    options that it does not have, and, when all tasks have ended, with the error of the first that failed.
    """
    own = {"max_retries": 3, **wanted}
    address = own.pop("address", None)
    with _cluster(address) as ray:
        try:
            task = ray.remote(function).options(**own)
        except (ValueError, TypeError) as error:
            raise InputError(f"Ray refuses --ray {options_text(own)}: {' '.join(str(error).split())}") from error
        upcoming, running, failed = iter(tasks.items()), dict[Any, str](), dict[str, str]()
        while True:
            for name, arguments in islice(upcoming, WAITING - len(running)):
                running[task.remote(*arguments)] = name
            if not running:
                break
            (ready,), _ = ray.wait([*running])
            name = running.pop(ready)
            try:
                if ray.get(ready):
                    done(name)
                else:
                    failed[name] = "another process is at it"
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                failed[name] = " ".join(str(cause).split())
    if failed:
        name, what = next(iter(failed.items()))
        said = f"{len(failed)} of {len(tasks)} tasks failed"
        raise InputError(f"{said}: {name}: {what}; the same command resumes")


def options_text(values: Mapping[str, Any]) -> str:
    """Write options as they are given."""
    return " ".join(f"{key}={value}" for key, value in values.items())


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Give Ray, connected to a cluster; one that is not connected yet parts at the end of the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it sends what it counts to its makers
    try:
        import ray
    except ImportError:
        raise InputError('a Ray cluster needs Ray: pip install "equimos[ray]"') from None
    connected = ray.is_initialized()
    if not connected:
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": {"PYTHONPATH": package_places()}},
                logging_level="ERROR",
                log_to_driver=False,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"cannot join the Ray cluster: {' '.join(str(error).split())}") from error
    try:
        yield ray
    finally:
        if not connected:
            ray.shutdown()


def run_cells(
    configs: Mapping[str, RunConfig],
    out: Path,
    wanted: Mapping[str, Any],
    say: Say,
    only: Sequence[str] = (),
    workers: int = 0,
    store: bool = True,
) -> dict[str, list[Cell]]:
    """Run what is not finished of a sweep, the runs by name in folders of `out`; return all finished cells.

    What a cell measured is added to the data set `experiences.parquet` once it is finished. Raises as `on_ray` does.
    """
    out = out.absolute()
    cells = {
        f"{name}{': ' if name else ''}{label}, seed {seed}": (config, out / name, label, seed)
        for name, config in configs.items()
        for seed, label in product(config.seeds, [label for label in config.methods if not only or label in only])
    }

    def note(name: str) -> bool:
        config, folder, label, seed = cells[name]
        place = RunFolder(folder).cell(label, seed)
        found, file = place.read(), out / EXPERIENCES / f"{folder.name}-{place.file.stem}.parquet"
        if found is not None and not file.exists():
            write_experiences(file, folder, config.title, found)
        return found is not None

    def done(name: str) -> None:
        note(name)
        say(f"{name}: finished")

    left = {name: (*cells[name], workers, store) for name in cells if not note(name)}
    on_ray(_cell, left, wanted, done)
    return {name: finished(config, RunFolder(out / name), out / name) for name, config in configs.items()}


def _cell(config: RunConfig, *rest: Any) -> bool:
    """Run a cell on this worker, whose devices are its own."""
    device = str(options.device(config.device))
    return make_cell(config.model_copy(update={"device": device}), *rest)
