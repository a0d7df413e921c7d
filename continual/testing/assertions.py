"""What the laws are made of: comparisons that say what differs."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from continual.learning.answers import Prediction
from continual.testing.cases import Learner, reloaded


def expect(holds: bool, message: str) -> None:
    """Like `assert`, which an optimised Python would leave out."""
    if not holds:
        raise AssertionError(message)


def assert_same(expected: Prediction, got: Prediction, what: str) -> None:
    """Two predictions have the same bits."""
    for field in fields(Prediction):
        a, b = getattr(expected, field.name), getattr(got, field.name)
        expect(torch.equal(a, b) if isinstance(a, Tensor) else a == b, f"{what}: {field.name} {a} became {b}")


def assert_close(a: Prediction, b: Prediction, within: float = 1e-5) -> None:
    """Two predictions have the same labels and adapters, and scores that differ by `within` at most."""
    expect(a.labels == b.labels, f"labels {a.labels} became {b.labels}")
    worst = float((a.scores - b.scores).abs().max())
    expect(worst <= within, f"scores differ by {worst:.2g}, more than {within:g}")
    if a.stack is not None and b.stack is not None:
        expect(torch.equal(a.stack, b.stack), f"adapters {a.stack.tolist()} became {b.stack.tolist()}")


def assert_valid(learner: Learner, images: Tensor) -> None:
    """The learner's answers are classes it knows, its scores shares that sum to one."""
    answer = learner.predict(images)
    expect(set(answer.labels) <= set(learner.classes), f"answers {answer.labels} are not among {learner.classes}")
    expect(bool(torch.isfinite(answer.scores).all()), "scores are not finite")
    expect(bool((answer.scores >= 0).all()), "scores are negative")
    sums = answer.scores.sum(-1)
    expect(torch.allclose(sums, torch.ones_like(sums), atol=1e-4), f"scores sum to {sums.tolist()}, not to 1")


def survives_a_file(learner: Learner, images: Tensor) -> None:
    """The learner answers the same after it was saved and loaded."""
    assert_same(learner.predict(images), reloaded(learner).predict(images), "the loaded learner answers otherwise")


def rows(prediction: Prediction, order: Tensor) -> Prediction:
    """Return the prediction of some of its images."""
    taken = {f.name: getattr(prediction, f.name) for f in fields(Prediction)}
    taken = {name: value[order] for name, value in taken.items() if isinstance(value, Tensor)}
    return replace(prediction, labels=[prediction.labels[i] for i in order.tolist()], **taken)


@contextmanager
def unchanged(learner: Learner, images: Tensor) -> Iterator[None]:
    """Check that the block changes neither the learner's answers nor its tensors, by a bit."""
    answers, (tensors, values) = learner.predict(images), copy.deepcopy(learner.export())
    yield
    assert_same(answers, learner.predict(images), "the learner changed")
    now, values_now = learner.export()
    expect(now.keys() == tensors.keys() and values_now == values, "what the learner remembers changed")
    changed = [name for name in tensors if not torch.equal(tensors[name], now[name])]
    expect(not changed, f"tensors changed: {changed}")


@contextmanager
def refused(kind: type[BaseException], what: str) -> Iterator[None]:
    """The block raises `kind`."""
    try:
        yield
    except kind:
        return
    except Exception as error:
        raise AssertionError(f"{what} raised {type(error).__name__} ({error}), not {kind.__name__}") from error
    raise AssertionError(f"{what} was accepted, {kind.__name__} expected")


def random_state() -> tuple[Any, ...]:
    """Return the global generators' states, in a form that can be compared."""
    return torch.random.get_rng_state().tolist(), random.getstate(), str(np.random.get_state(legacy=False))


def leaves(loss: Tensor) -> list[Tensor]:
    """Return the parameters that a backward pass from `loss` would reach."""
    leaves, seen, todo = [], set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        todo.extend(following for following, _ in node.next_functions)
    return leaves
