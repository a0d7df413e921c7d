"""The corpus of hostile inputs: every file in `kinds/` yields cases, and `attempt` runs one.

A kind is a module with `cases(random, materials)`, an endless iterator of `Hostile`. It is found by its place.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from typer.testing import CliRunner

from continual.cli.app import app
from tests.hostile import kinds
from tests.hostile.watch import watched

#: seconds of this process's time, and MiB above the start, that a command may take
TIME, MEMORY = 10.0, 512
#: seconds of the clock after which a command is stopped: the machine may have other work
WAIT = 60.0
Words = Sequence[str | Path]
#: a command line, or something to do that returns what was wrong with what came of it
Try = Words | Callable[[], str | None]


@dataclass(frozen=True)
class Materials:
    """What cases are made from; nothing of it is changed."""

    models: Sequence[Path]  #: sound model files
    weights: Path  #: a sound weights file
    images: Path  #: a folder with a folder of images for each class


@dataclass(frozen=True)
class Hostile:
    """One case.

    Attributes:
        name: What is wrong, for the report.
        make: Writes its files to an empty folder, and returns what to try.
        refused: Whether every command must fail; of the others, any foreseen ending will do.
    """

    name: str
    make: Callable[[Path], Sequence[Try]]
    refused: bool = False


def all_kinds() -> list[str]:
    """Return the names of the kinds, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(kinds.__path__))


def corpus(kind: str, materials: Materials, count: int, seed: int = 0) -> Iterator[Hostile]:
    """Return so many cases of a kind, the same for the same seed."""
    module = importlib.import_module(f"{kinds.__name__}.{kind}")
    return islice(module.cases(random.Random(f"{kind} {seed}"), materials), count)


@dataclass
class Figures:
    """What a run took, and what was found that must not be."""

    cases: int = 0
    tries: int = 0  #: commands and requests
    longest: float = 0.0  #: seconds of this process's time that one took
    memory: float = 0.0  #: MiB of this process at most, above the start
    problems: list[str] = field(default_factory=list)


def attempt(case: Hostile, folder: Path, figures: Figures | None = None) -> list[str]:
    """Try a case's commands in an empty folder; return what must not be: tracebacks, time, memory, deeds outside."""
    problems, figures = [], figures or Figures()
    figures.cases += 1
    for words in case.make(folder):
        start, before = time.process_time(), _most_memory()
        with watched(folder) as deeds, _alarm(WAIT):
            if callable(words):
                said, found = case.name, words()
            else:
                line = [str(word) for word in words]
                said, found = f"{case.name}: {' '.join(line)[:200]}", _command(line, case.refused)
        took, more = time.process_time() - start, _most_memory() - before
        problems += [f"{said}: {found}"] if found else []
        problems += [f"{said}: {deed}" for deed in deeds]
        problems += [f"{said}: {took:.1f} s"] if took > TIME else []
        problems += [f"{said}: {more:.0f} MiB"] if more > MEMORY else []
        figures.tries, figures.longest = figures.tries + 1, max(figures.longest, took)
    figures.problems += problems
    return problems


def run(kind: str, materials: Materials, folder: Path, count: int, seed: int = 0) -> Figures:
    """Try so many cases of a kind, each in a folder of its own below `folder`."""
    figures, before = Figures(), _most_memory()
    for number, case in enumerate(corpus(kind, materials, count, seed)):
        place = folder / f"{kind}{number}"
        place.mkdir()
        attempt(case, place, figures)
        shutil.rmtree(place, ignore_errors=True)
    figures.memory = _most_memory() - before
    return figures


def _command(line: Sequence[str], refused: bool) -> str | None:
    result = CliRunner().invoke(app, line)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"traceback {''.join(traceback.format_exception(result.exception)[-3:])}"
    if result.exit_code not in (0, 1, 2):
        return f"exit code {result.exit_code}"
    return "was taken" if refused and result.exit_code == 0 else None


def _most_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what waits for ever: for a pipe, say, which takes no time of this process."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"it hung for {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
