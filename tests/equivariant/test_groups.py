"""Groups: every axiom over every element, and refusals that name what is wrong."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from equivariant.errors import GroupError
from equivariant.groups import FiniteGroup, as_group, from_generators
from equivariant.motions import Motion

NAMES = {
    "C1": 1,
    "C2": 2,
    "C3": 3,
    "C4": 4,
    "C8": 8,
    "D1": 2,
    "D2": 4,
    "D3": 6,
    "D4": 8,
    "D6": 12,
    "mirror_h": 2,
    "mirror_v": 2,
    "channels3": 6,
    "channel_cycle3": 3,
    "C4 x channels3": 24,
    "mirror_h x mirror_v": 4,
    "C2 x mirror_h x channel_cycle3": 12,
}


@pytest.mark.parametrize("name", NAMES)
def test_axioms_hold_over_all_elements(name: str) -> None:
    group = as_group(name)
    everything = range(group.order)
    assert group.order == len(group) == NAMES[name]
    assert sorted(group.product(g, h) for g in [group.identity] for h in everything) == list(everything)
    for g, h, k in product(everything, repeat=3):
        assert group.product(group.product(g, h), k) == group.product(g, group.product(h, k))
    for g in everything:
        assert group.product(g, group.identity) == g == group.product(group.identity, g)
        assert group.product(g, group.inverse(g)) == group.identity == group.product(group.inverse(g), g)


def test_motions_follow_the_table() -> None:
    group = as_group("D4 x channels3")
    for g, h in product(range(group.order), repeat=2):
        assert group.elements[g] * group.elements[h] == group.elements[group.product(g, h)]


def test_the_eight_elements_of_d4() -> None:
    names = ("e", "r90", "r180", "r270", "mirror_h", "mirror_d", "mirror_v", "mirror_a")
    assert as_group("D4").names == names
    assert as_group("D4").exact
    assert not as_group("C8").exact


def test_own_group_from_a_table() -> None:
    klein = FiniteGroup("klein", "eabc", [[g ^ h for h in range(4)] for g in range(4)])
    assert klein.inverses == (0, 1, 2, 3)
    assert klein.index("c") == 3
    with pytest.raises(GroupError, match="no element 'd': its elements are e, a, b, c"):
        klein.index("d")


def test_own_group_from_generators() -> None:
    assert set(from_generators("x", [Motion.rotation(90), Motion(mirror=True)]).elements) == set(
        as_group("D4").elements
    )

    class Mod7(int):
        def __mul__(self, other: int) -> Mod7:
            return Mod7(int(self) * int(other) % 7)

    units = from_generators("units of 7", {"three": Mod7(3)})
    assert units.order == 6
    assert units.elements[units.identity] == 1
    assert units.names[units.identity] == "e"
    with pytest.raises(GroupError, match="more than 1024"):
        from_generators("integers", {"half": Fraction(1, 2)})


BAD = {
    "closed": [[0, 1], [1, 2]],
    "no identity": [[1, 0], [0, 0]],
    "a has no inverse": [[0, 1, 2], [1, 1, 1], [2, 1, 0]],
    # A loop: identity and two-sided inverses, but (a*a)*b = b and a*(a*b) = d.
    "not associative": [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]],
    "rows are": [[0, 1], [1]],
}


@pytest.mark.parametrize("axiom", BAD)
def test_wrong_tables_are_refused_with_the_axiom(axiom: str) -> None:
    table = BAD[axiom]
    with pytest.raises(GroupError, match=axiom):
        FiniteGroup("wrong", "eabcd"[: len(table)], table)


def test_broken_associativity_names_the_elements() -> None:
    with pytest.raises(GroupError, match=r"\(a\*a\)\*b is b, but a\*\(a\*b\) is d"):
        FiniteGroup("loop", "eabcd", BAD["not associative"])


def test_motions_that_contradict_the_table_are_refused() -> None:
    with pytest.raises(GroupError, match="r90 after r90 is the motion r180"):
        FiniteGroup("wrong", ("e", "r90"), ((0, 1), (1, 0)), (Motion(), Motion.rotation(90)))


@pytest.mark.parametrize("name", ["flip", "Flip", "mirror", "hflip", "reflection"])
def test_a_bare_flip_is_refused_with_what_it_could_mean(name: str) -> None:
    with pytest.raises(GroupError, match="'mirror_h' swaps left and right, 'mirror_v' swaps top and bottom"):
        as_group(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("c4", "did you mean 'C4'"),
        ("rot90", "'C4'"),
        ("SO2", "Known are"),
        ("C0", "at least 1"),
        ("channels9", "1 to 5"),
    ],
)
def test_unknown_names_get_a_hint(name: str, hint: str) -> None:
    with pytest.raises(GroupError, match=hint):
        as_group(name)


def test_not_a_group_at_all() -> None:
    with pytest.raises(GroupError, match="not int"):
        as_group(4)  # type: ignore[arg-type]
    with pytest.raises(GroupError, match="no elements"):
        FiniteGroup("nothing", (), ())
    with pytest.raises(GroupError, match="two elements named 'e'"):
        FiniteGroup("twins", ("e", "e"), ((0, 1), (1, 0)))
    with pytest.raises(GroupError, match="not a permutation"):
        Motion(channels=(0, 2))


def test_factors_that_do_not_commute_have_no_direct_product() -> None:
    with pytest.raises(GroupError, match="do not commute.*D4"):
        as_group("C4 x mirror_h")


def test_fingerprint_is_of_what_the_group_does_not_of_its_name() -> None:
    assert as_group("C2 x mirror_h").fingerprint != as_group("D2").fingerprint
    assert as_group("mirror_h").fingerprint != as_group("mirror_v").fingerprint
    same = from_generators("quarter turns", [Motion.rotation(90)])
    assert same.fingerprint != as_group("C2").fingerprint
    assert as_group("C4").fingerprint == as_group("C4").fingerprint
