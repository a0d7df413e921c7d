"""What an element of a group does to a picture: rotate it, mirror it, permute its channels. No tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from equivariant.errors import GroupError

_MIRRORS = {0: "mirror_h", 1: "mirror_d", 2: "mirror_v", 3: "mirror_a"}


@dataclass(frozen=True)
class Motion:
    """Mirror left and right if `mirror`, then rotate counter-clockwise by `turn` full circles.

    `channels` is a permutation p of the channels, () for the identity: channel c of the input becomes
    channel p[c] of the output. Angles are exact fractions, so products of motions are exact too:

    >>> quarter, mirror = Motion.rotation(90), Motion(mirror=True)
    >>> quarter * quarter * quarter * quarter == Motion()
    True
    >>> (mirror * quarter * mirror).name
    'r270'
    """

    turn: Fraction = Fraction(0)
    mirror: bool = False
    channels: tuple[int, ...] = ()
    #: the rotation in steps of 90°, 0 to 3, or None if it is no multiple of that
    quarters: int | None = field(init=False, compare=False, repr=False)
    degrees: float = field(init=False, compare=False, repr=False)  #: the rotation in degrees

    def __post_init__(self) -> None:
        channels, turn = tuple(self.channels), Fraction(self.turn) % 1
        if sorted(channels) != list(range(len(channels))):
            raise GroupError(
                f"channels={channels} is not a permutation: each of 0 … {len(channels) - 1} must stand in it once"
            )
        object.__setattr__(self, "turn", turn)
        object.__setattr__(self, "channels", () if channels == tuple(range(len(channels))) else channels)
        object.__setattr__(self, "quarters", int(turn * 4) if (turn * 4).denominator == 1 else None)
        object.__setattr__(self, "degrees", float(turn * 360))

    @classmethod
    def rotation(cls, degrees: int | Fraction) -> Motion:
        """Return the counter-clockwise rotation by that many degrees; a Fraction for a part of one."""
        return cls(Fraction(degrees) / 360)

    @property
    def exact(self) -> bool:
        """Whether pixels land on pixels: a right angle, so that no interpolation is needed."""
        return self.quarters is not None

    @property
    def needs_square(self) -> bool:
        """Whether a picture must be square to keep its shape."""
        return self.quarters is None or self.quarters % 2 == 1

    @property
    def name(self) -> str:
        """A short name: e, r90, mirror_h, mirror_d (main diagonal), mirror_a (the other), …"""
        turn = f"r{self.degrees:g}" if self.turn else ""
        if self.mirror:
            turn = f"{turn}*mirror_h" if self.quarters is None else _MIRRORS[self.quarters]
        channels = "channels" + "".join(f"{c}," for c in self.channels)[:-1] if self.channels else ""
        return " ".join(part for part in (turn, channels) if part) or "e"

    def __mul__(self, first: Motion) -> Motion:
        """Return the motion that does `first`, then this one."""
        turn = self.turn + (-first.turn if self.mirror else first.turn)
        return Motion(turn, self.mirror != first.mirror, _compose(self.channels, first.channels))

    def matrix(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the 2 x 2 matrix that transforms (x, y), x to the right and y **down**, as in images."""
        if self.quarters is not None:
            cos, sin = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[self.quarters]
        else:
            cos, sin = math.cos(2 * math.pi * self.turn), math.sin(2 * math.pi * self.turn)
        side = -1.0 if self.mirror else 1.0
        return (cos * side, sin), (-sin * side, cos)


def _compose(second: Sequence[int], first: Sequence[int]) -> tuple[int, ...]:
    if not second or not first:
        return tuple(second or first)
    if len(second) != len(first):
        raise GroupError(f"cannot combine a permutation of {len(first)} channels with one of {len(second)}")
    return tuple(second[c] for c in first)
