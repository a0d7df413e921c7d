"""The axioms of a finite group, checked on its product table; a breach names the elements that commit it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from equivariant.errors import GroupError

Table = Sequence[Sequence[int]]
Names = Sequence[str]


def check(name: str, names: Names, table: Table) -> tuple[int, tuple[int, ...]]:
    """Return the identity and the inverse of each element; raises GroupError if the table is no group's."""
    _check_closed(name, names, table)
    identity = _find_identity(name, table)
    inverses = _find_inverses(name, names, table, identity)
    _check_associative(name, names, table, identity)
    return identity, inverses


def _check_closed(name: str, names: Names, table: Table) -> None:
    n = len(names)
    if n == 0:
        raise GroupError(f"{name} is no group: it has no elements, and an identity is needed")
    if len(set(names)) != n:
        twice = next(one for one in names if names.count(one) > 1)
        raise GroupError(f"{name} has two elements named {twice!r}: names must differ")
    if len(table) != n or any(len(row) != n for row in table):
        lengths = [len(row) for row in table]
        raise GroupError(f"{name} has {n} elements, so its table is {n} x {n}, but its rows are {lengths} long")
    for g, h in itertools.product(range(n), repeat=2):
        product = table[g][h]
        if not (isinstance(product, int) and 0 <= product < n):
            raise GroupError(
                f"{name} is not closed: {names[g]}*{names[h]} is {product!r}, not an element's number (0 to {n - 1})"
            )


def _find_identity(name: str, table: Table) -> int:
    everything = list(range(len(table)))
    for e in everything:
        if list(table[e]) == everything and [row[e] for row in table] == everything:
            return e
    raise GroupError(f"{name} has no identity: no element e has e*g = g = g*e for every g")


def _find_inverses(name: str, names: Names, table: Table, identity: int) -> tuple[int, ...]:
    inverses = []
    for g, row in enumerate(table):
        found = [h for h, product in enumerate(row) if product == identity == table[h][g]]
        if not found:
            one, e = names[g], names[identity]
            raise GroupError(f"{name}: {one} has no inverse, no h with {one}*h = {e} = h*{one}")
        inverses.append(found[0])
    return tuple(inverses)


def _check_associative(name: str, names: Names, table: Table, identity: int) -> None:
    """Light's test: (g*a)*h = g*(a*h) need only be tried for a in a set that generates everything."""
    reached: set[int] = {identity}
    for a in range(len(table)):
        if a in reached:
            continue
        for g, h in itertools.product(range(len(table)), repeat=2):
            left, right = table[table[g][a]][h], table[g][table[a][h]]
            if left != right:
                x, y, z = names[g], names[a], names[h]
                raise GroupError(
                    f"{name} is not associative: ({x}*{y})*{z} is {names[left]}, but {x}*({y}*{z}) is {names[right]}"
                )
        fresh = {a}
        while fresh:
            reached |= fresh
            fresh = {table[g][h] for g in reached for h in reached} - reached
