"""What fields declare: which part of a class is left out, and what a file holds of a value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from continual.methods import method, methods
from continual.seeding import generator
from continual.statistics.class_statistics import ClassStatistics, fit
from continual.statistics.fields import check, pack, per_class, size, transient, unpack, without
from continual.testing import coloured_squares, tiny_backbone

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 8, "bottleneck": 4, "alignment_epochs": 1, "projection": 30}
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in methods()} | {
    "mos with a symmetry that learns": ("mos", {"group": "C4", "symmetry": "lambda_equitune"}),
    "mos with centroids": ("mos", {"statistics": "centroids", "statistics_components": 2}),
    "ranpac without an adapter": ("ranpac", {"epochs": 0}),
}


@pytest.fixture(scope="module", params=CASES)
def state(request: pytest.FixtureRequest) -> Any:
    """What a method has learned in two experiences."""
    name, settings = CASES[request.param]
    known = method(name).settings_type.model_fields
    learner = method(name)(tiny_backbone(), **{k: v for k, v in {**QUICK, **settings}.items() if k in known})
    for classes in ([0, 1], [2]):
        learner.learn(*coloured_squares(classes, 4))
    return learner.state


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same to the bit; what no file holds does not count."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if is_dataclass(one):
        held = [f.name for f in fields(one) if not f.metadata.get("transient")]
        return all(same(getattr(one, name), getattr(other, name)) for name in held)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# Files ---------------------------------------------------------------------------------------------------


def test_every_methods_state_survives_a_file(state: Any) -> None:
    tensors, values = pack(state)
    again = unpack(type(state), tensors, json.loads(json.dumps(values)))
    assert same(again, state)
    assert pack(again)[1] == values
    assert sum(size(tensors).values()) == sum(t.numel() * t.element_size() for t in tensors.values())


def test_a_new_state_survives_a_file() -> None:
    for kind in methods().values():
        assert same(unpack(kind.state_type, *pack(kind.state_type())), kind.state_type())


def test_a_part_that_is_missing_or_unknown_is_named(state: Any) -> None:
    """But for weights in a mapping: which there are, only their users know."""
    tensors, values = pack(state)
    mappings = {f.name for f in fields(state) if isinstance(getattr(state, f.name), Mapping)} | {"bank"}
    needed = [name for name in tensors if name.split("/")[0] not in mappings]
    for name in needed:
        if name in (
            "certainty/leverage",
            "certainty/largest",
            "certainty/own_weight",
        ):  # missing in older files
            continue
        rest = {other: tensor for other, tensor in tensors.items() if other != name}
        with pytest.raises((KeyError, TypeError, ValueError)):
            unpack(type(state), rest, values)
    for name in {place.rsplit("/", 1)[0] + "/" if "/" in place else "" for place in needed} | {""}:
        with pytest.raises((KeyError, TypeError, ValueError)):
            unpack(type(state), {**tensors, f"{name}unknown": torch.zeros(1)}, values)
    for name in ("classes", "class_experience", "experiences", "updates"):
        with pytest.raises((KeyError, TypeError, ValueError)):
            unpack(type(state), tensors, {part: value for part, value in values.items() if part != name})


@dataclass(frozen=True)
class Inner:
    first: Tensor
    second: Tensor | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner
    kinds_of: tuple[ClassStatistics, ...] = ()
    number: float = 1.5
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    nothing: Inner | None = None
    scratch: tuple[int, ...] = transient(())


def test_places_are_joined_and_json_tells_what_there_is() -> None:
    one = torch.zeros(2)
    statistics = fit(torch.randn(4, 3, generator=generator(0)), "diagonal")
    outer = Outer(Inner(one), (statistics,), 2.5, {"a": one}, scratch=(1, 2))
    tensors, values = pack(outer)
    assert set(tensors) == {"inner/first", "kinds_of/0/mean", "kinds_of/0/variance", "weights/a"}
    assert values == {"inner": {}, "kinds_of": [{"kind": "diagonal", "count": 4}], "number": 2.5, "weights": {}}
    again = unpack(Outer, tensors, values)
    assert same(again, outer)
    assert again.scratch == ()
    assert same(unpack(Inner, *pack(Inner(one, one))), Inner(one, one))


@pytest.mark.parametrize(
    ("tensors", "values"),
    [
        ({}, {"inner": {}}),
        ({"inner/second": torch.zeros(1)}, {"inner": {}}),
        ({"inner/first": torch.zeros(1)}, {}),
        ({"inner/first": torch.zeros(1)}, {"inner": {}, "kinds_of": [{"count": 4}]}),
        ({"inner/first": torch.zeros(1)}, {"inner": {}, "kinds_of": [{"kind": "unheard of", "count": 4}]}),
        ({"inner/first": torch.zeros(1)}, {"inner": {}, "kinds_of": [{"kind": "diagonal", "count": 4}]}),
        ({"inner/first": torch.zeros(1)}, {"inner": {}, "kinds_of": 3}),
        ({"inner/first": torch.zeros(1)}, {"inner": 3}),
        ({"inner/first": torch.zeros(1)}, None),
        ({"inner/first": torch.zeros(1), "other": torch.zeros(1)}, {"inner": {}}),
        ({"inner/first": torch.zeros(1)}, {"inner": {}, "other": 1}),
        ({"inner/first": torch.zeros(1)}, {"inner": {"other": "x"}}),
        ({"inner/first": torch.zeros(1), "inner/other": torch.zeros(1)}, {"inner": {}}),
    ],
    ids=str,
)
def test_what_is_not_whole_is_refused(tensors: dict[str, Tensor], values: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        unpack(Outer, tensors, values)


# Classes -------------------------------------------------------------------------------------------------


@given(data=st.data(), classes=st.integers(1, 5), dims=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_class_is_left_out_along_its_axis(data: st.DataObject, classes: int, dims: int, seed: int) -> None:
    """Of tensors along an axis counted from either end, of tuples, and of what has parts of its own."""
    axis = data.draw(st.integers(-dims, dims - 1))
    index = data.draw(st.integers(0, classes - 1))
    shape = [4, 3, 2][:dims]
    shape[axis] = classes

    @dataclass(frozen=True)
    class Part:
        along: Tensor = per_class(axis=axis)

    @dataclass(frozen=True)
    class Own:
        value: int

        def without(self, index: int) -> Own:
            return Own(self.value - index)

    @dataclass(frozen=True)
    class Whole:
        along: Tensor = per_class(axis=axis)
        names: tuple[str, ...] = per_class()
        part: Part | None = None
        own: Own | None = None
        absent: Tensor | None = per_class(default=None)
        other: Tensor | None = None

    tensor = torch.randn(shape, generator=generator(seed))
    names = tuple(map(str, range(classes)))
    whole = Whole(tensor, names, Part(tensor), Own(10), None, tensor)
    found = without(whole, index)
    expected = torch.from_numpy(np.delete(tensor.numpy(), index, axis))
    assert found.part is not None
    assert torch.equal(found.along, expected)
    assert torch.equal(found.part.along, expected)
    assert found.names == tuple(name for name in names if name != str(index))
    assert found.own == Own(10 - index)
    assert found.absent is None
    assert found.other is tensor
    assert whole.along is tensor
    assert whole.names == names


def test_a_state_without_a_class_holds_one_item_less_of_all_that_is_per_class(state: Any) -> None:
    """And nothing of what tells how sure a regression is: its columns are no classes."""
    left = state.without(1)
    if (known := getattr(state, "certainty", None)) is not None:
        share = 1 - state.sums.counts[1] / state.sums.counts.sum()
        assert left.certainty.errors is known.errors
        assert torch.equal(left.certainty.images, known.images * share)
        assert torch.equal(left.certainty.losses, known.losses * share)

    def compare(before: Any, after: Any) -> None:
        for each in fields(before):
            old, new = getattr(before, each.name), getattr(after, each.name)
            if old is None:
                continue
            if "axis" in each.metadata:
                lengths = (
                    (old.shape[each.metadata["axis"]], new.shape[each.metadata["axis"]])
                    if isinstance(old, Tensor)
                    else (len(old), len(new))
                )
                assert lengths == (3, 2), each.name
            elif is_dataclass(old) and each.name != "certainty":
                compare(old, new)

    compare(state, left)
    assert left.classes == (0, 2)
    assert same(unpack(type(left), *pack(left)), left)


def test_parts_of_other_shapes_are_named(state: Any) -> None:
    """In what says how it is shaped; the laws have every tensor of a file."""
    parts = [getattr(state, each.name) for each in fields(state)]
    for part in (part for part in parts if hasattr(part, "check_shapes")):
        for each in fields(part):
            if isinstance(own := getattr(part, each.name), Tensor):
                with pytest.raises(ValueError, match="of shape"):
                    check(replace(part, **{each.name: own[None]}), None)
