"""The one style of the project's pictures: colours, and how axes look. It loads nothing until something is drawn.

What has a name (a method, a wrapper) has the same look in every picture: `looks` gives known names a place of their
own, and others one that follows from their name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

#: Each has a contrast of 3 or more both with white and with the dark ground of a page.
COLOURS = (
    "#2f80d0", "#d4620e", "#23915a", "#c2479b", "#8268d6",
    "#a87d14", "#168c9c", "#d6473f", "#78848f", "#6f8f1c",
)  # fmt: skip
INK = "#1f2933"  #: of axes and text; a page puts its own text colour in its place
FAINT = "#999999"  #: of lines that only guide the eye
BEFORE, AFTER = COLOURS[0], COLOURS[1]  #: of two series: images as they are, and transformed
DASHES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX*<>p"

#: Places of this project's methods and wrappers; a new one may do without, and then has the place its name leads to.
KNOWN = {
    **{"finetune": 8, "simple_cil": 3, "mos": 0, "strata": 1, "ranpac": 2, "ridge": 7, "ease": 4, "aper": 6},
    **{"slca": 5, "l2p": 9, "coda_prompt": 13, "joint": 18, "der": 14, "icarl": 16, "lwf": 15, "replay": 12},
    **{"tuna": 10, "fecam": 11, "anytime": 5},
    **{"plain": 8, "equitune": 0, "lambda": 1, "equizero": 2, "max": 3, "canonicaliser": 4, "pruned": 6},
}


@dataclass(frozen=True)
class Look:
    """How lines, bars and points of one name are drawn."""

    colour: str
    dash: str
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """What matplotlib's `plot` takes."""
        return {"color": self.colour, "linestyle": self.dash, "marker": self.marker}


def looks(names: Iterable[str] | Mapping[str, str]) -> dict[str, Look]:
    """Return a look for each name, all different up to 40 names; a mapping says of which known name each is a form.

    >>> looks({"mos": "mos", "mine": "strata"})["mine"] == looks(["strata"])["strata"]
    True
    """
    kinds = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    places: dict[str, int] = {name: KNOWN[name] for name in kinds if name in KNOWN}
    for name, kind in kinds.items():
        if name not in places and kind in KNOWN and KNOWN[kind] not in places.values():
            places[name] = KNOWN[kind]
    every = len(COLOURS) * len(DASHES)
    for name in sorted(kinds.keys() - places.keys()):
        begin, own = crc32(name.encode()) % every, KNOWN.get(kinds[name], -1) % len(COLOURS)
        taken = {place % len(COLOURS) for place in places.values()}
        free = [place for place in (*range(begin, every), *range(begin)) if place not in places.values()]
        # A colour of its own is the easiest to tell; after that, the colour of what it is a form of.
        places[name] = min(
            free, key=lambda p: (p % len(COLOURS) in taken, p % len(COLOURS) != own), default=begin
        )  # the first of equals
    return {name: _look(places[name]) for name in kinds}


def _look(place: int) -> Look:
    return Look(COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS)], MARKERS[place % len(MARKERS)])


def ink(axes: Any, *, grid: bool = True) -> None:
    """Draw axes as all of the project's: two thin spines, a faint grid, no ground of their own."""
    axes.patch.set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.title.set_color(INK)
    axes.title.set_fontsize(10)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
    if grid:
        axes.grid(color=INK, alpha=0.15, linewidth=0.6)
        axes.set_axisbelow(True)
