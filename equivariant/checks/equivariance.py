"""Check any model: is it equivariant, and how stable are its answers over an orbit?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from equivariant.actions import Action, Images
from equivariant.errors import InputError
from equivariant.groups import FiniteGroup, as_group
from equivariant.motions import Motion
from equivariant.outputs import Representation, check_batch, leaves, tensors
from equivariant.parts.surgery import evaluating
from equivariant.wrappers.base import OrbitWrapper

Model = Callable[[Tensor], Any]

#: Largest relative error allowed for exact elements, by the dtype of the input.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
INTERPOLATED_TOLERANCE = 0.1  #: and for interpolated elements, whatever the dtype


@dataclass(frozen=True)
class ElementErrors:
    """The equivariance error of each element of a group, relative to the size of the answer."""

    group: FiniteGroup
    errors: tuple[float, ...]

    @property
    def largest(self) -> float:
        """The error of the worst element."""
        return max(self.errors)

    @property
    def worst(self) -> str:
        """The name of the worst element."""
        return self.group.names[self.errors.index(self.largest)]

    def __str__(self) -> str:
        width = max(map(len, self.group.names))
        rows = [f"{name:<{width}}  {error:.2e}" for name, error in zip(self.group.names, self.errors, strict=True)]
        return "\n".join([f"relative equivariance error, {self.group.name}; worst: {self.worst}", *rows])


def equivariance_error(
    model: Model,
    group: FiniteGroup | str,
    x: Tensor,
    *,
    input: Action | None = None,
    output: Representation | None = None,
    float64: bool = False,
) -> ElementErrors:
    """Return max |M(g·x) - g∘M(x)| / max |M(x)| for every element g, the worst over the images of `x` (B, …).

    `input` and `output` say how the group acts; by default on images, and on the answer as a wrapper declares or as its
    shape says (`equivariant.outputs.by_shape`). The model is called in evaluation mode, without gradients, and is left
    as it was. `float64` checks a copy of it in
    double precision, in which an exact model errs by 1e-15, not 1e-7. An error is infinite where an answer is not a
    number. Raises InputError if the batch is empty or does not fit `input`, or the answer does not fit `output`.
    """
    group = as_group(group)
    input = input or input_action(model)
    output = output or (model.output if isinstance(model, OrbitWrapper) else None)
    check_batch(x)
    input.check(group, x)
    if float64:
        x, model = x.double(), copy.deepcopy(model).double() if isinstance(model, nn.Module) else model
    with evaluating(model):
        plain = leaves(output, model(x), x)
        errors = []
        for g in range(group.order):
            pairs = zip(plain, tensors(model(input(group, g, x))), strict=True)
            errors.append(max(relative_error(action(group, g, y), z) for (action, y), (_, z) in pairs))
    return ElementErrors(group, tuple(errors))


def assert_equivariant(
    model: Model,
    group: FiniteGroup | str,
    x: Tensor,
    *,
    tolerance: float | None = None,
    interpolated_tolerance: float = INTERPOLATED_TOLERANCE,
    **options: Any,
) -> None:
    """Raise AssertionError, naming the worst element, if a model is not equivariant on the batch `x`.

    `tolerance` holds for exact elements, by default 1e-5 in float32 and 1e-12 in float64 (see `TOLERANCE`),
    `interpolated_tolerance` for rotations that interpolate. Options as for `equivariance_error`.
    """
    found = equivariance_error(model, group, x, **options)
    dtype = torch.float64 if options.get("float64") else x.dtype
    allowed = tolerances(found.group, dtype, tolerance, interpolated_tolerance)
    excess = [error / limit if limit else error for error, limit in zip(found.errors, allowed, strict=True)]
    worst = excess.index(max(excess))
    if found.errors[worst] > allowed[worst]:
        raise AssertionError(
            f"not equivariant to {found.group.name}: the relative error is {found.errors[worst]:.2e} for element "
            f"{found.group.names[worst]}, above {allowed[worst]:.0e} ({str(dtype).removeprefix('torch.')}). If the "
            f"answer is a map or tokens, say so: output=Maps() or Tokens(prefix=…)\n{found}"
        )


@dataclass(frozen=True)
class ActionErrors:
    """How far an action is from act(g, act(h, x)) = act(gh, x), relative to `x`, over all pairs."""

    mean: float  #: mean |difference| / mean |x|, averaged over the pairs
    largest: float  #: max |difference| / max |x|, of the worst pair
    worst: tuple[str, str]  #: the names (g, h) of the worst pair


def action_error(group: FiniteGroup | str, action: Action, x: Tensor) -> ActionErrors:
    """Measure an action, also one of your own, on a batch `x` it fits: 0 if exact, small if interpolated."""
    group = as_group(group)
    means, largest, worst = [], -1.0, ("", "")
    for h in range(group.order):
        once = action(group, h, x)
        for g in range(group.order):
            straight, twice = action(group, group.product(g, h), x), action(group, g, once)
            difference = (straight.double() - twice.double()).abs()
            means.append(float(difference.mean() / straight.double().abs().mean().clamp(min=1e-300)))
            error = relative_error(straight.flatten()[None], twice.flatten()[None])
            if error > largest:
                largest, worst = error, (group.names[g], group.names[h])
    return ActionErrors(sum(means) / len(means), largest, worst)


# Answers over the orbit ----------------------------------------------------------------------------------


def orbit_answers(
    model: Model, group: FiniteGroup | str, images: Tensor | Iterable[Tensor], *, input: Action | None = None
) -> Tensor:
    """Return the class a model gives each view of each image, (|G|, N) int64.

    `images` is a batch (B, C, H, W), or an iterable of batches, of N images in all. The model returns class scores
    (B, K) and is called in evaluation mode, one element at a time. Raises InputError for other answers, for scores that
    are not a number, and if there are no images.
    """
    group, action = as_group(group), input or input_action(model)
    columns = []
    with evaluating(model):
        for batch in [images] if isinstance(images, Tensor) else images:
            check_batch(batch)
            views = [model(action(group, g, batch)) for g in range(group.order)]
            if views[0].ndim != 2:
                raise InputError(f"answers need class scores (B, K), but the model returned {tuple(views[0].shape)}")
            for name, scores in zip(group.names, views, strict=True):
                if scores.isnan().any():
                    raise InputError(f"the model returned NaN for element {name} of {group.name}: that is no answer")
            columns.append(torch.stack([scores.argmax(1) for scores in views]))
    if not columns:
        raise InputError("there are no images: give at least one batch")
    return torch.cat(columns, dim=1)


def orbit_consistency(answers: Tensor) -> float:
    """Return the share of images with the same answer over the whole orbit; `answers` is (|G|, N).

    >>> orbit_consistency(torch.tensor([[1, 2], [1, 3]]))
    0.5
    """
    _check_answers(answers)
    return float((answers == answers[:1]).all(0).double().mean())


def orbit_flip_rate(answers: Tensor, labels: Tensor, identity: int = 0) -> float:
    """Return the share of pairs (image, element but the identity) right on x and wrong on g·x.

    `answers` is (|G|, N), `labels` (N,); `identity` is the number of the identity. 0 for a group of order 1.

    >>> orbit_flip_rate(torch.tensor([[1, 2], [1, 3], [0, 2]]), torch.tensor([1, 2]))
    0.5
    """
    _check_answers(answers)
    if not 0 <= identity < len(answers):
        raise InputError(f"identity={identity!r} must be the number of an element, from 0 to {len(answers) - 1}")
    if labels.shape != answers.shape[1:]:
        raise InputError(f"labels are (N,), {tuple(answers.shape[1:])} here, not {tuple(labels.shape)}")
    right = answers == labels.to(answers.device)
    others = [g for g in range(len(answers)) if g != identity]
    return float((right[identity] & ~right[others]).double().mean()) if others else 0.0


# Tools ---------------------------------------------------------------------------------------------------


def input_action(model: Model) -> Action:
    """Return how a group acts on a model's input: as a wrapper declares, else as on images."""
    return model.input if isinstance(model, OrbitWrapper) else Images()


def relative_error(expected: Tensor, got: Tensor) -> float:
    """Return max |expected - got| / max |expected| over each item of the batch, the worst of them.

    Equal infinities differ by nothing; an item that expects 0 alone is measured absolutely; NaN counts as inf.
    """
    if expected.shape != got.shape:
        raise InputError(f"the answers for x and g·x differ in shape: {tuple(expected.shape)} and {tuple(got.shape)}")
    wide = torch.promote_types(expected.dtype, torch.float32)
    a, b = (y.to(wide).reshape(y.shape[0], -1) for y in (expected, got))
    difference = torch.where(a == b, 0, a - b).abs().amax(1)
    size = a.abs().masked_fill(~a.isfinite(), 0).amax(1)
    error = float((difference / torch.where(size > 0, size, 1)).max())
    return error if error == error else float("inf")


def _check_answers(answers: Tensor) -> None:
    if answers.ndim != 2 or not answers.numel():
        raise InputError(f"answers are (|G|, N) with at least one image, not {tuple(answers.shape)}")


def are_exact(group: FiniteGroup) -> list[bool]:
    """Return whether each element acts without interpolation."""
    return [not isinstance(element, Motion) or element.exact for element in group.elements]


def tolerances(
    group: FiniteGroup, dtype: torch.dtype, exact: float | None = None, interpolated: float = INTERPOLATED_TOLERANCE
) -> list[float]:
    """Return the largest relative error allowed for each element: rounding in `dtype` for exact ones, else more."""
    exact = TOLERANCE.get(dtype, 1e-5) if exact is None else exact
    return [exact if without_loss else interpolated for without_loss in are_exact(group)]
