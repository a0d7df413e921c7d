"""What an element of a group does to the colours of a picture: rotate their hue, turn them into the negative.

No tensors; `Colours` is the action.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Colour:
    """Rotate colours about the grey axis by `turn` full circles of hue, and take the negative, 1 - x, if `negative`.

    Both keep sums of colours as they are or mirror them at the middle grey, so they commute, and products are exact.

    >>> third = Colour(Fraction(1, 3))
    >>> third * third * third == Colour()
    True
    """

    turn: Fraction = Fraction(0)
    negative: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "turn", Fraction(self.turn) % 1)

    @property
    def name(self) -> str:
        """A short name: e, hue120, negative, …"""
        turn = [f"hue{float(self.turn * 360):g}"] if self.turn else []
        return " ".join([*turn, *(["negative"] if self.negative else [])]) or "e"

    def __mul__(self, first: Colour) -> Colour:
        """Return what does `first`, then this one."""
        return Colour(self.turn + first.turn, self.negative != first.negative)

    def matrix(self) -> tuple[tuple[float, float, float], ...]:
        """Return the 3 x 3 rotation of (red, green, blue); by a third of the circle the channels change places."""
        cos, sin = math.cos(2 * math.pi * self.turn), math.sin(2 * math.pi * self.turn)
        grey, side = (1 - cos) / 3, sin / math.sqrt(3)
        row = (cos + grey, grey - side, grey + side)
        return row, (row[2], row[0], row[1]), (row[1], row[2], row[0])
