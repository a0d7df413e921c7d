"""Published figures, found by data set, protocol and method; `published.toml` holds them with their sources."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from continual.experiments.config import networks_of

#: by how many points both accuracies of a run may be off and count as reproduced: what seeds and versions differ by
TOLERANCE = 1.0


@dataclass(frozen=True)
class Source:
    """Where figures were published, and under which conditions."""

    text: str
    backbone: str
    weights: tuple[str, ...]  #: timm's tags, any of which they may have used
    seed: int
    normalised: bool  #: whether inputs were normalised by mean and standard deviation


@dataclass(frozen=True)
class Figure:
    """One method's published accuracies, as shares."""

    method: str  #: its name here
    name: str  #: its name there
    average: float
    final: float
    source: Source

    def verdict(self, average: float, final: float) -> str:
        """Say whether accuracies, as shares, are those published, or by how many points they are not.

        >>> figure = find("cifar100", [5] * 20).figure("mos")
        >>> figure.verdict(0.9361, 0.8900), figure.verdict(0.9, 0.9)
        ('reproduced', 'off by -3.3 / +0.8')
        """
        off = [100 * (mine - its) for mine, its in ((average, self.average), (final, self.final))]
        return "reproduced" if all(abs(x) <= TOLERANCE for x in off) else "off by {:+.1f} / {:+.1f}".format(*off)


@dataclass(frozen=True)
class Protocol:
    """A data set cut in a certain way, and what was published for it; the first figure of a method is the main one."""

    data: str
    title: str
    classes: int
    increment: int
    figures: tuple[Figure, ...]

    def figure(self, method: str) -> Figure | None:
        """Return a method's figure, None if there is none."""
        return next((figure for figure in self.figures if figure.method == method), None)


def find(data: str, class_counts: Sequence[int]) -> Protocol | None:
    """Return the published protocol of a data set that brings these numbers of classes, None if there is none.

    >>> find("cifar100", [5] * 20).figure("mos").average
    0.9329999999999999
    >>> find("cifar100", [10] * 10) is None
    True
    """
    fitting = (p for p in protocols() if [*class_counts] == [p.increment] * (p.classes // p.increment))
    return next((p for p in fitting if _plain(p.data) == _plain(data)), None)


@cache
def protocols() -> tuple[Protocol, ...]:
    """Return every published protocol."""
    values = tomllib.loads(files("continual.experiments").joinpath("published.toml").read_text(encoding="utf-8"))
    sources = {key: Source(**{**known, "weights": tuple(known["weights"])}) for key, known in values["sources"].items()}
    found = []
    for table in values["protocols"]:
        figures = tuple(
            Figure(method, values["names"][method], average / 100, final / 100, source)
            for key, source in sources.items()
            for method, (average, final) in table.get(key, {}).items()
        )
        found.append(Protocol(table["data"], table["title"], table["classes"], table["increment"], figures))
    return tuple(found)


def differences(config: Mapping[str, Any], source: Source) -> list[str]:
    """Say in which conditions a run's config differs from those of published figures."""
    found = []
    (backbone, *others), stream = networks_of(config), config.get("stream") or {}
    name = " + ".join(str(one.get("name") or one.get("weights") or "unnamed") for one in (backbone, *others))
    model, _, tag = name.partition(".")
    if model != source.backbone or tag not in source.weights or backbone.get("args") or backbone.get("pretrain"):
        allowed = " or ".join(f"{source.backbone}.{tag}" for tag in source.weights)
        arguments = ", ".join(f"{k}={v}" for k, v in (backbone.get("args") or {}).items())
        found.append(f"backbone {name}{f' ({arguments})' if arguments else ''}; published: {allowed}")
    normalisation = [(backbone.get("preprocessing") or {}).get(key) for key in ("mean", "std")]
    if not source.normalised and [[*(x or [])] for x in normalisation] != [[0, 0, 0], [1, 1, 1]]:
        found.append("inputs normalised as the backbone asks; published: scaled to [0, 1] only")
    if stream.get("per_class") is not None:
        found.append(f"{stream['per_class']} training images per class; published: all")
    if stream.get("order", "seed") != "seed":
        found.append("another order of classes; published: the permutation of the seed")
    if (seeds := config.get("seeds")) != [source.seed]:
        found.append(f"seeds {', '.join(map(str, seeds or []))}; published: {source.seed}")
    return found


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
