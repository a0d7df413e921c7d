"""The corpus of hostile inputs: every file in `kinds/` yields cases, and `attempt` runs one.

A kind is a module with `cases(random, materials)`, an endless iterator of `Hostile`. It is found by its place.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from typer.testing import CliRunner

from continual.cli.app import app
from tests.hostile import kinds
from tests.hostile.watch import watched

#: seconds of this process's time, and MiB above the start, that a command may take
TIME, MEMORY = 10.0, 512
Words = Sequence[str | Path]


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
        make: Writes its files to an empty folder, and returns the command lines to try.
        refused: Whether every command must fail; of the others, any foreseen ending will do.
    """

    name: str
    make: Callable[[Path], Sequence[Words]]
    refused: bool = False


def all_kinds() -> list[str]:
    """Return the names of the kinds, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(kinds.__path__))


def corpus(kind: str, materials: Materials, count: int, seed: int = 0) -> Iterator[Hostile]:
    """Return so many cases of a kind, the same for the same seed."""
    module = importlib.import_module(f"{kinds.__name__}.{kind}")
    return islice(module.cases(random.Random(f"{kind} {seed}"), materials), count)


def attempt(case: Hostile, folder: Path) -> list[str]:
    """Run a case's commands in an empty folder; return what must not be: tracebacks, time, memory, deeds outside."""
    problems = []
    for words in case.make(folder):
        line = [str(word) for word in words]
        start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with watched(folder) as deeds:
            result = CliRunner().invoke(app, line)
        said = f"{case.name}: {' '.join(line)[:200]}"
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            text = "".join(traceback.format_exception(result.exception)[-3:])
            problems.append(f"{said}: traceback {text}")
        elif result.exit_code not in (0, 1, 2):
            problems.append(f"{said}: exit code {result.exit_code}")
        elif case.refused and result.exit_code == 0:
            problems.append(f"{said}: was taken")
        problems += [f"{said}: {deed}" for deed in deeds]
        if (took := time.process_time() - start) > TIME:
            problems.append(f"{said}: {took:.1f} s")
        if (more := (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024) > MEMORY:
            problems.append(f"{said}: {more:.0f} MiB")
    return problems
