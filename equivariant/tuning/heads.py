"""Fit a linear head on every view of every image: what makes a mean over an orbit as accurate as an upright image.

A head fitted on upright images alone reads most views of an orbit badly, and their mean suffers. Fitted on all of them,
there is next to nothing left for λ to gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from equivariant.actions import Action, Trivial
from equivariant.checks.evaluation import Data, batches
from equivariant.errors import InputError
from equivariant.groups import FiniteGroup, cyclic
from equivariant.parts.surgery import device_of, evaluating
from equivariant.wrappers import find_wrapper

#: How strongly the weights of standardised features are held back; scikit-learn's 1/C.
PENALTY = 100.0


def fit_head(features: Tensor, labels: Tensor, classes: int | None = None, penalty: float = PENALTY) -> nn.Linear:
    """Return a linear head, fitted to features of views (N, |G|, D), or of images as they are (N, D), and labels (N,).

    A multinomial logistic regression in which each view is a sample: it minimises Σ -log p(y|z) + penalty/2 · |W|² over
    standardised features z, whose scaling is folded into the head. Raises InputError for shapes that do not fit.
    """
    if features.ndim not in (2, 3) or labels.shape != features.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"a head is fitted to features (N, |G|, D) or (N, D) and whole labels (N,), not {tuple(features.shape)} "
            f"and {labels.dtype} {tuple(labels.shape)}"
        )
    rows = features.detach().flatten(0, -2).double()
    targets = labels.repeat_interleave(len(rows) // len(labels)).to(rows.device)
    centre, deviation = rows.mean(0), rows.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1)
    count = int(targets.max()) + 1 if classes is None else classes
    with torch.enable_grad():
        weight, bias = _regression((rows - centre) / scale, targets, count, penalty)
    weight = weight / scale
    head = nn.Linear(rows.shape[1], count, device=rows.device, dtype=features.dtype).requires_grad_(False)
    head.weight.copy_(weight)
    head.bias.copy_(bias - weight @ centre)
    return head.requires_grad_(True)


def _regression(z: Tensor, targets: Tensor, count: int, penalty: float) -> tuple[Tensor, Tensor]:
    weight, bias = z.new_zeros(count, z.shape[1], requires_grad=True), z.new_zeros(count, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(functional.linear(z, weight, bias), targets)
        value = value + penalty / 2 / len(z) * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def head_of(model: nn.Module, trained: list[nn.Parameter]) -> nn.Linear:
    """Return the linear layer that these parameters are of; raises InputError if they are of anything else."""
    numbers = {id(parameter) for parameter in trained}
    found = [module for module in model.modules() if {id(p) for p in module.parameters(recurse=False)} & numbers]
    if len(found) == 1 and isinstance(found[0], nn.Linear) and found[0].bias is not None:
        return found[0]
    kinds = ", ".join(type(module).__name__ for module in found)
    raise InputError(f"stage 'fit_head' fits one linear layer with a bias, not {kinds}: train it by Stage('head')")


def views_at(
    head: nn.Linear, model: nn.Module, group: FiniteGroup, action: Action, data: Data, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return what the head is given for every view of every image (N, |G|, D), each by itself, and labels (N,)."""
    given: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    parts, truth = [], []
    try:
        with evaluating(model), _one_view(model):
            for images, labels in batches(data, device_of(model), batch_size):
                given.clear()
                for g in range(group.order):
                    model(action(group, g, images))
                parts.append(torch.stack(given, 1))
                truth.append(labels)
    finally:
        handle.remove()
    found = torch.cat(parts)
    if found.ndim != 3:
        raise InputError(f"the head is given {tuple(found.shape[2:])} for a view: stage 'fit_head' needs one vector")
    return found, torch.cat(truth)


@contextmanager
def _one_view(model: nn.Module) -> Iterator[None]:
    """Let the wrapper in a model, if there is one, answer from its input as it is given, for a while."""
    wrapper = find_wrapper(model)
    if wrapper is None:
        yield
        return
    group, action = wrapper.group, wrapper.input
    wrapper.group, wrapper.input = cyclic(1), Trivial()
    try:
        yield
    finally:
        wrapper.group, wrapper.input = group, action
