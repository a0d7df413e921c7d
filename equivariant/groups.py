"""Finite groups as data: elements, product table, inverses. No tensors.

Every group is checked against the axioms before it exists. Groups that act on pictures have `Motion`s as elements; a
group of your own may have any elements, with an `Action` of your own.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from operator import mul
from typing import Any

from equivariant import axioms
from equivariant.colours import Colour
from equivariant.errors import GroupError
from equivariant.motions import Motion

Table = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class FiniteGroup:
    """A finite group; its elements are numbered from 0.

    `table[g][h]` is the number of the product gh, "first h, then g". Raises GroupError, with the axiom and the elements
    that break it, if the table is not that of a group, or if the elements are motions whose products differ from it.

    To bring your own, give a table (`FiniteGroup("swap", ("e", "s"), ((0, 1), (1, 0)))`), or generators
    (`from_generators`). Its elements say what it does to pictures if they are motions; else write an
    `equivariant.Action` that knows what element number g does.
    """

    name: str
    names: tuple[str, ...]
    table: Table = field(repr=False)
    elements: tuple[Any, ...] = field(default=(), repr=False)
    identity: int = field(init=False, compare=False, repr=False)
    inverses: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "table", tuple(tuple(row) for row in self.table))
        object.__setattr__(self, "elements", tuple(self.elements) or self.names)
        identity, inverses = axioms.check(self.name, self.names, self.table)
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "inverses", inverses)
        _check_elements(self)

    @property
    def order(self) -> int:
        """The number of elements, |G|."""
        return len(self.names)

    def __len__(self) -> int:
        return self.order

    def product(self, g: int, h: int) -> int:
        """Return gh: first h, then g."""
        return self.table[g][h]

    def inverse(self, g: int) -> int:
        """Return the element that undoes g."""
        return self.inverses[g]

    def index(self, element: int | str) -> int:
        """Return the number of an element given by number or name; raises GroupError if there is none."""
        if isinstance(element, str):
            if element in self.names:
                return self.names.index(element)
        elif 0 <= element < self.order:
            return int(element)
        raise GroupError(f"{self.name} has no element {element!r}: its elements are {', '.join(self.names)}")

    @property
    def exact(self) -> bool:
        """Whether all elements are motions by right angles."""
        return all(isinstance(element, Motion) and element.exact for element in self.elements)

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of what the group is and does: its table and elements, not its name."""
        return hashlib.sha256(repr((self.table, self.elements)).encode()).hexdigest()

    def __mul__(self, other: FiniteGroup) -> FiniteGroup:
        """Return the direct product, in which an element of one and an element of the other commute.

        Raises GroupError if they do not commute as motions of a picture.
        """
        pairs = list(itertools.product(range(self.order), range(other.order)))
        number = {pair: i for i, pair in enumerate(pairs)}
        table = tuple(tuple(number[self.product(g, k), other.product(h, m)] for k, m in pairs) for g, h in pairs)
        elements = [(self.elements[g], other.elements[h]) for g, h in pairs]
        if all(isinstance(e, Motion) for e in (*self.elements, *other.elements)):
            for a, b in itertools.product(self.elements, other.elements):
                if a * b != b * a:
                    raise GroupError(
                        f"there is no direct product of {self.name} and {other.name} on pictures: {a.name} and "
                        f"{b.name} do not commute. Rotations by 90° with mirrors are D4, n rotations with mirrors Dn"
                    )
            elements = [a * b for a, b in elements]
        names = tuple(f"({self.names[g]}, {other.names[h]})" for g, h in pairs)
        return FiniteGroup(f"{self.name} x {other.name}", names, table, tuple(elements))


def from_generators(name: str, generators: Mapping[str, Any] | Iterable[Motion], limit: int = 1024) -> FiniteGroup:
    """Return the group of all products of the generators.

    Generators are motions, or a mapping from names to any hashable objects with `a * b` for "first b, then a". Elements
    are named by their products, the identity "e". Raises GroupError if there are more than `limit` products: a
    generator of infinite order.

    >>> from_generators("my D4", [Motion.rotation(90), Motion(mirror=True)]).order
    8
    """
    named = dict(generators) if isinstance(generators, Mapping) else {motion.name: motion for motion in generators}
    if not named:
        raise GroupError(f"{name} has no generators: give at least one")
    words: dict[Any, str] = {value: word for word, value in named.items()}
    queue = list(words)
    for value in queue:
        for word, generator in named.items():
            product = generator * value
            if product not in words:
                words[product] = f"{word}*{words[value]}"
                queue.append(product)
        if len(queue) > limit:
            raise GroupError(f"the generators of {name} give more than {limit} elements: is their order finite?")
    values = sorted(queue, key=lambda value: value * value != value)  # the identity first, the rest in order
    if values[0] not in named.values() and "e" not in named:
        words[values[0]] = "e"
    return _of(name, values, words)


def _of(name: str, elements: Sequence[Any], words: Mapping[Any, str] | None = None) -> FiniteGroup:
    """Return the group of all these elements, in this order; motions have names of their own, others need `words`."""
    number = {element: i for i, element in enumerate(elements)}
    table = tuple(tuple(number[a * b] for b in elements) for a in elements)
    names = tuple(e.name if isinstance(e, Motion | Colour) else (words or {})[e] for e in elements)
    return FiniteGroup(name, names, table, tuple(elements))


def cyclic(n: int) -> FiniteGroup:
    """Return Cn: the rotations by multiples of 360°/n. C1, C2 and C4 are exact, the others interpolate."""
    _positive("C", n)
    return _of(f"C{n}", [Motion(Fraction(k, n)) for k in range(n)])


def dihedral(n: int) -> FiniteGroup:
    """Return Dn, of 2n elements: the rotations of Cn, and each of them after a left-right mirror."""
    _positive("D", n)
    return _of(f"D{n}", [Motion(Fraction(k, n), mirror) for mirror in (False, True) for k in range(n)])


def mirror_h() -> FiniteGroup:
    """Return the group of order 2 that swaps left and right."""
    return _of("mirror_h", [Motion(), Motion(mirror=True)])


def mirror_v() -> FiniteGroup:
    """Return the group of order 2 that swaps top and bottom."""
    return _of("mirror_v", [Motion(), Motion(Fraction(1, 2), mirror=True)])


def channel_permutations(n: int) -> FiniteGroup:
    """Return all n! permutations of n channels (n ≤ 5): `channel_permutations(3)` for the colours."""
    if not 1 <= n <= 5:
        raise GroupError(f"channels{n} would have {n}! elements: choose 1 to 5 channels, or channel_cycle({n})")
    return _of(f"channels{n}", [Motion(channels=p) for p in itertools.permutations(range(n))])


def channel_cycle(n: int) -> FiniteGroup:
    """Return the n cyclic shifts of n channels."""
    _positive("channel_cycle", n)
    return _of(f"channel_cycle{n}", [Motion(channels=tuple((c + k) % n for c in range(n))) for k in range(n)])


def hue(n: int) -> FiniteGroup:
    """Return the n rotations of red, green and blue about the grey axis by multiples of 360°/n; see `Colours`.

    That of order 3 is `channel_cycle(3)`, up to rounding.
    """
    _positive("hue", n)
    return _of(f"hue{n}", [Colour(Fraction(k, n)) for k in range(n)])


def negative() -> FiniteGroup:
    """Return the group of order 2 that takes the negative of a picture, 1 - x; see `Colours`."""
    return _of("negative", [Colour(), Colour(negative=True)])


_FAMILIES = {"C": cyclic, "D": dihedral, "channels": channel_permutations, "channel_cycle": channel_cycle, "hue": hue}
_SINGLE = {"mirror_h": mirror_h, "mirror_v": mirror_v, "negative": negative}
_KNOWN = (
    "C1, C2, C4, Cn, D4, Dn, mirror_h, mirror_v, channelsN, channel_cycleN, hueN, negative, and products as "
    "'C4 x channels3'"
)


def as_group(group: FiniteGroup | str) -> FiniteGroup:
    """Return the group itself, or the one with that name: "C4", "D4", "mirror_h", "C4 x channels3", …

    Raises GroupError for a name that is unknown or could mean two things.
    """
    if isinstance(group, FiniteGroup):
        return group
    if not isinstance(group, str):
        raise GroupError(f"a group is a FiniteGroup or a name, not {type(group).__name__}: try {_KNOWN}")
    return reduce(mul, [_named(part.strip()) for part in re.split(r" x | × ", group)])


def _named(name: str) -> FiniteGroup:
    if name in _SINGLE:
        return _SINGLE[name]()
    family = re.fullmatch(r"([A-Za-z_]+?)(\d{1,4})", name)
    if family and family[1] in _FAMILIES:
        return _FAMILIES[family[1]](int(family[2]))
    if re.search("flip|mirror|reflect", name.lower()):
        raise GroupError(
            f"{name!r} could mean two things: 'mirror_h' swaps left and right, 'mirror_v' swaps top and bottom. "
            f"(The rotation by 180° is 'C2'; those by 90° with all mirrors are 'D4'.)"
        )
    close = difflib.get_close_matches(name.upper(), ["C1", "C2", "C4", "D4"], cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else "rotations by 90° are 'C4'. " if "rot" in name.lower() else ""
    raise GroupError(f"unknown group {name!r}: {hint}Known are {_KNOWN}")


def _positive(family: str, n: int) -> None:
    if n < 1:
        raise GroupError(f"{family}{n} is no group: the number must be at least 1")


def _check_elements(group: FiniteGroup) -> None:
    elements, names = group.elements, group.names
    if len(elements) != group.order or not all(isinstance(element, Hashable) for element in elements):
        raise GroupError(f"{group.name} needs {group.order} hashable elements, one per name, but has {len(elements)}")
    if not all(isinstance(element, Motion) for element in elements):
        return
    for g, h in itertools.product(range(group.order), repeat=2):
        product, said = elements[g] * elements[h], group.table[g][h]
        if product != elements[said]:
            raise GroupError(
                f"the motions of {group.name} do not follow its table: {names[g]} after {names[h]} is the motion "
                f"{product.name}, but the table says {names[said]}"
            )
