"""What a metric is: how it is computed of a cell, which direction is better, and how it is shown.

    @metric(heading="worst experience [%]", higher_is_better=True, table="further")
    def worst(cell: Cell) -> Series:
        "The lowest accuracy on any experience so far."
        return [min(row) for row in accuracy(cell)]

is all of one. It is found in a file of this folder, at an entry point `equimos.metrics`, or given to `METRICS.add`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, update_wrapper
from math import inf
from typing import Any, Literal

import numpy as np

from continual.errors import InputError
from continual.metrics.cell import Cell, NotRecorded

Series = list[float | None]  #: a figure after each experience; None where there is none


def last(series: Sequence[float | None]) -> float | None:
    """Return the last figure."""
    return series[-1] if series else None


def total(series: Sequence[float | None]) -> float | None:
    """Return the sum, of what each experience costs; None if one is missing."""
    return None if None in series else float(np.sum(series))  # type: ignore[arg-type]


def mean(series: Sequence[float | None]) -> float | None:
    """Return the mean; None if a figure is missing, or if there is none."""
    return float(np.mean(series)) if series and None not in series else None  # type: ignore[arg-type]


def mean_of_later(series: Sequence[float | None]) -> float | None:
    """Return the mean of all but the first, of what compares two models."""
    return mean(series[1:])


def mean_of_present(series: Sequence[float | None]) -> float | None:
    """Return the mean of the figures that are there."""
    return mean([value for value in series if value is not None])


@dataclass(frozen=True)
class Metric:
    """A metric; called with a cell it returns its series, in shares, seconds and bytes.

    Both that and its `figure` raise InputError, with the metric's name, for any error of a metric that is not this
    library's: whoever has added it can fix it.
    """

    name: str
    heading: str  #: with the unit as shown; `{}` stands for the group, where images are transformed by one
    higher_is_better: bool | None  #: None where neither is
    compute: Callable[..., Series] = field(repr=False)  #: its docstring says what the metric means
    table: Literal["main", "further"] | None = None
    order: float = inf  #: its place among all metrics; of equal ones the names decide
    factor: float = 100  #: from the value to what is shown
    decimals: int = 1
    reduce: Callable[[Series], float | None] = last  #: from the series to the figure in a table
    range: tuple[float, float] = (-inf, inf)  #: of the values
    column: str = ""  #: of its series in tables per experience, which several may share; else its name
    curve: str | None = None  #: caption of its picture, if it is drawn against experiences
    brief: bool = False  #: whether it is shown where there is room for four columns
    by_group: bool = False  #: whether `compute` takes a group's name as well, and there is a figure for each

    def __post_init__(self) -> None:
        """Take the function's place and documentation over, as `functools.wraps` does."""
        vars(self).update(column=self.column or self.name, __doc__=inspect.getdoc(self.compute))
        vars(self).update({name: getattr(self.compute, name, "?") for name in ("__module__", "__qualname__")})

    def __call__(self, cell: Cell) -> Series:
        """Return the figure after each experience, (T,); None for all where the cell lacks what it is made of."""
        with self._named(cell):
            try:
                return [*self.compute(cell)]
            except NotRecorded:
                return [None] * len(cell.evaluations)

    def figure(self, cell: Cell) -> float | None:
        """Return the one figure of the whole stream; None where there is no such figure."""
        with self._named(cell):
            return self.reduce(self(cell))

    @property
    def arrow(self) -> str:
        """The better direction: ↑ or ↓, nothing where neither is."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def ours(self) -> bool:
        """Whether it is one of this library."""
        return self.__module__.startswith("continual.")

    @contextmanager
    def _named(self, cell: Cell) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self.ours or isinstance(error, InputError):
                raise
            raise InputError(
                f"the metric {self.name!r} of {self.__module__} fails on {cell.label!r} with seed {cell.seed} "
                f"({type(error).__name__}: {error}): fix it, or take it out"
            ) from error

    @property
    def summary(self) -> str:
        """What it means, in a line."""
        return " ".join((self.__doc__ or self.heading).split("\n\n")[0].split()).rstrip(".")

    def under(self, group: str) -> Metric:
        """Return the metric of images that were transformed by one group."""
        name, heading = f"{self.name} {group}", self.heading.format(group)
        compute = update_wrapper(partial(self.compute, group=group), self.compute)
        return replace(self, name=name, column=name, heading=heading, compute=compute, by_group=False)


def metric(
    *, heading: str, higher_is_better: bool | None, name: str | None = None, **shown: Any
) -> Callable[[Callable[..., Series]], Metric]:
    """Make a function of a cell a metric, of the function's name if no other is given; `shown`: see `Metric`."""
    return lambda compute: Metric(name or compute.__name__, heading, higher_is_better, compute, **shown)
