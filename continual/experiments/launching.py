"""Several processes on one run folder: on this machine, or on a cluster through submitit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import IO, Any

from continual.errors import InputError

#: without the working folder among the places of modules: a `colorsys.py` that lies there must not be run
COMMAND = (sys.executable, "-P", "-m", "continual")


def _environment(**more: str) -> dict[str, str]:
    """Return this process's environment, in which the same package is found, and nothing of the working folder."""
    return {**more, **os.environ, "PYTHONPATH": package_places()}


def package_places() -> str:
    """Return PYTHONPATH with the folder of this package, and without empty entries, which mean the working folder."""
    given = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(given if here in given else [*given, here])


def on_this_machine(words: Sequence[str], jobs: int, say: Callable[[str], None]) -> None:
    """Run `equimos WORDS` in so many processes at once, and say what they say.

    Each gets its share of the cores, unless OMP_NUM_THREADS says how many. Raises InputError with the error of
    the first that failed, when all have ended; they end with this process.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = _environment(OMP_NUM_THREADS=threads)
    running, last, readers = [], [""] * jobs, []
    try:
        for number in range(jobs):
            process = subprocess.Popen(
                [*COMMAND, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            assert process.stderr is not None
            readers.append(Thread(target=_pass_on, args=(process.stderr, number, last, say)))
            readers[-1].start()
            running.append(process)
        codes = [process.wait() for process in running]
    finally:
        for process in running:
            process.terminate()
        for reader in readers:
            reader.join()
    if failed := [number for number, code in enumerate(codes) if code]:
        what = last[failed[0]].removeprefix("error: ") or f"exit code {codes[failed[0]]}"
        raise InputError(f"{len(failed)} of {jobs} jobs failed: {what}; the same command resumes the run")


def _pass_on(stream: IO[str], number: int, last: list[str], say: Callable[[str], None]) -> None:
    for line in stream:
        last[number] = line.strip()
        say(f"[{number + 1}] {last[number]}")
    stream.close()


def on_cluster(
    words: Sequence[str], jobs: int, folder: Path, options: Mapping[str, Any], cluster: str = "slurm"
) -> list[Any]:
    """Submit `equimos WORDS` so many times and return submitit's jobs; `options` are those of its executor.

    `cluster` is "slurm", or submitit's "local" or "debug". Logs go to `folder`. Raises InputError without
    submitit, without the cluster, or for options it does not have.
    """
    try:
        import submitit
    except ImportError:
        raise InputError('a cluster needs submitit: pip install "equimos[slurm]"') from None
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**options)
        run = submitit.helpers.CommandFunction([*COMMAND, *words], cwd=str(Path.cwd()), env=_environment())
        return [executor.submit(run) for _ in range(jobs)]
    except (RuntimeError, NameError, TypeError, ValueError, submitit.core.utils.FailedJobError) as error:
        raise InputError(f"cannot submit to {cluster}: {' '.join(str(error).split())}") from error
